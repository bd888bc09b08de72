// The embedded dataset: deterministic, and each variant is what docs/datasets.md says it is.
#include "data/domains.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/print_status.h"

namespace fedmoe {
namespace {

DomainsOptions Many(DomainsVariant variant) { return {.variant = variant, .examples = 4000}; }

std::span<const float> Row(const Dataset& dataset, std::size_t index) {
  const auto width = static_cast<std::size_t>(dataset.ExampleElements());
  return std::span(dataset.values).subspan(index * width, width);
}

// Mean of x over each domain.
std::vector<std::vector<double>> DomainMeans(const Dataset& dataset, int domains) {
  std::vector<std::vector<double>> means(
      static_cast<std::size_t>(domains),
      std::vector<double>(static_cast<std::size_t>(dataset.ExampleElements())));
  std::vector<double> counts(means.size());
  for (std::size_t i = 0; i < dataset.domains.size(); ++i) {
    const auto domain = static_cast<std::size_t>(dataset.domains[i]);
    counts[domain] += 1.0;
    const auto row = Row(dataset, i);
    for (std::size_t d = 0; d < row.size(); ++d) means[domain][d] += row[d];
  }
  for (std::size_t k = 0; k < means.size(); ++k) {
    for (double& value : means[k]) value /= counts[k];
  }
  return means;
}

// How often the nearest domain mean, over the dimensions that do not carry z, names the domain.
double NearestMeanAccuracy(DomainsVariant variant) {
  const DomainsOptions options = Many(variant);
  const Dataset test = GenerateDomainsTest(options);
  const auto means = DomainMeans(test, options.domains);
  double right = 0.0;
  for (std::size_t i = 0; i < test.domains.size(); ++i) {
    std::vector<double> distances;
    for (const auto& mean : means) {
      double distance = 0.0;
      for (std::size_t d = 4; d < mean.size(); ++d) {
        distance += std::pow(Row(test, i)[d] - mean[d], 2);
      }
      distances.push_back(distance);
    }
    const auto nearest = std::min_element(distances.begin(), distances.end()) - distances.begin();
    right += nearest == test.domains[i] ? 1.0 : 0.0;
  }
  return right / static_cast<double>(test.domains.size());
}

// Accuracy of a classifier fitted on the main domain of client `from`, by 1 nearest neighbour in z
// (x less its domain's mean), on domain `to` of the test set.
double TransferAccuracy(const DomainsOptions& options, int from, int to) {
  const Dataset test = GenerateDomainsTest(options);
  const auto means = DomainMeans(test, options.domains);
  std::vector<std::size_t> sources, targets;
  for (std::size_t i = 0; i < test.domains.size(); ++i) {
    // Every other example of a domain, so that sources and targets differ also where from == to.
    const bool even = i / static_cast<std::size_t>(options.domains) % 2 == 0;
    if (test.domains[i] == from && even) sources.push_back(i);
    if (test.domains[i] == to && !even) targets.push_back(i);
  }
  double right = 0.0;
  for (const std::size_t target : targets) {
    double best = INFINITY;
    std::int32_t label = -1;
    for (const std::size_t source : sources) {
      double distance = 0.0;
      for (std::size_t d = 0; d < 4; ++d) {
        const double a = Row(test, source)[d] - means[static_cast<std::size_t>(from)][d];
        const double b = Row(test, target)[d] - means[static_cast<std::size_t>(to)][d];
        distance += (a - b) * (a - b);
      }
      if (distance < best) {
        best = distance;
        label = test.labels[source];
      }
    }
    right += label == test.labels[target] ? 1.0 : 0.0;
  }
  return right / static_cast<double>(targets.size());
}

double MeanTransferBetweenDomains(DomainsVariant variant) {
  double sum = 0.0;
  for (int domain = 1; domain < 8; ++domain) sum += TransferAccuracy(Many(variant), 0, domain);
  return sum / 7.0;
}

TEST(DomainsTest, IsAFunctionOfOptionsAndClient) {
  const DomainsOptions options;
  const Dataset first = GenerateDomainsForClient(options, 3);
  const Dataset again = GenerateDomainsForClient(options, 3);
  EXPECT_EQ(first.values, again.values);
  EXPECT_EQ(first.labels, again.labels);
  EXPECT_EQ(first.domains, again.domains);
  EXPECT_NE(first.values, GenerateDomainsForClient(options, 4).values);
  // The same main domain, but other examples.
  EXPECT_NE(first.values, GenerateDomainsForClient(options, 11).values);
  DomainsOptions other = options;
  other.seed = 2;
  EXPECT_NE(first.values, GenerateDomainsForClient(other, 3).values);
  EXPECT_EQ(GenerateDomainsTest(options).values, GenerateDomainsTest(options).values);
}

TEST(DomainsTest, FillsTheDataset) {
  const Dataset data = GenerateDomainsForClient({}, 0);
  EXPECT_EQ(data.name, "domains");
  EXPECT_THAT(data.shape, ::testing::ElementsAre(32));
  EXPECT_EQ(data.classes, 8);
  EXPECT_EQ(data.size(), 512);
  EXPECT_EQ(data.values.size(), 512u * 32);
  EXPECT_EQ(data.domains.size(), 512u);
  EXPECT_TRUE(data.pixels.empty());
  std::vector<float> features(32);
  data.CopyExample(511, features);
  EXPECT_THAT(features, ::testing::ElementsAreArray(Row(data, 511)));
}

TEST(DomainsTest, AClientHasItsMainDomainAndAShareOfOneOther) {
  for (const double mix : {0.0, 0.2, 0.5}) {
    for (int client = 0; client < 20; ++client) {
      const Dataset data = GenerateDomainsForClient({.mix = mix}, client);
      std::map<int, int> counts;
      for (const int domain : data.domains) ++counts[domain];
      EXPECT_EQ(counts.size(), mix > 0.0 ? 2u : 1u);
      int least = 512;
      for (const auto& [domain, count] : counts) least = std::min(least, count);
      if (mix > 0.0) {
        EXPECT_EQ(least, static_cast<int>(mix * 512 + 0.5));
      }
    }
  }
}

TEST(DomainsTest, EveryDomainHasAClientAsSoonAsThereAreAsMany) {
  std::set<int> mains;
  for (int client = 0; client < 8; ++client) {
    const int main_domain = GenerateDomainsForClient({.mix = 0.0}, client).domains[0];
    mains.insert(main_domain);
    EXPECT_EQ(GenerateDomainsForClient({.mix = 0.0}, client + 8).domains[0], main_domain);
  }
  EXPECT_EQ(mains.size(), 8u);
}

TEST(DomainsTest, TheTestSetIsBalancedOverDomains) {
  std::map<int, int> counts;
  for (const int domain : GenerateDomainsTest({.examples = 1003}).domains) ++counts[domain];
  ASSERT_EQ(counts.size(), 8u);
  for (const auto& [domain, count] : counts) EXPECT_TRUE(count == 125 || count == 126) << count;
}

TEST(DomainsTest, XIsLatentPlusOffsetPlusNoise) {
  const DomainsOptions options = Many(DomainsVariant::kPermuted);
  const Dataset test = GenerateDomainsTest(options);
  const auto means = DomainMeans(test, options.domains);
  for (std::size_t domain = 0; domain < 8; ++domain) {
    double length = 0.0;
    for (std::size_t d = 4; d < 32; ++d) length += means[domain][d] * means[domain][d];
    EXPECT_LT(std::sqrt(length), 3.1);
    EXPECT_GT(std::sqrt(length), 2.0);  // the four latent dimensions hold the rest
  }
  std::vector<double> squares(32);
  for (std::size_t i = 0; i < test.domains.size(); ++i) {
    for (std::size_t d = 0; d < 32; ++d) {
      const double gap = Row(test, i)[d] - means[static_cast<std::size_t>(test.domains[i])][d];
      squares[d] += gap * gap / static_cast<double>(test.domains.size());
    }
  }
  for (std::size_t d = 0; d < 4; ++d) EXPECT_NEAR(squares[d], 1.01, 0.1);
  for (std::size_t d = 4; d < 32; ++d) EXPECT_NEAR(std::sqrt(squares[d]), 0.1, 0.01);
}

TEST(DomainsTest, TheInputTellsTheDomainExceptWhereItIsHidden) {
  EXPECT_GT(NearestMeanAccuracy(DomainsVariant::kPermuted), 0.99);
  EXPECT_GT(NearestMeanAccuracy(DomainsVariant::kConcept), 0.99);
  EXPECT_GT(NearestMeanAccuracy(DomainsVariant::kCovariate), 0.99);
  EXPECT_LT(NearestMeanAccuracy(DomainsVariant::kHidden), 0.25);
}

// What is learned on one domain serves on another only where the labelling is one function.
TEST(DomainsTest, LabelsAgreeBetweenDomainsOnlyInCovariate) {
  EXPECT_GT(TransferAccuracy(Many(DomainsVariant::kPermuted), 0, 0), 0.6);
  EXPECT_GT(MeanTransferBetweenDomains(DomainsVariant::kCovariate), 0.6);
  EXPECT_LT(MeanTransferBetweenDomains(DomainsVariant::kPermuted), 0.4);
  EXPECT_LT(MeanTransferBetweenDomains(DomainsVariant::kHidden), 0.4);
  EXPECT_LT(MeanTransferBetweenDomains(DomainsVariant::kConcept), 0.4);
}

// Permuted and covariate draw the same z, so their labels differ by exactly the permutation of the
// domain.
TEST(DomainsTest, EachDomainPermutesTheLabelsInItsOwnWay) {
  const Dataset permuted = GenerateDomainsTest(Many(DomainsVariant::kPermuted));
  const Dataset plain = GenerateDomainsTest(Many(DomainsVariant::kCovariate));
  std::vector<std::map<int, std::set<int>>> images(8);
  for (std::size_t i = 0; i < plain.labels.size(); ++i) {
    images[static_cast<std::size_t>(plain.domains[i])][plain.labels[i]].insert(permuted.labels[i]);
  }
  std::set<std::vector<int>> permutations;
  for (const auto& domain : images) {
    std::vector<int> permutation;
    for (const auto& [label, others] : domain) {
      ASSERT_EQ(others.size(), 1u);
      permutation.push_back(*others.begin());
    }
    permutations.insert(permutation);
    std::sort(permutation.begin(), permutation.end());
    EXPECT_THAT(permutation, ::testing::ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  }
  EXPECT_EQ(permutations.size(), 8u);
}

// Entropy of the labels over that of a uniform choice. Without centring the mean over these seeds
// is 0.60.
TEST(DomainsTest, CentringBalancesTheLabelsRoughly) {
  double sum = 0.0;
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    DomainsOptions options = Many(DomainsVariant::kCovariate);
    options.seed = seed;
    std::map<int, double> shares;
    for (const int label : GenerateDomainsTest(options).labels) shares[label] += 1.0 / 4000;
    double entropy = 0.0;
    for (const auto& [label, share] : shares) entropy -= share * std::log(share) / std::log(8.0);
    EXPECT_GT(entropy, 0.7);
    sum += entropy;
  }
  EXPECT_GT(sum / 10.0, 0.8);
}

TEST(DomainsTest, WithFewerPermutationsThanDomainsSomeRepeat) {
  const Dataset test = GenerateDomainsTest({.classes = 2, .examples = 64});
  EXPECT_EQ(test.size(), 64);
  EXPECT_LT(*std::max_element(test.labels.begin(), test.labels.end()), 2);
}

TEST(DomainsTest, OneDomainNeedsNoOther) {
  const Dataset data = GenerateDomainsForClient({.domains = 1, .mix = 0.5}, 2);
  EXPECT_THAT(data.domains, ::testing::Each(0));
}

struct RangeCase {
  const char* name;
  DomainsOptions options;
  const char* message;
};

class DomainsRangeTest : public ::testing::TestWithParam<RangeCase> {};

TEST_P(DomainsRangeTest, NamesTheOptionItsRangeAndItsValue) {
  EXPECT_EQ(ValidateDomains(GetParam().options), InvalidArgument(GetParam().message));
}

const RangeCase kRangeCases[] = {
    {"Domains", {.domains = 0}, "data.domains.domains must be in 1 to 1024 (got 0)"},
    {"Latent",
     {.latent_dimensions = 33},
     "data.domains.latent_dimensions must be in 1 to data.domains.dimensions (got 33 of 32)"},
    {"Dimensions", {.dimensions = 5000}, "data.domains.dimensions must be in 1 to 4096 (got 5000)"},
    {"Classes", {.classes = 1}, "data.domains.classes must be in 2 to 1024 (got 1)"},
    {"Width", {.teacher_width = 0}, "data.domains.teacher_width must be in 1 to 4096 (got 0)"},
    {"Separation", {.separation = -0.5}, "data.domains.separation must be in 0 to 1000 (got -0.5)"},
    {"Noise", {.noise = NAN}, "data.domains.noise must be in 0 to 1000 (got nan)"},
    {"Mix", {.mix = 1.5}, "data.domains.mix must be in 0 to 1 (got 1.5)"},
    {"Examples", {.examples = 0}, "data.domains.examples must be in 1 to 10000000 (got 0)"},
    {"Size",
     {.dimensions = 4096, .examples = 65537},
     "data.domains.examples * data.domains.dimensions must be at most 268435456 (got 268439552)"},
};

INSTANTIATE_TEST_SUITE_P(Cases, DomainsRangeTest, ::testing::ValuesIn(kRangeCases),
                         [](const auto& param) { return param.param.name; });

TEST(DomainsTest, TheDefaultsAreValid) { EXPECT_TRUE(ValidateDomains({}).ok()); }

}  // namespace
}  // namespace fedmoe
