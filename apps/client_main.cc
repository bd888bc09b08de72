// fedmoe-client: one node of the fleet. Trains, or evaluates, what the coordinator asks for, on the
// node's own data.
#include <cstdio>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "apps/exit_codes.h"
#include "client/benchmark.h"
#include "client/blas_check.h"
#include "client/client_loop.h"
#include "client/client_state.h"
#include "client/data_path.h"
#include "client/grpc_transport.h"
#include "client/local_trainer.h"
#include "common/crash_points.h"
#include "common/logging.h"
#include "common/signals.h"
#include "common/version.h"
#include "config/client_config.h"
#include "data/dataset.h"
#include "moe/model_options.h"

namespace fedmoe {
namespace {

constexpr int kBenchmarkWidth = 128;
constexpr int kBenchmarkExpertWidth = 256;
constexpr double kBenchmarkBudgetS = 0.25;

int Fail(const Status& status, int code) {
  fmt::print(stderr, "fedmoe-client: {}\n", status.message());
  return code;
}

Result<std::unique_ptr<LocalTrainer>> LoadTrainer(const ClientConfig& config) {
  const DataOptions data = WithDefaultPath(config.data);
  if (config.role == ClientRole::kEvaluator) {
    FEDMOE_ASSIGN_OR_RETURN(Dataset test, LoadTestData(data));
    spdlog::info("{} test examples of {}", test.size(), test.name);
    return std::make_unique<LocalTrainer>(std::move(test), ComputeOn(config.device));
  }
  FEDMOE_ASSIGN_OR_RETURN(LocalData local, LoadLocalData(data));
  spdlog::info("{} training and {} held-out examples of {}", local.train.size(),
               local.holdout.size(), local.train.name);
  return std::make_unique<LocalTrainer>(std::move(local), ComputeOn(config.device));
}

// Declared values stand; what is not declared is measured, if it may be.
CapacityProfile ProfileOf(const ClientConfig& config) {
  CapacityProfile profile = config.capacity;
  if (profile.device.empty())
    profile.device = fmt::format("{}, {} thread{}", config.device, config.threads,
                                 config.threads == 1 ? "" : "s");
  if (!config.measure_capacity || config.role == ClientRole::kEvaluator) return profile;
  const bool on_cpu = config.device == "cpu";
  if (profile.memory_bytes == 0) {
    if (on_cpu) {
      profile.memory_bytes = MeasureMemoryBudget();
    } else {
      spdlog::warn(
          "the free memory of {} is not measured, so the coordinator sets no limit: declare "
          "capacity.memory_bytes",
          config.device);
    }
  }
  if (profile.compute_flops_per_s <= 0.0) {
    profile.compute_flops_per_s = MeasureExpertFlops(kBenchmarkWidth, kBenchmarkExpertWidth,
                                                     kBenchmarkBudgetS, config.device);
    if (on_cpu && DetectBlas() == BlasFlavour::kReference) {
      spdlog::warn(
          "the compute benchmark ran at {:.1f} GFLOP/s, on the reference BLAS: an optimised one is "
          "many times faster, and the "
          "coordinator gives this client less work than it could do",
          profile.compute_flops_per_s / 1e9);
    }
  }
  spdlog::info("capacity: {:.0f} MB of memory, {:.1f} GFLOP/s",
               static_cast<double>(profile.memory_bytes) / 1e6, profile.compute_flops_per_s / 1e9);
  return profile;
}

int ExitCodeOf(const ClientOutcome& outcome) {
  switch (outcome.end) {
    case ClientEnd::kRunOver:
    case ClientEnd::kStopped:
      return kExitCompleted;
    case ClientEnd::kGaveUp:
      return kExitGaveUp;
    case ClientEnd::kRefused:
      return kExitRefused;
  }
  return kExitFailed;
}

int Run(const ClientConfig& config) {
  // Before any other thread, so that all of them leave the signals to this one.
  std::mutex mutex;
  ClientLoop* running = nullptr;
  int early_signals = 0;
  TerminationSignals signals([&](int count) {
    std::lock_guard lock(mutex);
    if (running != nullptr) {
      running->Stop();
    } else {
      early_signals = count;
    }
  });
  const Result<std::unique_ptr<Transport>> transport =
      MakeGrpcTransport(config.coordinator, config.tls);
  if (!transport.ok()) return Fail(transport.status(), kExitConfiguration);
  if (!config.tls.enabled() && !IsLoopback(config.coordinator)) {
    spdlog::warn(
        "the connection to {} is not encrypted (tls.ca): keep it within a network that you trust",
        config.coordinator);
  }
  if (const Status device = OpenDevice("device", config.device); !device.ok()) {
    return Fail(device, kExitConfiguration);
  }
  SetTorchThreads(config.threads);
  if (const std::string warning = BlasWarning(DetectBlas()); !warning.empty())
    spdlog::warn("{}", warning);

  Result<std::unique_ptr<LocalTrainer>> trainer = LoadTrainer(config);
  if (!trainer.ok()) return Fail(trainer.status(), kExitData);
  const std::string directory =
      config.state_directory.empty() ? JoinPath(".fedmoe", config.name) : config.state_directory;
  const Result<std::unique_ptr<CrashPoints>> crashes =
      CrashPoints::FromEnvironment(PosixFileSystem());
  if (!crashes.ok()) return Fail(crashes.status(), kExitConfiguration);
  Result<std::unique_ptr<ClientState>> state =
      ClientState::Open(*crashes ? **crashes : PosixFileSystem(), directory);
  if (!state.ok()) return Fail(state.status(), ExitOfDirectory(state.status()));

  ClientLoopOptions options{
      .name = config.name,
      .role = config.role,
      .coordinator = config.coordinator,
      .profile = ProfileOf(config),
      .measure_bandwidth = config.measure_capacity,
      .cache_bytes = config.cache_bytes,
      .retry_initial_ms = config.retry_initial_ms,
      .retry_max_ms = config.retry_max_ms,
      .retry_limit_ms = config.retry_limit_ms,
      .build_spec = [](const std::string& preset,
                       const std::map<std::string, std::string>& given) -> Result<ModelSpec> {
        FEDMOE_ASSIGN_OR_RETURN(const ModelOptions model, ParseModelOptions(preset, given));
        return BuildModelSpec(model);
      }};
  SteadyClock clock;
  ClientLoop loop(**transport, **trainer, **state, clock, std::move(options));
  {
    std::lock_guard lock(mutex);
    running = &loop;
    for (int i = 0; i < early_signals; ++i) loop.Stop();
  }
  const ClientOutcome outcome = loop.Run();
  {
    std::lock_guard lock(mutex);
    running = nullptr;
  }
  const int code = ExitCodeOf(outcome);
  if (code == kExitCompleted) {
    spdlog::info("done: {}", outcome.detail.empty() ? "the run is completed" : outcome.detail);
    if (const Status forgotten = (*state)->ForgetEnd(); !forgotten.ok())
      spdlog::warn("{}", forgotten.message());
  } else {
    fmt::print(stderr, "fedmoe-client: {}\n", outcome.detail);
  }
  return code;
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Trains or evaluates a Mixture-of-Experts model on this node's own data, as the coordinator "
      "asks.\n"
      "Exit codes: 0 run over or stopped on request, 1 failed, 2 configuration, 3 state directory, "
      "4 data, 5 gave up, 6 refused."};
  ConfigSource source;
  bool check = false;
  app.add_option("--config", source.path,
                 "YAML configuration (configs/client_reference.yaml documents every key)")
      ->required();
  app.add_option("--set", source.overrides, "KEY.PATH=VALUE: override a key; may be given again")
      ->allow_extra_args(false);
  app.add_flag("--check", check, "check the configuration, print it resolved, and exit");
  app.set_version_flag("--version", std::string("fedmoe-client ") + kVersion);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  Result<ClientConfig> config = LoadClientConfig(source);
  if (!config.ok()) return Fail(config.status(), kExitConfiguration);
  if (Status logging = SetUpLogging(config->name, config->log_level); !logging.ok())
    return Fail(logging, kExitConfiguration);
  if (check) {
    fmt::print("{}", DumpClientConfig(*config));
    return kExitCompleted;
  }
  return Run(*config);
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
