// The embedded dataset: a mixture of latent domains on which it matters who trains which expert.
#pragma once

#include "data/dataset.h"

namespace fedmoe {

// Latent z ~ N(0, I); x = [z, 0] + separation * mu_k + noise, mu_k a random unit vector of domain
// k; the label is the argmax of the centred logits of a teacher MLP latent-width(ReLU)-classes on
// z, then what the variant says. Deterministic in options and client_index. Client i's main domain
// is entry i mod K of a seeded permutation, so that every domain has a client as soon as there are
// K.
Dataset GenerateDomainsForClient(const DomainsOptions& options, int client_index);
// options.examples fresh examples, equally many of each domain (+-1), of a stream that no client
// draws from.
Dataset GenerateDomainsTest(const DomainsOptions& options);
// INVALID_ARGUMENT naming the option, its value and its range.
Status ValidateDomains(const DomainsOptions& options);

}  // namespace fedmoe
