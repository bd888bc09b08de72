#include "simulation/simulate.h"

#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/unsynced_file_system.h"
#include "coordinator/live_table.h"
#include "simulation/population.h"

namespace fedmoe {
namespace {

// The table, and the last report for the summary under it.
class Watcher final : public CoreObserver {
 public:
  Watcher(bool live, RoundNumber rounds) : live_(live), table_(stdout, rounds) {}
  void OnReport(const RoundReport& report) override {
    last_ = report;
    if (live_) table_.OnReport(report);
  }
  void OnAbort(const AbortRound& action) override {
    if (live_) table_.OnAbort(action);
  }
  const RoundReport* last() const { return last_ ? &*last_ : nullptr; }

 private:
  const bool live_;
  LiveTable table_;
  std::optional<RoundReport> last_;
};

SimulationOutcome Failed(SimulationEnd end, const Status& status) {
  return {.end = end, .error = status.message()};
}

SimulationEnd EndOf(const RunSummary& summary) {
  if (summary.status == RunStatusName(RunStatus::kCompleted)) return SimulationEnd::kCompleted;
  return summary.status == RunStatusName(RunStatus::kStopped) ? SimulationEnd::kStopped
                                                              : SimulationEnd::kFailed;
}

Result<std::unique_ptr<RunDirectory>> OpenDirectory(FileSystem& files, const std::string& path,
                                                    const CoordinatorConfig& config) {
  FEDMOE_ASSIGN_OR_RETURN(std::unique_ptr<RunDirectory> directory, RunDirectory::Open(files, path));
  if (directory->HasRun() || files.Exists(JoinPath(path, "config.yaml"))) {
    return FailedPrecondition("run directory " + path +
                              " holds a run already; a simulation begins in one of its own: "
                              "choose another with --out");
  }
  FEDMOE_RETURN_IF_ERROR(directory->WriteConfig(DumpCoordinatorConfig(config)));
  return directory;
}

void WarnOfThreads(const CoordinatorConfig& config) {
  const int threads = config.fleet.front().threads;
  if (!config.run.deterministic || threads == 1) return;
  spdlog::warn(
      "fleet.threads is {}: virtual clients compute with one thread each, so the model's digest "
      "may differ from that of a fleet of processes",
      threads);
}

void WarnOfDevice(const CoordinatorConfig& config) {
  if (!config.run.deterministic || config.simulation.device == "cpu") return;
  spdlog::warn(
      "simulation.device is {}: the model's digest differs from that of the CPU, and may differ "
      "from run to run, whatever run.deterministic says",
      config.simulation.device);
}

}  // namespace

void StopSwitch::Request() {
  const std::lock_guard lock(mutex_);
  ++requests_;
  if (run_ != nullptr) run_->RequestStop();
}

bool StopSwitch::requested() const {
  const std::lock_guard lock(mutex_);
  return requests_ > 0;
}

void StopSwitch::Attach(VirtualRun* run) {
  const std::lock_guard lock(mutex_);
  run_ = run;
  for (int i = 0; run != nullptr && i < requests_; ++i) run->RequestStop();
}

SimulationOutcome Simulate(const SimulationJob& job, StopSwitch& stop) {
  Result<ModelSpec> spec = BuildModelSpec(job.config.model);
  if (!spec.ok()) return Failed(SimulationEnd::kConfiguration, spec.status());
  if (job.config.fleet.empty()) {
    return Failed(SimulationEnd::kConfiguration,
                  InvalidArgument("the configuration has no fleet section, so there is nobody to "
                                  "simulate"));
  }
  if (const Status device = OpenDevice("simulation.device", job.config.simulation.device);
      !device.ok()) {
    return Failed(SimulationEnd::kConfiguration, device);
  }
  const Result<Population> population = LoadPopulation(job.config);
  if (!population.ok()) return Failed(SimulationEnd::kData, population.status());

  UnsyncedFileSystem files(PosixFileSystem());
  const Result<std::unique_ptr<RunDirectory>> directory =
      OpenDirectory(files, job.directory, job.config);
  if (!directory.ok()) return Failed(SimulationEnd::kDirectory, directory.status());
  WarnOfThreads(job.config);
  WarnOfDevice(job.config);

  Watcher watcher(job.live_table, job.config.run.rounds);
  VirtualRun run(job.config, std::move(*spec), *population, files, **directory,
                 {.threads = job.threads,
                  .compute = ComputeOn(job.config.simulation.device),
                  .observer = &watcher});
  stop.Attach(&run);
  const Result<RunSummary> summary = run.Run();
  stop.Attach(nullptr);
  if (!summary.ok()) return Failed(SimulationEnd::kFailed, summary.status());
  if (job.live_table) {
    fmt::print("{}{}", SummaryText(*summary, watcher.last(), job.directory),
               RunTimesText(run.times()));
  }
  return {.end = EndOf(*summary), .error = "", .summary = *summary, .times = run.times()};
}

}  // namespace fedmoe
