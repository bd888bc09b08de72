#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "storage/state_json.h"
#include "tests/storage/random_fields.h"

namespace fedmoe {
namespace {

RoundReport SmallReport() {
  RoundReport report;
  report.round = 3;
  report.attempts = 2;
  report.seconds = 1.5;
  report.clients = {{.client = "a",
                     .capacity = {.experts = 2,
                                  .reason = CapacityReason::kMemory,
                                  .memory_bytes = 1e6,
                                  .round_s = 0.25},
                     .experts = {0, 1},
                     .outcome = "accepted",
                     .examples = 64,
                     .train_loss = 0.5,
                     .train_s = 0.75}};
  report.accepted = 1;
  report.rejected = {{"stale_round", 2}};
  report.cells = {CellState::kComplete, CellState::kOpen, CellState::kUnassigned};
  report.train_loss = 0.5;
  report.load_cv = 0.1;
  report.load_cv_floor = 0.05;
  report.cumulative_load_cv = 0.2;
  report.client_expert_information = 0.4;
  report.plan.strategy = AlignmentStrategy::kBalanced;
  report.plan.load = {1, 1};
  report.plan.objective = 1.25;
  report.plan.coverage = 1.0;
  report.plan.bounds = {.target = 1.0, .lower = {1, 1}, .upper = {1, 2}};
  report.cohort = {"a"};
  report.global_accuracy = {.value = 0.75, .reason = ""};
  report.personalised_accuracy = {.value = std::nullopt, .reason = "no_clients"};
  report.bytes_down = 100;
  report.bytes_up = 50;
  report.model_digest = "abc";
  return report;
}

TEST(ReportJson, IsOneLineWithTheDocumentedKeysInOrder) {
  EXPECT_EQ(
      ReportToJsonLine(SmallReport()),
      R"({"round":3,"attempts":2,"seconds":1.5,"clients":[{"client":"a","experts_capacity":2,)"
      R"("capacity_reason":"memory","memory_bytes":1000000.0,"predicted_round_s":0.25,)"
      R"("experts":[0,1],"outcome":"accepted","examples":64,"train_loss":0.5,"train_s":0.75}],)"
      R"("accepted":1,"rejected":{"stale_round":2},"cells":["complete","open","unassigned"],)"
      R"("train_loss":0.5,"load_cv":0.1,"load_cv_floor":0.05,"cumulative_load_cv":0.2,)"
      R"("client_expert_information_nats":0.4,"alignment":{"strategy":"balanced",)"
      R"("objective":1.25,"cv":0.0,"floor_cv":0.0,"coverage":1.0,"load":[1,1],"relaxed":0,)"
      R"("lower":[1,1],"upper":[1,2]},"global_accuracy":0.75,"global_accuracy_reason":null,)"
      R"("global_loss":null,"personalised_accuracy":null,)"
      R"("personalised_accuracy_reason":"no_clients","personalised_loss":null,"bytes_down":100,)"
      R"("bytes_up":50,"model_digest":"abc"})");
}

TEST(ReportJson, IsOneLineOfJsonWhateverTheReport) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto report = RandomValue<RoundReport>(seed);
    const std::string line = ReportToJsonLine(report);
    ASSERT_EQ(line.find('\n'), std::string::npos);
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
    ASSERT_TRUE(json.is_object());
    ASSERT_EQ(json["round"], report.round);
    ASSERT_EQ(json["clients"].size(), report.clients.size());
  }
}

}  // namespace
}  // namespace fedmoe
