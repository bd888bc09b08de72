// Batches and their augmentation, and the loader that makes them ahead.
#include "data/batch.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/batch_loader.h"
#include "data/dataset.h"
#include "tests/data/print_status.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

// `count` images of 2 channels, 2x3: pixel p of image i is 10 i + p + 1, so that none is 0.
Dataset Images(int count) {
  Dataset data;
  data.name = "images";
  data.shape = {2, 2, 3};
  data.classes = 5;
  data.mean = {0.25f, 0.5f};
  data.deviation = {0.5f, 0.125f};
  for (int i = 0; i < count; ++i) {
    for (int p = 0; p < 12; ++p) data.pixels.push_back(static_cast<std::uint8_t>(10 * i + p + 1));
    data.labels.push_back(i % 5);
  }
  return data;
}

// The same images as floats of the same numbers, so that augmented pixels can be read off.
Dataset Values(int count) {
  Dataset data = Images(count);
  data.values.assign(data.pixels.begin(), data.pixels.end());
  data.pixels.clear();
  return data;
}

std::vector<std::int64_t> Order(std::int64_t count) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::vector<float> Augmented(const Dataset& data, const AugmentOptions& augment, std::uint64_t key,
                             std::int64_t index = 0) {
  ExampleBatch batch;
  EXPECT_EQ(MakeBatch(data, std::vector{index}, augment, key, batch), Status::Ok());
  return batch.features;
}

TEST(MakeBatchTest, NormalisesEachChannelAsCopyExampleDoes) {
  const Dataset data = Images(4);
  ExampleBatch batch;
  const std::vector<std::int64_t> indices = {3, 0, 3};
  ASSERT_EQ(MakeBatch(data, indices, {}, 1, batch), Status::Ok());
  EXPECT_EQ(batch.examples, 3);
  EXPECT_THAT(batch.labels, ElementsAre(3, 0, 3));
  ASSERT_EQ(batch.features.size(), 36u);
  std::vector<float> one(12);
  for (std::size_t i = 0; i < 3; ++i) {
    data.CopyExample(indices[i], one);
    EXPECT_TRUE(std::equal(one.begin(), one.end(),
                           batch.features.begin() + 12 * static_cast<std::ptrdiff_t>(i)));
  }
  EXPECT_FLOAT_EQ(batch.features[12], (1.0f / 255.0f - 0.25f) / 0.5f);
  EXPECT_FLOAT_EQ(batch.features[12 + 6], (7.0f / 255.0f - 0.5f) / 0.125f);
}

TEST(MakeBatchTest, ABatchIsWrittenOverTheOneBefore) {
  const Dataset data = Images(8);
  ExampleBatch batch, fresh;
  ASSERT_EQ(MakeBatch(data, Order(8), {}, 1, batch), Status::Ok());
  const float* memory = batch.features.data();
  ASSERT_EQ(MakeBatch(data, Order(2), {}, 1, batch), Status::Ok());
  ASSERT_EQ(MakeBatch(data, Order(2), {}, 1, fresh), Status::Ok());
  EXPECT_EQ(batch.features, fresh.features);
  EXPECT_EQ(batch.labels, fresh.labels);
  EXPECT_EQ(batch.examples, 2);
  EXPECT_EQ(batch.features.data(), memory);
}

TEST(MakeBatchTest, AFlipSwapsLeftAndRightInHalfOfTheCases) {
  const Dataset data = Values(1);
  const std::vector<float> same = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const std::vector<float> flipped = {3, 2, 1, 6, 5, 4, 9, 8, 7, 12, 11, 10};
  int flips = 0;
  for (std::uint64_t key = 0; key < 1000; ++key) {
    const auto features = Augmented(data, {.random_flip = true}, key);
    ASSERT_TRUE(features == same || features == flipped);
    flips += features == flipped ? 1 : 0;
  }
  EXPECT_NEAR(flips, 500, 60);
}

TEST(MakeBatchTest, ACropMovesTheImageOverABorderOfZeros) {
  const Dataset data = Values(1);
  std::map<std::vector<float>, int> seen;
  for (std::uint64_t key = 0; key < 2000; ++key) ++seen[Augmented(data, {.random_crop = 1}, key)];
  EXPECT_EQ(seen.size(), 9u);  // -1, 0 or 1 down times -1, 0 or 1 right
  for (const auto& [features, count] : seen) EXPECT_NEAR(count, 2000.0 / 9, 75);
  EXPECT_EQ(seen.count({0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 7, 8}), 1u);
  EXPECT_EQ(seen.count({5, 6, 0, 0, 0, 0, 11, 12, 0, 0, 0, 0}), 1u);
  EXPECT_EQ(seen.count({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}), 1u);
}

TEST(MakeBatchTest, ACropWiderThanTheImageMayLeaveNothing) {
  const Dataset data = Values(1);
  bool empty = false;
  for (std::uint64_t key = 0; key < 200; ++key) {
    const auto features = Augmented(data, {.random_flip = true, .random_crop = 9}, key);
    empty = empty || std::all_of(features.begin(), features.end(), [](float v) { return v == 0; });
  }
  EXPECT_TRUE(empty);
}

TEST(MakeBatchTest, TheBorderOfPixelsIsZeroAfterNormalisation) {
  const Dataset data = Images(1);
  const auto plain = Augmented(data, {}, 0);
  for (std::uint64_t key = 0; key < 50; ++key) {
    for (const float value : Augmented(data, {.random_crop = 2}, key)) {
      EXPECT_TRUE(value == 0.0f || std::count(plain.begin(), plain.end(), value) > 0);
    }
  }
}

TEST(MakeBatchTest, AugmentationDependsOnKeyAndIndexAlone) {
  const Dataset data = Images(6);
  const AugmentOptions augment = {.random_flip = true, .random_crop = 1};
  ExampleBatch all;
  ASSERT_EQ(MakeBatch(data, Order(6), augment, 9, all), Status::Ok());
  bool differs = false;
  for (std::int64_t i = 0; i < 6; ++i) {
    const auto alone = Augmented(data, augment, 9, i);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.features.begin() + 12 * i));
    differs = differs || alone != Augmented(data, augment, 10, i);
  }
  EXPECT_TRUE(differs);
}

TEST(MakeBatchTest, RefusesAugmentationThatTheDataCannotHave) {
  Dataset flat = Values(1);
  flat.shape = {12};
  ExampleBatch batch;
  const Status images = InvalidArgument(
      "images: random_flip and random_crop need images of channels x height x width");
  EXPECT_EQ(MakeBatch(flat, Order(1), {.random_flip = true}, 0, batch), images);
  EXPECT_EQ(MakeBatch(flat, Order(1), {.random_crop = 1}, 0, batch), images);
  EXPECT_EQ(MakeBatch(flat, Order(1), {.random_crop = -1}, 0, batch),
            InvalidArgument("images: random_crop must be in 0 to 16384 (got -1)"));
  EXPECT_EQ(MakeBatch(flat, Order(1), {.random_shift = true}, 0, batch),
            InvalidArgument("images: random_shift needs text"));
}

// All batches of a loader, joined.
ExampleBatch Drain(BatchLoader& loader, std::vector<std::int64_t>* sizes = nullptr) {
  ExampleBatch joined;
  for (;;) {
    auto next = loader.Next();
    EXPECT_TRUE(next.ok()) << next.status().ToString();
    if (!next.ok() || !next->has_value()) return joined;
    ExampleBatch& batch = **next;
    if (sizes != nullptr) sizes->push_back(batch.examples);
    joined.examples += batch.examples;
    joined.features.insert(joined.features.end(), batch.features.begin(), batch.features.end());
    joined.labels.insert(joined.labels.end(), batch.labels.begin(), batch.labels.end());
    loader.Recycle(std::move(batch));
  }
}

TEST(BatchLoaderTest, GivesTheBatchesOfMakeBatchInOrder) {
  const Dataset data = Images(23);
  std::vector<std::int64_t> order = Order(23);
  std::reverse(order.begin(), order.end());
  const AugmentOptions augment = {.random_flip = true, .random_crop = 1};
  ExampleBatch expected;
  ASSERT_EQ(MakeBatch(data, order, augment, 5, expected), Status::Ok());
  for (const int depth : {1, 2, 3, 50}) {
    BatchLoader loader(data, order,
                       {.batch_size = 5, .augment = augment, .augment_key = 5, .depth = depth});
    std::vector<std::int64_t> sizes;
    const ExampleBatch joined = Drain(loader, &sizes);
    EXPECT_EQ(joined.features, expected.features);
    EXPECT_EQ(joined.labels, expected.labels);
    EXPECT_THAT(sizes, ElementsAre(5, 5, 5, 5, 3));
    const auto end = loader.Next();  // and again
    ASSERT_TRUE(end.ok());
    EXPECT_FALSE(end->has_value());
  }
}

TEST(BatchLoaderTest, WithoutExamplesThereIsNoBatch) {
  const Dataset data = Images(1);
  BatchLoader loader(data, {}, {});
  const auto end = loader.Next();
  ASSERT_TRUE(end.ok());
  EXPECT_FALSE(end->has_value());
}

TEST(BatchLoaderTest, RecycledBatchesAreUsedAgain) {
  const Dataset data = Images(20);
  BatchLoader loader(data, Order(20), {.batch_size = 1, .depth = 2});
  std::map<const float*, int> memory;
  for (;;) {
    auto next = loader.Next();
    ASSERT_TRUE(next.ok());
    if (!next->has_value()) break;
    ++memory[(*next)->features.data()];
    loader.Recycle(std::move(**next));
  }
  // Two ahead, one in the making, one in our hands.
  EXPECT_LE(memory.size(), 4u);
}

TEST(BatchLoaderTest, AnErrorComesInThePlaceOfItsBatchAndStays) {
  Dataset data = Images(0);
  data.shape = {1, 1, 1};
  data.mean = {0.0f};
  data.deviation = {1.0f};
  data.labels = {0, 0};
  data.files = {"/nonexistent/a.png", "/nonexistent/b.png"};
  BatchLoader loader(data, Order(2), {.batch_size = 1});
  const auto first = loader.Next();
  EXPECT_EQ(first.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(first.status().message(), ::testing::HasSubstr("/nonexistent/a.png"));
  EXPECT_EQ(loader.Next().status(), first.status());
}

TEST(BatchLoaderTest, MayBeDestroyedAtAnyTime) {
  const Dataset data = Images(20);
  for (int taken = 0; taken < 6; ++taken) {
    BatchLoader loader(data, Order(20), {.batch_size = 2});
    for (int i = 0; i < taken; ++i) ASSERT_TRUE(loader.Next().ok());
  }
}

}  // namespace
}  // namespace fedmoe
