// A small simulated run, and what its observer saw.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "simulation/virtual_run.h"
#include "tests/config/load_yaml.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

// Four trainers of the generated dataset, 3 of 4 experts each; nothing is evaluated.
inline const std::string kSmall =
    "name: small\n"
    "model: {width: 16, expert_width: 16, experts: 4, top_k: 2}\n"
    "run: {rounds: 3, quorum: 1, deadline_s: 0, clients: {min: 4}}\n"
    "evaluation: {mode: none}\n"
    "fleet:\n"
    "  clients: 4\n"
    "  evaluators: 0\n"
    "  data: {domains: {examples: 40}}\n"
    "  capacity: {measure: false, max_experts: 3}\n";

struct Seen final : CoreObserver {
  std::vector<RoundReport> reports;
  std::vector<std::string> aborts;
  void OnReport(const RoundReport& report) override { reports.push_back(report); }
  void OnAbort(const AbortRound& action) override { aborts.push_back(action.detail); }
};

struct Virtual {
  RunSummary summary;
  RunTimes times;
  Seen seen;
};

// Runs kSmall with these overrides to its end.
inline Virtual RunSmall(const std::vector<std::string>& overrides, int threads = 2,
                        const ComputeOptions& compute = {}) {
  Virtual result;
  TempDir temporary;
  const auto config = LoadCoordinator(kSmall, overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  if (!config.ok()) return result;
  const auto population = LoadPopulation(*config);
  EXPECT_TRUE(population.ok()) << population.status().message();
  if (!population.ok()) return result;
  UnsyncedFileSystem files(PosixFileSystem());
  const auto directory = RunDirectory::Open(files, temporary.File("run"));
  auto spec = BuildModelSpec(config->model);
  EXPECT_TRUE(directory.ok() && spec.ok());
  VirtualRun run(*config, std::move(*spec), *population, files, **directory,
                 {.threads = threads, .compute = compute, .observer = &result.seen});
  const auto summary = run.Run();
  EXPECT_TRUE(summary.ok()) << summary.status().message();
  if (summary.ok()) result.summary = *summary;
  result.times = run.times();
  return result;
}

inline std::string OutcomeOf(const RoundReport& report, const ClientId& client) {
  for (const ClientReport& entry : report.clients) {
    if (entry.client == client) return entry.outcome;
  }
  return "not in the cohort";
}

}  // namespace fedmoe
