// Runs whose clients send encoded updates: they end in a model, always the same, whatever happens.
#include <set>

#include <gtest/gtest.h>

#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

CoreOptions EncodedOptions(const UploadOptions& upload) {
  CoreOptions options = FleetOptions();
  options.run.training.upload = upload;
  return options;
}

RunSummary RunOnce(const UploadOptions& upload) {
  Fleet fleet(EncodedOptions(upload));
  return fleet.RunToEnd();
}

constexpr UploadOptions kTopK{.encoding = Encoding::kTopK, .top_k_fraction = 0.2, .zstd = true};

TEST(TransferTest, EveryEncodingGivesAModelOfItsOwnAndTheSameOneEachTime) {
  std::set<std::string> digests;
  for (const UploadOptions& upload :
       {UploadOptions{}, UploadOptions{.encoding = Encoding::kBfloat16},
        UploadOptions{.encoding = Encoding::kFloat16}, UploadOptions{.encoding = Encoding::kInt8},
        UploadOptions{.encoding = Encoding::kInt4}, kTopK}) {
    SCOPED_TRACE(EncodingName(upload.encoding));
    const RunSummary summary = RunOnce(upload);
    EXPECT_EQ(summary.status, "completed") << summary.detail;
    EXPECT_EQ(summary.rounds, 3);
    EXPECT_EQ(RunOnce(upload).model_digest, summary.model_digest);
    digests.insert(summary.model_digest);
  }
  EXPECT_EQ(digests.size(), 6U);
}

TEST(TransferTest, CompressionDoesNotChangeTheModel) {
  for (const Encoding encoding : {Encoding::kFloat32, Encoding::kInt8}) {
    EXPECT_EQ(RunOnce({.encoding = encoding, .zstd = true}).model_digest,
              RunOnce({.encoding = encoding}).model_digest)
        << EncodingName(encoding);
  }
}

// More updates than are open at once, in groups.
TEST(TransferTest, ManyClientsSendInt8) {
  CoreOptions options = EncodedOptions({.encoding = Encoding::kInt8});
  options.run.rounds = 2;
  options.run.participation.min_clients = 19;
  const auto run = [&] {
    Fleet fleet(options, 19);
    return fleet.RunToEnd();
  };
  const RunSummary summary = run();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(run().model_digest, summary.model_digest);
}

// What a client has not sent yet is on its disk, by committed round: neither lost with the
// client's process nor counted twice.
TEST(TransferTest, ResidualsOfTopKSurviveTheClientsAndTheCoordinator) {
  const std::string undisturbed = RunOnce(kTopK).model_digest;
  for (std::int64_t calls = 5; calls < 45; calls += 4) {
    SCOPED_TRACE("after " + std::to_string(calls) + " calls");
    Fleet fleet(EncodedOptions(kTopK));
    ASSERT_OK(fleet.coordinator.Start());
    fleet.coordinator.slot.CloseAfter(calls);
    fleet.StartClients();
    while (!fleet.coordinator.core().WaitFor(1) && !fleet.coordinator.slot.closed()) {
    }
    ASSERT_TRUE(fleet.coordinator.slot.closed()) << "the run ended before the kill";
    fleet.coordinator.Kill();
    fleet.CrashClients();
    ASSERT_OK(fleet.coordinator.Start());
    fleet.StartClients();
    const RunSummary summary = fleet.coordinator.core().Wait();
    EXPECT_EQ(summary.status, "completed") << summary.detail;
    EXPECT_EQ(summary.model_digest, undisturbed);
  }
}

}  // namespace
}  // namespace fedmoe
