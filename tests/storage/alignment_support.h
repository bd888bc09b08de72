// Runs recorded for the tests of what is made of records: the round machine with clients that come,
// go, fail and claim at random.
#pragma once

#include <memory>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "common/counter_rng.h"
#include "storage/alignment_record.h"
#include "storage/state_json.h"
#include "tests/federation/round_driver.h"
#include "tests/storage/storage_support.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

class RecordedFleet {
 public:
  RecordedFleet(RunOptions options, std::uint64_t seed) : driver(std::move(options)), rng_(seed) {
    for (int i = 0; i < kClients; ++i) Join(i, "1");
  }

  // The run's record after so many rounds, read back from its rounds.jsonl.
  Result<std::vector<RecordedRound>> Record(int rounds) {
    for (int i = 0; i < 100 * rounds && driver.state.version < rounds; ++i) PlayRound();
    std::string lines;
    for (const RoundReport& report : Reports()) lines += ReportToJsonLine(report) + "\n";
    WriteAll(directory.File("rounds.jsonl"), lines);
    return ReadRecordedRounds(PosixFileSystem(), directory.path(), driver.options);
  }

  std::vector<RoundReport> Reports() const {
    std::vector<RoundReport> reports;
    for (const Action& action : driver.history) {
      if (const auto* report = std::get_if<Report>(&action)) reports.push_back(report->report);
    }
    return reports;
  }

  RoundDriver driver;
  TempDir directory;

 private:
  static constexpr int kClients = 6;

  void Join(int i, const std::string& instance) {
    const CapacityProfile profile{
        .down_bytes_per_s = 1e3 * (1 + i), .examples = 10 + 30 * (i % 3), .max_experts = 1 + i % 3};
    driver.JoinWith("c" + std::to_string(i), profile, instance);
  }

  // Anything from an honest update to a lost client; every tenth expert gets no token.
  void Answer(const ClientId& client) {
    const double fate = rng_.NextUniform();
    if (fate < 0.1) {
      driver.Update(client, {RejectReason::kNotFinite, "a value is not finite"});
      return;
    }
    if (fate < 0.2) {
      driver.Return(client);
      return;
    }
    UpdateReceived update = driver.UpdateFor(driver.TaskOf(client));
    TrainingFeedback& feedback = update.header.feedback;
    const auto per_layer = static_cast<std::size_t>(driver.options.spec.ExpertsPerLayer());
    for (std::size_t e = 0; e < feedback.affinity.size(); ++e) {
      feedback.affinity[e] = 0.01 + rng_.NextUniform();
      if (feedback.tokens[e] <= 0.0) continue;
      feedback.tokens[e] = rng_.NextUniform() < 0.1 ? 0.0 : 1.0 + 9.0 * rng_.NextUniform();
      feedback.expert_loss[e] = 2.0 * rng_.NextUniform();
    }
    for (std::size_t first = 0; first < feedback.affinity.size(); first += per_layer) {
      const std::span layer(feedback.affinity.data() + first, per_layer);
      const double sum = std::accumulate(layer.begin(), layer.end(), 0.0);
      for (double& affinity : layer) affinity /= sum;
    }
    driver.Apply(update);
  }

  void PlayRound() {
    if (rng_.NextUniform() < 0.3) {
      const int i = static_cast<int>(rng_.NextBelow(kClients));
      if (driver.state.clients["c" + std::to_string(i)].connected) {
        driver.Leave("c" + std::to_string(i));
        Join(i, rng_.NextUniform() < 0.5 ? "1" : std::to_string(++instances_));
      }
    }
    for (const ClientId& client : std::vector<ClientId>(driver.state.cohort)) {
      if (driver.state.phase == Phase::kReporting) Answer(client);
    }
    if (driver.state.phase == Phase::kReporting)
      driver.Tick(driver.options.participation.deadline_ms);
    if (driver.state.phase == Phase::kAggregating) driver.Aggregate();
    if (driver.state.phase == Phase::kCheckpointing) driver.Checkpoint();
  }

  CounterRng rng_;
  int instances_ = 1;
};

inline RunOptions RecordedOptions(AlignmentStrategy strategy, int experts = 6, int layers = 1) {
  RunOptions options = TinyOptions(experts, layers);
  options.rounds = 1000;
  options.alignment.strategy = strategy;
  options.participation.per_round = 4;
  options.participation.max_aborts = 1000;
  return options;
}

}  // namespace fedmoe
