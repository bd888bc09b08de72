// Partitions: laws that hold for every seed, and every error word for word.
#include "data/partition.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/print_status.h"

namespace fedmoe {
namespace {

using Parts = std::vector<std::vector<std::int64_t>>;

std::vector<std::int32_t> RandomLabels(std::mt19937_64& random, int examples, int classes) {
  std::vector<std::int32_t> labels(static_cast<std::size_t>(examples));
  for (auto& label : labels) {
    label = static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(classes));
  }
  return labels;
}

// `examples` labels, as many of each class as can be.
std::vector<std::int32_t> EvenLabels(int examples, int classes) {
  std::vector<std::int32_t> labels(static_cast<std::size_t>(examples));
  for (int i = 0; i < examples; ++i) labels[static_cast<std::size_t>(i)] = i % classes;
  return labels;
}

void ExpectEveryIndexOnceAndAscending(const Parts& parts, std::size_t examples) {
  std::vector<int> seen(examples);
  for (const auto& part : parts) {
    EXPECT_TRUE(std::is_sorted(part.begin(), part.end()));
    for (const std::int64_t index : part) ++seen.at(static_cast<std::size_t>(index));
  }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int times) { return times == 1; }));
}

std::vector<std::vector<int>> ClassCounts(const Parts& parts,
                                          const std::vector<std::int32_t>& labels, int classes) {
  std::vector<std::vector<int>> counts(parts.size(),
                                       std::vector<int>(static_cast<std::size_t>(classes)));
  for (std::size_t client = 0; client < parts.size(); ++client) {
    for (const std::int64_t index : parts[client]) {
      ++counts[client][static_cast<std::size_t>(labels[static_cast<std::size_t>(index)])];
    }
  }
  return counts;
}

// Runs `check` on 50 seeds, each of which is printed if it fails.
template <typename Check>
void ForRandomCases(Check check) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    check(random, seed);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(PartitionTest, IidPartsDifferByAtMostOne) {
  ForRandomCases([](std::mt19937_64& random, std::uint64_t seed) {
    const int clients = 1 + static_cast<int>(random() % 20);
    const auto labels = RandomLabels(random, clients * 10 + static_cast<int>(random() % 300), 7);
    const PartitionOptions options = {
        .kind = PartitionKind::kIid, .clients = clients, .seed = seed};
    const auto parts = PartitionExamples(labels, 7, options);
    ASSERT_TRUE(parts.ok()) << parts.status().ToString();
    ASSERT_EQ(parts->size(), static_cast<std::size_t>(clients));
    ExpectEveryIndexOnceAndAscending(*parts, labels.size());
    for (const auto& part : *parts) {
      EXPECT_GE(part.size(), labels.size() / static_cast<std::size_t>(clients));
      EXPECT_LE(part.size(), labels.size() / static_cast<std::size_t>(clients) + 1);
    }
  });
}

TEST(PartitionTest, EachClientGetsItsNumberOfClassesDealtEvenly) {
  ForRandomCases([](std::mt19937_64& random, std::uint64_t seed) {
    const int classes = 2 + static_cast<int>(random() % 9);
    const int per_client = 1 + static_cast<int>(random() % static_cast<std::uint64_t>(classes));
    const int clients = (classes + per_client - 1) / per_client + static_cast<int>(random() % 12);
    const auto labels = EvenLabels(classes * 60, classes);
    const PartitionOptions options = {.kind = PartitionKind::kClassesPerClient,
                                      .clients = clients,
                                      .classes_per_client = per_client,
                                      .min_examples = 1,
                                      .seed = seed};
    const auto parts = PartitionExamples(labels, classes, options);
    ASSERT_TRUE(parts.ok()) << parts.status().ToString();
    ExpectEveryIndexOnceAndAscending(*parts, labels.size());
    const auto counts = ClassCounts(*parts, labels, classes);
    std::vector<int> holders(static_cast<std::size_t>(classes));
    for (const auto& client : counts) {
      EXPECT_EQ(std::count_if(client.begin(), client.end(), [](int n) { return n > 0; }),
                per_client);
      for (std::size_t c = 0; c < client.size(); ++c) holders[c] += client[c] > 0 ? 1 : 0;
    }
    const auto [least, most] = std::minmax_element(holders.begin(), holders.end());
    EXPECT_LE(*most - *least, 1);
    for (const auto& client : counts) {
      for (std::size_t c = 0; c < client.size(); ++c) {
        if (client[c] == 0) continue;
        EXPECT_GE(client[c], 60 / holders[c]);
        EXPECT_LE(client[c], 60 / holders[c] + 1);
      }
    }
  });
}

TEST(PartitionTest, ClassesWithoutExamplesAreNotDealt) {
  std::vector<std::int32_t> labels(40, 3);
  std::fill(labels.begin(), labels.begin() + 20, 8);
  const PartitionOptions options = {
      .kind = PartitionKind::kClassesPerClient, .clients = 2, .classes_per_client = 1};
  const auto parts = PartitionExamples(labels, 10, options);
  ASSERT_TRUE(parts.ok()) << parts.status().ToString();
  EXPECT_EQ((*parts)[0].size(), 20u);
  EXPECT_EQ((*parts)[1].size(), 20u);
}

TEST(PartitionTest, DirichletGivesEveryClientItsLeastShare) {
  ForRandomCases([](std::mt19937_64& random, std::uint64_t seed) {
    const int clients = 2 + static_cast<int>(random() % 10);
    const auto labels = RandomLabels(random, 3000, 10);
    const PartitionOptions options = {.kind = PartitionKind::kDirichlet,
                                      .clients = clients,
                                      .alpha = 0.3,
                                      .min_examples = 25,
                                      .seed = seed};
    const auto parts = PartitionExamples(labels, 10, options);
    ASSERT_TRUE(parts.ok()) << parts.status().ToString();
    ASSERT_EQ(parts->size(), static_cast<std::size_t>(clients));
    ExpectEveryIndexOnceAndAscending(*parts, labels.size());
    for (const auto& part : *parts) EXPECT_GE(part.size(), 25u);
  });
}

// Mean over clients of the share of their most frequent class: 1/classes when even, 1 when each has
// one class.
double Skew(double alpha) {
  const auto labels = EvenLabels(10000, 10);
  const PartitionOptions options = {
      .kind = PartitionKind::kDirichlet, .clients = 10, .alpha = alpha, .min_examples = 1};
  const auto parts = PartitionExamples(labels, 10, options);
  EXPECT_TRUE(parts.ok()) << parts.status().ToString();
  double sum = 0.0;
  for (const auto& client : ClassCounts(*parts, labels, 10)) {
    double examples = 0.0;
    for (const int count : client) examples += count;
    sum += *std::max_element(client.begin(), client.end()) / examples;
  }
  return sum / 10.0;
}

TEST(PartitionTest, DirichletsAlphaSetsTheSkew) {
  EXPECT_LT(Skew(1000.0), 0.15);
  EXPECT_GT(Skew(0.1), 0.5);
  EXPECT_GT(Skew(0.3), Skew(5.0));
}

TEST(PartitionTest, AVanishingAlphaGivesEachClassToOneClient) {
  const auto labels = EvenLabels(100, 10);
  const PartitionOptions options = {
      .kind = PartitionKind::kDirichlet, .clients = 2, .alpha = 1e-6, .min_examples = 1};
  const auto parts = PartitionExamples(labels, 10, options);
  ASSERT_TRUE(parts.ok()) << parts.status().ToString();
  for (const auto& client : ClassCounts(*parts, labels, 10)) {
    for (const int count : client) EXPECT_TRUE(count == 0 || count == 10) << count;
  }
}

TEST(PartitionTest, IsAFunctionOfLabelsAndOptions) {
  const auto labels = EvenLabels(1000, 10);
  for (const PartitionKind kind :
       {PartitionKind::kIid, PartitionKind::kClassesPerClient, PartitionKind::kDirichlet}) {
    PartitionOptions options = {.kind = kind, .clients = 5, .seed = 7};
    const auto first = PartitionExamples(labels, 10, options);
    ASSERT_TRUE(first.ok()) << first.status().ToString();
    EXPECT_EQ(*first, *PartitionExamples(labels, 10, options));
    options.seed = 8;
    EXPECT_NE(*first, *PartitionExamples(labels, 10, options));
  }
}

struct ErrorCase {
  const char* name;
  PartitionOptions options;
  const char* message;
};

class PartitionErrorTest : public ::testing::TestWithParam<ErrorCase> {};

// On 100 examples, 10 of each of 10 classes.
TEST_P(PartitionErrorTest, NamesTheOptionAndTheFix) {
  EXPECT_EQ(PartitionExamples(EvenLabels(100, 10), 10, GetParam().options).status(),
            InvalidArgument(GetParam().message));
}

const ErrorCase kErrorCases[] = {
    {"None", {}, "data.partition.kind must not be none to split a dataset over clients"},
    {"NoClients",
     {.kind = PartitionKind::kIid, .clients = 0},
     "data.partition.clients must be at least 1 (got 0)"},
    {"NegativeLeast",
     {.kind = PartitionKind::kIid, .min_examples = -1},
     "data.partition.min_examples must be at least 0 (got -1)"},
    {"Alpha",
     {.kind = PartitionKind::kDirichlet, .alpha = 0.0},
     "data.partition.alpha must be above 0 and finite (got 0)"},
    {"TooFewExamples",
     {.kind = PartitionKind::kIid, .clients = 11},
     "data.partition: 100 examples are too few for 11 clients of at least 10 each; lower "
     "data.partition.clients or data.partition.min_examples"},
    {"TooFewExamplesOfAtLeastOne",
     {.kind = PartitionKind::kIid, .clients = 101, .min_examples = 0},
     "data.partition: 100 examples are too few for 101 clients of at least 1 each; lower "
     "data.partition.clients or data.partition.min_examples"},
    {"TooManyClasses",
     {.kind = PartitionKind::kClassesPerClient, .clients = 2, .classes_per_client = 11},
     "data.partition.classes_per_client must be in 1 to 10, the classes that have examples (got "
     "11)"},
    {"ClassesLeftOver",
     {.kind = PartitionKind::kClassesPerClient, .clients = 3, .classes_per_client = 2},
     "data.partition: 3 clients of 2 classes each leave some of 10 classes to nobody; raise "
     "data.partition.classes_per_client or data.partition.clients"},
    {"ClassTooSmall",
     {.kind = PartitionKind::kClassesPerClient,
      .clients = 50,
      .classes_per_client = 10,
      .min_examples = 1},
     "data.partition: class 0 has 10 examples for the 50 clients that are to hold it; lower "
     "data.partition.clients or data.partition.classes_per_client"},
    {"DirichletNeverSatisfied",
     {.kind = PartitionKind::kDirichlet, .clients = 10, .alpha = 0.01, .min_examples = 10},
     "data.partition: no draw of 1000 gave each of 10 clients 10 of 100 examples at alpha 0.01; "
     "raise data.partition.alpha, or lower data.partition.clients or data.partition.min_examples"},
};

INSTANTIATE_TEST_SUITE_P(Cases, PartitionErrorTest, ::testing::ValuesIn(kErrorCases),
                         [](const auto& param) { return param.param.name; });

TEST(PartitionTest, RefusesALabelOutOfRange) {
  auto labels = EvenLabels(100, 10);
  labels[42] = 10;
  EXPECT_EQ(PartitionExamples(labels, 10, {.kind = PartitionKind::kIid}).status(),
            InvalidArgument("data.partition: label 10 of example 42 is outside 0 to 9"));
  labels[42] = -1;
  EXPECT_EQ(PartitionExamples(labels, 10, {.kind = PartitionKind::kIid}).status(),
            InvalidArgument("data.partition: label -1 of example 42 is outside 0 to 9"));
}

}  // namespace
}  // namespace fedmoe
