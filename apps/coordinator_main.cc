// fedmoe-coordinator: reads a configuration, starts or resumes its run, serves clients until the
// run is over.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <malloc.h>
#include <spdlog/spdlog.h>

#include "apps/exit_codes.h"
#include "common/crash_points.h"
#include "common/logging.h"
#include "common/signals.h"
#include "common/unsynced_file_system.h"
#include "common/version.h"
#include "config/coordinator_config.h"
#include "coordinator/core.h"
#include "coordinator/gatekeeper.h"
#include "coordinator/grpc_server.h"
#include "coordinator/live_table.h"

namespace fedmoe {
namespace {

struct Arguments {
  ConfigSource source;
  bool resume = false;  // says what is done anyway
  bool check = false;
  std::string write_fleet;
};

constexpr std::uint64_t kMaxConfigBytes = 1 << 20;
constexpr Milliseconds kShutdownGraceMs = 1'000;

int Fail(const Status& status, int code) {
  fmt::print(stderr, "fedmoe-coordinator: {}\n", status.message());
  return code;
}

// One YAML a client of the fleet section, for scripts/run_local.
Status WriteFleet(const CoordinatorConfig& config, const std::string& directory) {
  FEDMOE_RETURN_IF_ERROR(PosixFileSystem().CreateDirectories(directory));
  if (config.fleet.empty())
    return InvalidArgument(
        "the configuration has no fleet section, so there is no local fleet to start");
  for (const ClientConfig& client : config.fleet) {
    FEDMOE_RETURN_IF_ERROR(WriteFileAtomically(PosixFileSystem(),
                                               JoinPath(directory, client.name + ".yaml"),
                                               std::string_view(DumpClientConfig(client))));
  }
  return Status::Ok();
}

CoreOptions CoreOptionsOf(const CoordinatorConfig& config, ModelSpec spec) {
  CoreOptions options{
      .run = config.run,
      .upcycle = config.upcycle,
      .run_name = config.name,
      .poll_hold_ms = config.server.poll_hold_ms,
      .heartbeat_interval_ms = config.server.heartbeat_interval_ms,
      // Who trains hears of the end with a heartbeat, and then asks.
      .linger_ms = std::max<Milliseconds>(10'000, 2 * config.server.heartbeat_interval_ms + 5'000),
      .max_clients = config.server.max_clients,
      .worker_threads = config.server.worker_threads,
      .keep_versions = config.storage.keep_versions,
      .durability = config.storage.durability};
  options.run.spec = std::move(spec);
  return options;
}

// A new run writes its configuration; one that goes on must not contradict the one that is there.
Status SettleConfig(FileSystem& files, RunDirectory& directory, const CoordinatorConfig& config) {
  const std::string yaml = DumpCoordinatorConfig(config);
  if (!directory.HasRun()) return directory.WriteConfig(yaml);
  FEDMOE_ASSIGN_OR_RETURN(
      const std::string stored,
      ReadFile(files, JoinPath(directory.path(), "config.yaml"), kMaxConfigBytes));
  if (stored == yaml) return Status::Ok();
  const std::vector<std::string> conflicts = ResumeConflicts(stored, yaml);
  if (conflicts.empty()) return directory.WriteConfig(yaml);
  std::string message = "the configuration differs from the run's in " + directory.path() +
                        "; a resumed run keeps its own:";
  for (const std::string& conflict : conflicts) message += "\n  " + conflict;
  message += "\nfor a new run choose another directory with --set storage.directory=DIR";
  return FailedPrecondition(message);
}

// A run that never came to serve a client must not stand in the way of the next start.
int FailNewRun(bool is_new, RunDirectory& directory, const Status& status, int code) {
  if (is_new) {
    if (Status removed = directory.RemoveNewRun(); !removed.ok())
      spdlog::warn("{}: the run that did not start remains: {}", directory.path(),
                   removed.message());
  }
  return Fail(status, code);
}

// Keeps the last report for the summary, beside the table.
class Watcher final : public CoreObserver {
 public:
  Watcher(bool live, RoundNumber rounds) : live_(live), table_(stdout, rounds) {}
  void OnReport(const RoundReport& report) override {
    last_ = std::make_unique<RoundReport>(report);
    if (live_) table_.OnReport(report);
  }
  void OnAbort(const AbortRound& action) override {
    if (live_) table_.OnAbort(action);
  }
  const RoundReport* last() const { return last_.get(); }

 private:
  bool live_;
  LiveTable table_;
  std::unique_ptr<RoundReport> last_;
};

int ExitCodeOf(const RunSummary& summary) {
  if (summary.status == RunStatusName(RunStatus::kCompleted)) return kExitCompleted;
  return summary.status == RunStatusName(RunStatus::kStopped) ? kExitStopped : kExitFailed;
}

int Run(const CoordinatorConfig& config, ModelSpec spec) {
  UnsyncedFileSystem unsynced(PosixFileSystem());
  FileSystem& disk = config.storage.durability == Durability::kFull
                         ? PosixFileSystem()
                         : static_cast<FileSystem&>(unsynced);
  const Result<std::unique_ptr<CrashPoints>> crashes = CrashPoints::FromEnvironment(disk);
  if (!crashes.ok()) return Fail(crashes.status(), kExitConfiguration);
  FileSystem& files = *crashes ? **crashes : disk;
  const std::string path =
      config.storage.directory.empty() ? JoinPath("runs", config.name) : config.storage.directory;
  Result<std::unique_ptr<RunDirectory>> directory = RunDirectory::Open(files, path);
  if (!directory.ok()) return Fail(directory.status(), ExitOfDirectory(directory.status()));
  const bool is_new = !(*directory)->HasRun();
  if (Status settled = SettleConfig(files, **directory, config); !settled.ok())
    return Fail(settled, ExitOfDirectory(settled));

  // Before any other thread, so that all of them leave the signals to this one.
  std::mutex mutex;
  CoordinatorCore* running = nullptr;
  int early_signals = 0;
  TerminationSignals signals([&](int count) {
    std::lock_guard lock(mutex);
    early_signals = count;
    spdlog::info(
        count == 1 ? "asked to stop: the round in hand is finished first; once more to stop at once"
                   : "stopping at once");
    if (running != nullptr) running->RequestStop(count == 1);
  });

  // Outlives the core, whose last answers pass by it.
  const Result<std::unique_ptr<Gatekeeper>> gate = Gatekeeper::Open(files, path, config.server.tls);
  if (!gate.ok())
    return FailNewRun(is_new, **directory, gate.status(), ExitOfDirectory(gate.status()));
  SteadyClock clock;
  Watcher watcher(config.live_table, config.run.rounds);
  CoreOptions options = CoreOptionsOf(config, std::move(spec));
  options.journal_hook = crashes->get();
  Result<std::unique_ptr<CoordinatorCore>> core =
      CoordinatorCore::Start(std::move(options), files, **directory, clock, &watcher);
  if (!core.ok())
    return FailNewRun(is_new, **directory, core.status(), ExitOfDirectory(core.status()));
  Result<std::unique_ptr<GrpcServer>> server = GrpcServer::Start(
      **core, **gate, config.server.address,
      {.tls = config.server.tls,
       .max_connections = static_cast<std::size_t>(config.server.max_connections)});
  if (!server.ok()) {
    core->reset();
    const bool credentials = server.status().code() != StatusCode::kFailedPrecondition;
    return FailNewRun(is_new, **directory, server.status(),
                      credentials ? kExitConfiguration : kExitAddress);
  }
  if (Status written = (*directory)->WriteAddress((*server)->address()); !written.ok())
    return Fail(written, kExitFailed);
  spdlog::info("run {} listens on {}, writes to {}", config.name, (*server)->address(), path);
  {
    std::lock_guard lock(mutex);
    running = core->get();
    if (early_signals > 0) running->RequestStop(early_signals == 1);
  }

  const RunSummary summary = (*core)->Wait();
  {
    std::lock_guard lock(mutex);
    running = nullptr;
  }
  (*server)->Shutdown(kShutdownGraceMs);
  // Not fmt::print, which throws where the terminal has gone.
  if (config.live_table) std::fputs(SummaryText(summary, watcher.last(), path).c_str(), stdout);
  return ExitCodeOf(summary);
}

int Main(int argc, char** argv) {
  // Chunks of transfers come and go on all of gRPC's threads. An arena for each keeps what others
  // could use: with 64 clients as much memory again.
  static_cast<void>(::mallopt(M_ARENA_MAX, 1));
  CLI::App app{
      "Coordinates the federated training of a Mixture-of-Experts model.\n"
      "Exit codes: 0 completed, 1 failed, 2 configuration, 3 run directory, 4 address, 7 stopped "
      "on request."};
  Arguments arguments;
  app.add_option("--config", arguments.source.path,
                 "YAML configuration (configs/reference.yaml documents every key)")
      ->required();
  app.add_option("--set", arguments.source.overrides,
                 "KEY.PATH=VALUE: override a key; may be given again")
      ->allow_extra_args(false);
  app.add_flag("--resume", arguments.resume,
               "go on with the run in the run directory, if there is one, as without this option");
  app.add_flag("--check", arguments.check, "check the configuration, print it resolved, and exit");
  app.add_option(
      "--write-fleet", arguments.write_fleet,
      "write a configuration for each client of the fleet section to this folder, and exit");
  app.set_version_flag("--version", std::string("fedmoe-coordinator ") + kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  Result<CoordinatorConfig> config = LoadCoordinatorConfig(arguments.source);
  if (!config.ok()) return Fail(config.status(), kExitConfiguration);
  if (Status logging = SetUpLogging("coordinator", config->log_level); !logging.ok())
    return Fail(logging, kExitConfiguration);
  Result<ModelSpec> spec = BuildModelSpec(config->model);
  if (!spec.ok()) return Fail(spec.status(), kExitConfiguration);
  if (arguments.check) {
    fmt::print("{}", DumpCoordinatorConfig(*config));
    return kExitCompleted;
  }
  if (!arguments.write_fleet.empty()) {
    const Status written = WriteFleet(*config, arguments.write_fleet);
    return written.ok() ? kExitCompleted : Fail(written, kExitConfiguration);
  }
  return Run(*config, std::move(*spec));
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
