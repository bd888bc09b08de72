// What data a node trains or evaluates on. Plain options without a body, so that `config` may
// include this header.
#pragma once

#include <cstdint>
#include <string>

namespace fedmoe {

enum class DatasetKind {
  kDomains,  // "domains": the embedded, generated mixture of latent domains; needs no file
  kIdx,      // "idx": MNIST and its kin, IDX files, gzip or raw
};

// What the labels of a domain are made from; see docs/datasets.md.
enum class DomainsVariant {
  kPermuted,   // one teacher, the labels permuted by domain (default)
  kConcept,    // an independent teacher for each domain
  kCovariate,  // one labelling function: domains differ in the inputs only
  kHidden,     // as permuted, but the inputs do not tell the domain (no separation)
};

struct DomainsOptions {
  DomainsVariant variant = DomainsVariant::kPermuted;
  int domains = 8;
  int latent_dimensions = 4;
  int dimensions = 32;  // of x
  int classes = 8;
  int teacher_width = 8;
  double separation = 3.0;  // length of the domain's offset in x
  double noise = 0.1;       // standard deviation of the noise on x
  double mix = 0.2;         // share of a client's examples from one other domain
  int examples = 512;       // of one client before the hold-out, or of the test set
  std::uint64_t seed = 1;
};

enum class PartitionKind {
  kNone,              // "none": the node's own files, whole (a real fleet)
  kIid,               // "iid"
  kClassesPerClient,  // "classes_per_client"
  kDirichlet,         // "dirichlet"
};

// How an experiment splits one dataset over clients. Every node computes the same split from the
// same seed.
struct PartitionOptions {
  PartitionKind kind = PartitionKind::kNone;
  int clients = 1;
  double alpha = 0.3;          // dirichlet: concentration
  int classes_per_client = 2;  // classes_per_client
  int min_examples = 10;       // dirichlet: the smallest share that a client may get
  std::uint64_t seed = 1;
};

struct DataOptions {
  DatasetKind dataset = DatasetKind::kDomains;
  std::string path;      // idx: the folder that holds the four files
  int client_index = 0;  // which part of the partition, or which client of `domains`; from 0
  DomainsOptions domains;
  PartitionOptions partition;
  double holdout_fraction = 0.2;  // kept back from training for personalised accuracy; [0, 0.9]
};

}  // namespace fedmoe
