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
  report.connected_trainers = 5;
  report.clients_per_round = 2;
  report.min_clients = 1;
  report.quorum = 0.75;
  report.sat_out = {"z"};
  ClientReport& client = report.clients.emplace_back();
  client.client = "a";
  client.profile.memory_bytes = 2'000'000;
  client.profile.compute_flops_per_s = 1e9;
  client.profile.down_bytes_per_s = 5e6;
  client.profile.up_bytes_per_s = 2.5e6;
  client.profile.examples = 64;
  client.profile.max_experts = 3;
  client.capacity = {
      .experts = 2, .reason = CapacityReason::kMemory, .memory_bytes = 1e6, .round_s = 0.25};
  client.fitness = {0.75, 0.25};
  client.bonus = {0.5, 0.0};
  client.held = {1};
  client.experts = {0, 1};
  client.outcome = "accepted";
  client.examples = 64;
  client.train_loss = 0.5;
  client.train_s = 0.75;
  report.accepted = 1;
  report.rejected = {{"stale_round", 2}};
  report.cells = {CellState::kComplete, CellState::kOpen, CellState::kUnassigned};
  report.reassigned = {{.expert = 1, .from = "b", .to = "a", .outcome = "lost"}};
  report.train_loss = 0.5;
  report.load = {.assignments = {3, 4},
                 .round_assignments = {1, 1},
                 .tokens = {100.0, 200.0},
                 .round_tokens = {32.0, 32.5},
                 .average_tokens = {30.0, 60.0},
                 .deficit = {0.5, -0.5}};
  report.load_cv = 0.1;
  report.load_cv_floor = 0.05;
  report.cumulative_load_cv = 0.2;
  report.client_expert_information = 0.4;
  report.consensus = 0.2;
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
      R"({"round":3,"attempts":2,"seconds":1.5,"connected_trainers":5,"clients_per_round":2,)"
      R"("min_clients":1,"quorum":0.75,"sat_out":["z"],"clients":[{"client":"a",)"
      R"("profile":{"memory_bytes":2000000,"compute_flops_per_s":1000000000.0,)"
      R"("down_bytes_per_s":5000000.0,"up_bytes_per_s":2500000.0,"examples":64,)"
      R"("max_experts":3},"experts_capacity":2,)"
      R"("capacity_reason":"memory","memory_bytes":1000000.0,"predicted_round_s":0.25,)"
      R"("fitness":[0.75,0.25],"bonus":[0.5,0.0],"movement":[],"held":[1],"experts":[0,1],"outcome":"accepted","examples":64,"train_loss":0.5,"train_s":0.75}],)"
      R"("accepted":1,"rejected":{"stale_round":2},"cells":["complete","open","unassigned"],)"
      R"("reassigned":[{"expert":1,"from":"b","to":"a","outcome":"lost"}],)"
      R"("train_loss":0.5,"load":{"round_assignments":[1,1],"round_tokens":[32.0,32.5],)"
      R"("assignments":[3,4],"tokens":[100.0,200.0],"average_tokens":[30.0,60.0],)"
      R"("deficit":[0.5,-0.5]},"load_cv":0.1,"load_cv_floor":0.05,"cumulative_load_cv":0.2,)"
      R"("client_expert_information_nats":0.4,"consensus":0.2,"alignment":{"strategy":"balanced",)"
      R"("objective":1.25,"bound":0.0,"gap":0.0,"solver":"auto","cv":0.0,"floor_cv":0.0,)"
      R"("coverage":1.0,"load":[1,1],"relaxed":0,"conflict":"","prices":[],)"
      R"("lower":[1,1],"upper":[1,2],"weighted_load":[],"weighted_lower":[],)"
      R"("weighted_upper":[],"violation":0.0},"global_accuracy":0.75,"global_accuracy_reason":null,)"
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
