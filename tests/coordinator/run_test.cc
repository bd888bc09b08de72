// Whole runs of an undisturbed fleet: what comes out, and what stands in the run directory.
#include <algorithm>
#include <cstdlib>
#include <sstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/forwarding_file_system.h"
#include "common/unsynced_file_system.h"
#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

using ::testing::HasSubstr;

std::vector<nlohmann::json> Reports(const Fleet& fleet) {
  std::vector<nlohmann::json> reports;
  std::istringstream lines(ReadAll(fleet.Path("rounds.jsonl")));
  for (std::string line; std::getline(lines, line);) reports.push_back(nlohmann::json::parse(line));
  return reports;
}

class OptimizerTest : public ::testing::TestWithParam<ServerOptimizer> {};

TEST_P(OptimizerTest, TheModelIsWhatPlainLoopsMakeOfTheAnswers) {
  CoreOptions options = FleetOptions();
  options.run.aggregation.optimizer = GetParam();
  options.run.aggregation.learning_rate = 0.7;
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(fleet.ledger.answers().size(), 12u);
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
}

INSTANTIATE_TEST_SUITE_P(All, OptimizerTest,
                         ::testing::Values(ServerOptimizer::kFedAvg, ServerOptimizer::kFedAvgM,
                                           ServerOptimizer::kFedAdam, ServerOptimizer::kFedYogi));

class RuleTest : public ::testing::TestWithParam<AggregationRule> {};

TEST_P(RuleTest, TheModelIsWhatPlainLoopsMakeOfTheAnswers) {
  CoreOptions options = FleetOptions();
  options.run.rounds = 2;
  options.run.aggregation.rule = GetParam();
  options.run.aggregation.trim = 0.2;
  options.run.aggregation.hostile = 0.25;
  options.run.participation.min_clients = 11;
  Fleet fleet(options, 11);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
  options.run.aggregation.rule =
      GetParam() == AggregationRule::kMean ? AggregationRule::kMedian : AggregationRule::kMean;
  EXPECT_NE(summary.model_digest, ReferenceDigest(options, fleet.ledger));
}

// A round of nine clients, who are more than are read at once, ends in the plain loops' model.
void ExpectTheReference(CoreOptions options) {
  options.run.rounds = 1;
  options.run.participation.min_clients = 9;
  Fleet fleet(options, 9);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
}

TEST_P(RuleTest, ConsensusMovesWhatTheRuleMade) {
  CoreOptions options = FleetOptions();
  options.run.aggregation.rule = GetParam();
  options.run.aggregation.consensus = 0.3;
  ExpectTheReference(options);
}

// The last window is shorter.
TEST_P(RuleTest, BlocksMayBeLongerThanAWindow) {
  CoreOptions options = FleetOptions();
  options.run.spec.blocks[0].shape = {90'001, 3};
  options.run.aggregation.rule = GetParam();
  options.run.aggregation.trim = 0.2;
  ExpectTheReference(options);
}

INSTANTIATE_TEST_SUITE_P(All, RuleTest,
                         ::testing::Values(AggregationRule::kMean, AggregationRule::kMedian,
                                           AggregationRule::kTrimmedMean, AggregationRule::kKrum,
                                           AggregationRule::kMultiKrum, AggregationRule::kClip));

// The real file system, whose reports take their time; counts those that are written beside
// another.
class SlowReports final : public ForwardingFileSystem {
 public:
  explicit SlowReports(FileSystem& base) : ForwardingFileSystem(base) {}
  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    if (path.find("rounds.jsonl") == std::string::npos) return base().OpenForAppend(path);
    return Wrapped<File>(base().OpenForAppend(path), *this);
  }
  int NextDelayUs() { return (delay_us_ += 997) % 5000; }
  std::atomic<int> writers = 0;
  std::atomic<int> beside_another = 0;

 private:
  class File final : public ForwardingFile {
   public:
    File(std::unique_ptr<WritableFile> base, SlowReports& owner)
        : ForwardingFile(std::move(base)), owner_(owner) {}
    Status Append(std::span<const std::byte> bytes) override {
      if (owner_.writers.fetch_add(1) > 0) ++owner_.beside_another;
      std::this_thread::sleep_for(std::chrono::microseconds(owner_.NextDelayUs()));
      const Status status = ForwardingFile::Append(bytes);
      --owner_.writers;
      return status;
    }

   private:
    SlowReports& owner_;
  };

  std::atomic<int> delay_us_ = 0;
};

TEST(RunTest, ReportsAreWrittenOneByOneHoweverFastTheRounds) {
  CoreOptions options = FleetOptions();
  options.run.rounds = 80;
  options.run.participation.min_clients = 1;
  UnsyncedFileSystem disk(PosixFileSystem());
  SlowReports files(disk);
  Fleet fleet(options, 1, files);
  EXPECT_EQ(fleet.RunToEnd().status, "completed");
  EXPECT_EQ(files.beside_another, 0);
  const std::vector<nlohmann::json> reports = Reports(fleet);
  ASSERT_EQ(reports.size(), 80u);
  for (std::size_t index = 0; index < reports.size(); ++index) {
    EXPECT_EQ(reports[index]["round"], index + 1);
  }
}

TEST(RunTest, MoreClientsThanAreOpenAtOnceGiveTheSameModel) {
  CoreOptions options = FleetOptions();
  options.run.rounds = 1;
  options.run.participation.min_clients = 19;
  Fleet fleet(options, 19);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
}

TEST_P(OptimizerTest, ConsensusMovesTheTrainedExpertsOfALayerTowardsTheirMean) {
  CoreOptions options = FleetOptions();
  options.run.spec = FleetSpec(6, 2);
  options.run.aggregation.optimizer = GetParam();
  options.run.aggregation.consensus = 0.3;
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
  for (const auto& report : Reports(fleet)) EXPECT_EQ(report["consensus"], 0.3);
  options.run.aggregation.consensus = 0.0;
  EXPECT_NE(summary.model_digest, ReferenceDigest(options, fleet.ledger));
  // The means' file went with the merge.
  EXPECT_EQ(PosixFileSystem().List(fleet.coordinator.directory() + "/spool").value(),
            std::vector<std::string>{});
}

// By what the table told before the round, which is what the round before reports.
TEST(RunTest, ConsensusFadesWithTheInformationOfClientsAndExperts) {
  CoreOptions options = FleetOptions();
  options.run.aggregation.consensus = 0.4;
  options.run.aggregation.consensus_information = 0.5;
  Fleet fleet(options);
  EXPECT_EQ(fleet.RunToEnd().status, "completed");
  double before = 0.0;
  for (const auto& report : Reports(fleet)) {
    EXPECT_DOUBLE_EQ(report["consensus"], 0.4 * std::max(0.0, 1.0 - before / 0.5));
    before = report["client_expert_information_nats"];
  }
  EXPECT_GT(before, 0.0);
}

// Experts of both layers with every client that has two, gates merged layer by layer.
TEST(RunTest, AModelOfTwoMoeLayersIsMergedLayerByLayer) {
  CoreOptions options = FleetOptions();
  options.run.spec = FleetSpec(6, 2);
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
  for (const auto& [key, answer] : fleet.ledger.answers()) {
    int in_layer[2] = {0, 0};
    for (const ExpertIndex expert : answer.task.experts) ++in_layer[expert / 3];
    EXPECT_LE(std::abs(in_layer[0] - in_layer[1]), 1) << key.second;
  }
  for (const auto& report : Reports(fleet)) {
    EXPECT_EQ(report["accepted"], 4);
    EXPECT_EQ(report["load"].size(), 6u) << report;
  }
}

// What a dense run trains is what one upcycles from.
TEST(RunTest, ADenseModelRunsWithoutExperts) {
  CoreOptions options = FleetOptions();
  options.run.spec = FleetSpec(0, 0);
  options.run.spec.top_k = 0;
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed") << summary.detail;
  EXPECT_EQ(summary.model_digest, ReferenceDigest(options, fleet.ledger));
  for (const auto& [key, answer] : fleet.ledger.answers()) {
    EXPECT_TRUE(answer.task.experts.empty());
  }
}

TEST(RunTest, AModelThatWouldNotBeFiniteIsNotPublished) {
  CoreOptions options = FleetOptions();
  options.run.aggregation.learning_rate = 1e300;
  Fleet fleet(options);
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "failed");
  EXPECT_EQ(summary.rounds, 0);
  EXPECT_THAT(summary.detail, HasSubstr("aggregation of round 1 failed: "));
  EXPECT_THAT(summary.detail, HasSubstr("block 'trunk.weight' would not be finite"));
}

TEST(RunTest, EveryClientLearnsThatTheRunIsOver) {
  Fleet fleet;
  const RunSummary summary = fleet.RunToEnd();
  for (const auto& client : fleet.clients) {
    EXPECT_EQ(client->Join().end, ClientEnd::kRunOver);
  }
  EXPECT_EQ(summary.status, "completed");
  EXPECT_EQ(summary.rounds, 3);
}

TEST(RunTest, TheRunDirectoryTellsTheRun) {
  Fleet fleet;
  const RunSummary summary = fleet.RunToEnd();

  const std::vector<nlohmann::json> reports = Reports(fleet);
  ASSERT_EQ(reports.size(), 3u);
  std::size_t pairs = 0;
  for (std::size_t i = 0; i < reports.size(); ++i) {
    EXPECT_EQ(reports[i]["round"], i + 1);
    EXPECT_EQ(reports[i]["accepted"], 4);
    EXPECT_TRUE(reports[i]["global_accuracy"].is_number()) << reports[i];
    for (const auto& client : reports[i]["clients"]) pairs += client["experts"].size();
  }
  EXPECT_EQ(reports[2]["model_digest"], summary.model_digest);

  std::istringstream rows(ReadAll(fleet.Path("assignments.csv")));
  std::string row;
  std::getline(rows, row);
  EXPECT_EQ(row, "round,client,expert,fitness,reason");
  std::size_t count = 0;
  while (std::getline(rows, row)) ++count;
  EXPECT_EQ(count, pairs);
  EXPECT_EQ(pairs, 3u * (1 + 2 + 3 + 1));

  const auto written = nlohmann::json::parse(ReadAll(fleet.Path("summary.json")));
  EXPECT_EQ(written["status"], "completed");
  EXPECT_EQ(written["rounds"], 3);
  EXPECT_EQ(written["model_digest"], summary.model_digest);
  EXPECT_EQ(written["final_accuracy"], reports[2]["global_accuracy"]);
  EXPECT_GT(written["bytes_up"], 0);
  EXPECT_GT(written["bytes_down"], 0);

  for (const char* name : {"checkpoints/000003.json", "checkpoints/000003.safetensors"}) {
    EXPECT_TRUE(PosixFileSystem().Exists(fleet.Path(name))) << name;
  }
  EXPECT_FALSE(PosixFileSystem().Exists(fleet.Path("checkpoints/000000.json")))
      << "three versions are kept";
  EXPECT_EQ(PosixFileSystem().List(fleet.Path("spool")).value(), std::vector<std::string>{});
}

TEST(RunTest, StatusTellsTheRun) {
  Fleet fleet;
  fleet.RunToEnd();
  InProcessTransport transport(fleet.coordinator.slot);
  std::string text;
  std::mutex mutex;
  std::condition_variable there;
  fleet.coordinator.core().Status([&](Result<std::string> result) {
    const std::lock_guard lock(mutex);
    text = result.ok() ? *result : result.status().ToString();
    there.notify_all();
  });
  std::unique_lock lock(mutex);
  there.wait(lock, [&] { return !text.empty(); });
  const auto status = nlohmann::json::parse(text);
  EXPECT_EQ(status["run"], "fleet");
  EXPECT_EQ(status["status"], "completed");
  EXPECT_EQ(status["phase"], "finished");
  EXPECT_EQ(status["version"], 3);
  EXPECT_EQ(status["rounds"], 3);
  ASSERT_EQ(status["clients"].size(), 5u);
  EXPECT_EQ(status["clients"][1]["client"], "client-1");
  EXPECT_EQ(status["clients"][1]["role"], "trainer");
  EXPECT_EQ(status["clients"][1]["experts_capacity"], 2);
  EXPECT_EQ(status["clients"][1]["rounds_merged"], 3);
  EXPECT_EQ(status["clients"][4]["role"], "evaluator");
}

// Lets the answers of each round through in the order of `clients_`.
class AnswerOrder {
 public:
  explicit AnswerOrder(std::vector<ClientId> clients) : clients_(std::move(clients)) {}
  void WaitForTurn(const ClientId& client) {
    std::unique_lock lock(mutex_);
    moved_.wait(lock, [&] { return clients_[next_ % clients_.size()] == client; });
  }
  void Done(const ClientId& client) {
    const std::lock_guard lock(mutex_);
    order_.push_back(client);
    ++next_;
    moved_.notify_all();
  }
  std::vector<ClientId> order() {
    const std::lock_guard lock(mutex_);
    return order_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable moved_;
  const std::vector<ClientId> clients_;
  std::size_t next_ = 0;
  std::vector<ClientId> order_;
};

struct OrderedRun {
  std::string digest;
  std::vector<ClientId> order;
};

OrderedRun RunInOrder(std::vector<ClientId> clients, int worker_threads) {
  CoreOptions options = FleetOptions();
  options.worker_threads = worker_threads;
  AnswerOrder order(std::move(clients));
  Fleet fleet(options);
  for (std::size_t i = 0; i + 1 < fleet.clients.size(); ++i) {
    fleet.clients[i]->before_submit = [&](const UpdateHeader& header) {
      order.WaitForTurn(header.client);
    };
    fleet.clients[i]->after_submit = [&](const UpdateHeader& header, const Result<Verdict>&) {
      order.Done(header.client);
    };
  }
  const RunSummary summary = fleet.RunToEnd();
  EXPECT_EQ(summary.status, "completed");
  return {summary.model_digest, order.order()};
}

TEST(RunTest, TheOrderOfAnswersDoesNotCount) {
  const OrderedRun forward = RunInOrder({"client-0", "client-1", "client-2", "client-3"}, 2);
  const OrderedRun reverse = RunInOrder({"client-3", "client-2", "client-1", "client-0"}, 2);
  const OrderedRun single = RunInOrder({"client-2", "client-0", "client-3", "client-1"}, 1);
  EXPECT_EQ(forward.order[0], "client-0");
  EXPECT_EQ(reverse.order[0], "client-3");
  EXPECT_EQ(reverse.digest, forward.digest);
  EXPECT_EQ(single.digest, forward.digest);
}

}  // namespace
}  // namespace fedmoe
