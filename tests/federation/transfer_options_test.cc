#include "federation/transfer_options.h"

#include <gtest/gtest.h>

#include "federation/capacity.h"
#include "federation/task.h"

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

// A trunk of 300,000 + 3 values and an expert of 5.
ModelSpec DownloadSpec() {
  ModelSpec spec;
  spec.experts = 1;
  spec.blocks = {{.name = "trunk.weight", .shape = {300, 1000}},
                 {.name = "expert", .shape = {5}, .owner = BlockOwner::kExpert, .expert = 0},
                 {.name = "head", .shape = {3}}};
  return spec;
}

TEST(DownloadOptions, LargeBlocksAreCutIntoParts) {
  EXPECT_EQ(PartsOf(DownloadSpec(), kTrunkShard),
            (std::vector<ShardPart>{{.parameter = 0, .first = 0, .elements = 262'144},
                                    {.parameter = 0, .first = 262'144, .elements = 37'856},
                                    {.parameter = 2, .first = 0, .elements = 3}}));
  EXPECT_EQ(PartsOf(DownloadSpec(), 1),
            (std::vector<ShardPart>{{.parameter = 1, .first = 0, .elements = 5}}));
}

TEST(DownloadOptions, SayWhatAShardTakes) {
  const ModelSpec spec = DownloadSpec();
  EXPECT_EQ(DownloadBytes(spec, kTrunkShard, {}), 4 * 300'003);
  EXPECT_EQ(DownloadBytes(spec, 1, {}), 20);
  // A frame; a frame and the padded payload for each part.
  EXPECT_EQ(DownloadBytes(spec, 1, {.encoding = Encoding::kInt8}), 64 + 64 + 64);
  EXPECT_EQ(DownloadBytes(spec, kTrunkShard, {.encoding = Encoding::kBfloat16}),
            64 + (64 + 524'288) + (64 + 75'712) + (64 + 64));
  EXPECT_EQ(DownloadBytes(spec, 1, {.zstd = true}), 64 + 64 + 64);
  EXPECT_EQ(DownloadBytesPerElement({}), 4.0);
  EXPECT_EQ(DownloadBytesPerElement({.encoding = Encoding::kInt8, .zstd = true}), 68.0 / 64.0);
}

TEST(DownloadOptions, ShortenThePredictedRound) {
  ModelSpec spec;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {10, 100}});
  const CapacityProfile profile{.down_bytes_per_s = 4000.0, .up_bytes_per_s = 4000.0};
  TrainingOptions training;
  training.download.encoding = Encoding::kFloat16;
  EXPECT_DOUBLE_EQ(PredictRoundSeconds(profile, spec, training, 0), 0.5 + 1.0);
}

TEST(DownloadOptions, NameWhatTravels) {
  const Digest digest(64, 'a');
  EXPECT_EQ(ShardKey({.shard = 3, .digest = digest}), digest);
  EXPECT_EQ(DigestPrefix("0123456789abcdeffedcba9876543210"), 0x0123456789abcdefU);
  EXPECT_EQ(DigestPrefix("ff"), 0xffU);
  EXPECT_EQ(DigestPrefix(""), 0U);
  EXPECT_EQ(ShardKey({.shard = 0, .digest = digest, .encoding = Encoding::kInt8}),
            digest + ".trunk.int8");
  EXPECT_EQ(ShardKey({.shard = 3, .digest = digest, .zstd = true}), digest + ".expert.2.f32.zstd");
}

}  // namespace
}  // namespace fedmoe
