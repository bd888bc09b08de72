// fedmoe-simulate: a whole run with virtual clients in one process.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "apps/exit_codes.h"
#include "client/blas_check.h"
#include "common/logging.h"
#include "common/signals.h"
#include "common/version.h"
#include "config/coordinator_config.h"
#include "simulation/simulate.h"
#include "simulation/sweep.h"

namespace fedmoe {
namespace {

struct Arguments {
  ConfigSource source;
  std::string sweep;
  std::string out;
  int threads = 0;
  bool check = false;
};

int Fail(const std::string& message, int code) {
  fmt::print(stderr, "fedmoe-simulate: {}\n", message);
  return code;
}

int ExitCodeOf(SimulationEnd end) {
  switch (end) {
    case SimulationEnd::kCompleted:
      return kExitCompleted;
    case SimulationEnd::kFailed:
      return kExitFailed;
    case SimulationEnd::kConfiguration:
      return kExitConfiguration;
    case SimulationEnd::kDirectory:
      return kExitDirectory;
    case SimulationEnd::kData:
      return kExitData;
    case SimulationEnd::kStopped:
      return kExitStopped;
  }
  return kExitFailed;
}

int Threads(int asked) {
  return asked > 0 ? asked : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

// Before any other thread, so that all of them leave the signals to this one.
std::unique_ptr<TerminationSignals> TakeSignals(StopSwitch& stop) {
  return std::make_unique<TerminationSignals>([&stop](int) { stop.Request(); });
}

void WarnOfBlas() {
  if (const std::string warning = BlasWarning(DetectBlas()); !warning.empty())
    spdlog::warn("{}", warning);
}

int RunMany(const Arguments& arguments) {
  if (arguments.out.empty()) return Fail("--out is required", kExitConfiguration);
  if (Status logging = SetUpLogging("simulate", "warning"); !logging.ok())
    return Fail(logging.message(), kExitConfiguration);
  StopSwitch stop;
  const auto signals = TakeSignals(stop);
  WarnOfBlas();
  const SweepOutcome outcome = RunSweep({.path = arguments.sweep,
                                         .directory = arguments.out,
                                         .sets = arguments.source.overrides,
                                         .threads = Threads(arguments.threads)},
                                        stop);
  const int code = ExitCodeOf(outcome.end);
  return outcome.error.empty() ? code : Fail(outcome.error, code);
}

int RunOne(const Arguments& arguments) {
  const Result<CoordinatorConfig> config = LoadCoordinatorConfig(arguments.source);
  if (!config.ok()) return Fail(config.status().message(), kExitConfiguration);
  if (Status logging = SetUpLogging("simulate", config->log_level); !logging.ok())
    return Fail(logging.message(), kExitConfiguration);
  if (arguments.check) {
    fmt::print("{}", DumpCoordinatorConfig(*config));
    return kExitCompleted;
  }
  if (arguments.out.empty()) return Fail("--out is required", kExitConfiguration);
  StopSwitch stop;
  const auto signals = TakeSignals(stop);
  WarnOfBlas();
  const SimulationOutcome outcome = Simulate({.config = *config,
                                              .directory = arguments.out,
                                              .threads = Threads(arguments.threads),
                                              .live_table = config->live_table},
                                             stop);
  const int code = ExitCodeOf(outcome.end);
  return outcome.error.empty() ? code : Fail(outcome.error, code);
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Simulates a run: the fleet of a configuration as virtual clients in this process, in "
      "virtual time.\n"
      "Exit codes: 0 completed, 1 failed, 2 configuration, 3 run directory, 4 data, 7 stopped on "
      "request."};
  Arguments arguments;
  const auto config = app.add_option("--config", arguments.source.path,
                                     "YAML configuration with a fleet section "
                                     "(configs/reference.yaml)");
  const auto sweep =
      app.add_option("--sweep", arguments.sweep,
                     "YAML file with a base configuration and what varies; goes on where it was")
          ->excludes(config);
  app.add_option("--out", arguments.out,
                 "run directory, which must hold no run; of a sweep the folder of its runs");
  app.add_option("--set", arguments.source.overrides,
                 "KEY.PATH=VALUE: override a key; may be given again")
      ->allow_extra_args(false);
  app.add_option("--threads", arguments.threads,
                 "clients that train at once, one thread each; default: one a processor")
      ->check(CLI::Range(1, 1024));
  app.add_flag("--check", arguments.check, "check the configuration, print it resolved, and exit")
      ->excludes(sweep);
  app.set_version_flag("--version", std::string("fedmoe-simulate ") + kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  if (!arguments.sweep.empty()) return RunMany(arguments);
  if (arguments.source.path.empty())
    return Fail("--config or --sweep is required", kExitConfiguration);
  return RunOne(arguments);
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
