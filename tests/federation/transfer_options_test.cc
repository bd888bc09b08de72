#include "federation/transfer_options.h"

#include <gtest/gtest.h>

#include "federation/capacity.h"

namespace fedmoe {
namespace {

TEST(UploadOptions, TopKKeepsAtLeastOneValueAndAtMostAll) {
  UploadOptions upload{.encoding = Encoding::kTopK, .top_k_fraction = 0.1};
  EXPECT_EQ(KeptElements(upload, 0), 0U);
  EXPECT_EQ(KeptElements(upload, 1), 1U);
  EXPECT_EQ(KeptElements(upload, 100), 10U);
  EXPECT_EQ(KeptElements(upload, 101), 11U);
  upload.top_k_fraction = 0.0;
  EXPECT_EQ(KeptElements(upload, 100), 1U);
  upload.top_k_fraction = 1.0;
  EXPECT_EQ(KeptElements(upload, 100), 100U);
}

TEST(UploadOptions, BlocksThatTopKDoesNotShortenAreFloat32) {
  UploadOptions upload{.encoding = Encoding::kTopK, .top_k_fraction = 0.1};
  EXPECT_EQ(BlockEncodingOf(upload, 1), Encoding::kFloat32) << "8 bytes against 4";
  EXPECT_EQ(BlockEncodingOf(upload, 2), Encoding::kFloat32) << "8 against 8";
  EXPECT_EQ(BlockEncodingOf(upload, 3), Encoding::kTopK);
  upload.top_k_fraction = 0.5;
  EXPECT_EQ(BlockEncodingOf(upload, 1000), Encoding::kFloat32);
  upload.encoding = Encoding::kInt8;
  EXPECT_EQ(BlockEncodingOf(upload, 1), Encoding::kInt8);
}

TEST(UploadOptions, PredictTheBytesOfAnElement) {
  EXPECT_EQ(UploadBytesPerElement({}), 4.0);
  EXPECT_EQ(UploadBytesPerElement({.encoding = Encoding::kBfloat16}), 2.0);
  EXPECT_EQ(UploadBytesPerElement({.encoding = Encoding::kInt8}), 68.0 / 64.0);
  EXPECT_EQ(UploadBytesPerElement({.encoding = Encoding::kInt4}), 36.0 / 64.0);
  EXPECT_EQ(UploadBytesPerElement({.encoding = Encoding::kTopK, .top_k_fraction = 0.125}), 1.0);
  EXPECT_EQ(UploadBytesPerElement({.encoding = Encoding::kTopK, .top_k_fraction = 0.9}), 4.0);
}

TEST(UploadOptions, ShortenThePredictedRound) {
  ModelSpec spec;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {10, 100}});
  const CapacityProfile profile{.down_bytes_per_s = 4000.0, .up_bytes_per_s = 4000.0};
  TrainingOptions training;
  EXPECT_DOUBLE_EQ(PredictRoundSeconds(profile, spec, training, 0), 1.0 + 1.0);
  training.upload.encoding = Encoding::kBfloat16;
  EXPECT_DOUBLE_EQ(PredictRoundSeconds(profile, spec, training, 0), 1.0 + 0.5);
}

}  // namespace
}  // namespace fedmoe
