// fedmoe-loadgen: many clients that train nothing, in one process, against a real coordinator.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <string>
#include <thread>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "apps/exit_codes.h"
#include "common/logging.h"
#include "common/open_files.h"
#include "common/signals.h"
#include "common/version.h"
#include "loadgen/thin_fleet.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMostUpdateBytes = std::uint64_t{1} << 40;

struct Arguments {
  ThinFleetOptions fleet;
  double think_s = 0.0;
  double jitter_s = 0.0;
  double progress_s = 5.0;
  std::vector<std::uint64_t> update_bytes;
  std::string log_level = "warning";
};

// Each connection is a file, and a few more are needed beside them.
Status AllowFiles(int connections) {
  const auto needed = static_cast<std::uint64_t>(connections) + 256;
  const std::uint64_t allowed = AllowOpenFiles(needed);
  if (allowed >= needed) return Status::Ok();
  return FailedPrecondition(fmt::format(
      "{} connections need {} open files, the limit is {}: raise it (ulimit -n), or let "
      "clients share connections (--connections)",
      connections, needed, allowed));
}

void TellProgress(const ThinFleetTotals& totals, int clients, double seconds) {
  fmt::print(stderr,
             "{:6.0f} s  {} of {} registered, {} tasks, {} updates accepted, {} rejected, {} calls "
             "made again, {} through\n",
             seconds, std::min<std::int64_t>(totals.registered, clients), clients, totals.tasks,
             totals.accepted, totals.rejected, totals.retries, totals.ended);
}

void PrintTotals(const ThinFleetTotals& totals, double seconds) {
  nlohmann::ordered_json json;
  json["seconds"] = seconds;
  json["registered"] = totals.registered;
  json["tasks"] = totals.tasks;
  json["accepted"] = totals.accepted;
  json["rejected"] = totals.rejected;
  json["retries"] = totals.retries;
  json["failed"] = totals.failed;
  json["bytes_down"] = totals.bytes_down;
  json["bytes_up"] = totals.bytes_up;
  json["fetch_s_median"] = Quantile(totals.fetch_s, 0.5);
  json["fetch_s_p99"] = Quantile(totals.fetch_s, 0.99);
  json["submit_s_median"] = Quantile(totals.submit_s, 0.5);
  json["submit_s_p99"] = Quantile(totals.submit_s, 0.99);
  json["update_bytes_min"] = std::llround(Quantile(totals.update_bytes, 0.0));
  json["update_bytes_median"] = std::llround(Quantile(totals.update_bytes, 0.5));
  json["update_bytes_max"] = std::llround(Quantile(totals.update_bytes, 1.0));
  fmt::print("{}\n", json.dump());
}

int Run(const Arguments& arguments) {
  const int connections =
      arguments.fleet.connections > 0 ? arguments.fleet.connections : arguments.fleet.clients;
  if (const Status allowed = AllowFiles(connections); !allowed.ok()) {
    fmt::print(stderr, "fedmoe-loadgen: {}\n", allowed.message());
    return kExitConfiguration;
  }
  // Before any other thread, so that all of them leave the signals to this one.
  std::mutex mutex;
  std::condition_variable change;
  ThinFleet* running = nullptr;
  bool stop = false;
  bool done = false;
  TerminationSignals signals([&](int) {
    const std::lock_guard lock(mutex);
    stop = true;
    if (running != nullptr) running->Stop();
  });
  ThinFleet fleet(arguments.fleet);
  {
    const std::lock_guard lock(mutex);
    if (stop) return kExitStopped;
    running = &fleet;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  std::thread progress([&] {
    std::unique_lock lock(mutex);
    while (!change.wait_for(lock, std::chrono::duration<double>(arguments.progress_s),
                            [&] { return done; })) {
      TellProgress(fleet.totals(), arguments.fleet.clients, seconds());
    }
  });
  const Status status = fleet.Run();
  {
    const std::lock_guard lock(mutex);
    running = nullptr;
    done = true;
  }
  change.notify_all();
  progress.join();
  const ThinFleetTotals totals = fleet.totals();
  if (!status.ok() || totals.failed > 0) {
    fmt::print(stderr, "fedmoe-loadgen: {}\n",
               status.ok() ? fmt::format("{} clients gave up, the first because of: {}",
                                         totals.failed, totals.first_error)
                           : status.message());
  }
  PrintTotals(totals, seconds());
  if (!status.ok()) return kExitConfiguration;
  if (totals.failed > 0) return kExitFailed;
  return stop ? kExitStopped : kExitCompleted;
}

void AddOptions(CLI::App& app, Arguments& arguments) {
  ThinFleetOptions& fleet = arguments.fleet;
  Behaviour& behaviour = fleet.behaviour;
  const auto probability = CLI::Range(0.0, 1.0);
  app.add_option("--coordinator", fleet.coordinator, "HOST:PORT")->required();
  app.add_option("--clients", fleet.clients, "how many; default: 1")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--connections", fleet.connections,
                 "TCP connections that they share; default: one each")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--joins-per-second", fleet.joins_per_second, "default: all at once")
      ->check(CLI::Range(1, 1'000'000));
  app.add_option("--prefix", fleet.prefix, "of the clients' names; default: thin-")
      ->check([](const std::string& prefix) {
        return prefix.size() <= 40 ? "" : "at most 40 characters";
      });
  app.add_option("--think", arguments.think_s, "seconds between shards and update; default: 0")
      ->check(CLI::Range(0.0, 86'400.0));
  app.add_option("--jitter", arguments.jitter_s, "seconds added to it at most, drawn; default: 0")
      ->check(CLI::Range(0.0, 86'400.0));
  app.add_option("--returns", behaviour.returns, "share of the tasks given back; default: 0")
      ->check(probability);
  app.add_option("--cuts", behaviour.cuts,
                 "share of the updates broken off half-way and sent again; default: 0")
      ->check(probability);
  app.add_option("--vanishes", behaviour.vanishes,
                 "share of the tasks after which a client opens a new session; default: 0")
      ->check(probability);
  app.add_option("--examples", behaviour.examples, "that each client claims; default: 100")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000}));
  app.add_option("--max-experts", behaviour.max_experts,
                 "most experts of a client; default: no limit")
      ->check(CLI::Range(1, 4096));
  app.add_option(
         "--update-bytes", arguments.update_bytes,
         "size of an update, or least and most of it, drawn, as 64000 or 64kB: of topk any, "
         "else the trunk and as many experts as fit; default: all experts")
      ->expected(1, 2)
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true));
  app.add_option("--seed", behaviour.seed, "of all draws; default: 1");
  app.add_option("--progress", arguments.progress_s, "seconds between lines; default: 5")
      ->check(CLI::Range(0.1, 86'400.0));
  app.add_option("--tls-ca", fleet.tls.ca, "PEM: who signed the coordinator's certificate");
  app.add_option("--tls-certificate", fleet.tls.certificate,
                 "PEM: of a client; all have its name then, so only --clients 1 is of use");
  app.add_option("--tls-key", fleet.tls.key, "PEM: its private key");
  app.set_version_flag("--version", std::string("fedmoe-loadgen ") + kVersion);
}

Status TakeSizes(Arguments& arguments) {
  if (arguments.update_bytes.empty()) return Status::Ok();
  const std::uint64_t least = arguments.update_bytes.front();
  const std::uint64_t most = arguments.update_bytes.back();
  if (least < 1 || most < least || most > kMostUpdateBytes) {
    return InvalidArgument(fmt::format(
        "--update-bytes must be 1 to {}, the second no less than the first (got {} and {})",
        kMostUpdateBytes, least, most));
  }
  arguments.fleet.behaviour.update_bytes = {.least = least, .most = most};
  return Status::Ok();
}

int Main(int argc, char** argv) {
  CLI::App app{
      "Clients that train nothing, in one process, against a coordinator: it registers them, gives "
      "them tasks and takes their updates as if they were real. Progress goes to standard error, "
      "the totals as one JSON object to standard output.\n"
      "Exit codes: 0 the run is over, 1 clients gave up, 2 usage, 7 stopped on request."};
  Arguments arguments;
  AddOptions(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  if (const Status logging = SetUpLogging("loadgen", arguments.log_level); !logging.ok()) {
    return kExitConfiguration;
  }
  if (const Status sizes = TakeSizes(arguments); !sizes.ok()) {
    fmt::print(stderr, "fedmoe-loadgen: {}\n", sizes.message());
    return kExitConfiguration;
  }
  arguments.fleet.behaviour.think_ms = static_cast<Milliseconds>(arguments.think_s * 1000.0);
  arguments.fleet.behaviour.jitter_ms = static_cast<Milliseconds>(arguments.jitter_s * 1000.0);
  return Run(arguments);
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
