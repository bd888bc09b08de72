// Rounds of the real coordinator, as a process of its own, with thin clients that train nothing,
// against the same bytes over gRPC alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "bench/bare_transfer.h"
#include "bench/child_process.h"
#include "loadgen/thin_fleet.h"

namespace fedmoe {
namespace {

using SteadyTime = std::chrono::steady_clock;

struct Options {
  std::string coordinator;  // the program; empty: beside this one
  std::string directory;    // for runs; on the disk that is measured
  std::vector<std::string> sizes = {"100kb", "10mb", "100mb"};
  int clients = 4;
  int rounds = 0;  // of each size; 0: by size
  bool memory = true;
  bool keep = false;
};

struct Size {
  std::string name;
  std::uint64_t bytes;
  int rounds;
};

const std::vector<Size>& Sizes() {
  static const std::vector<Size> sizes = {
      {"100kb", 100'000, 200}, {"10mb", 10'000'000, 40}, {"100mb", 100'000'000, 9}};
  return sizes;
}

// The rounds before are for warming up.
constexpr int kWarmUp = 2;

void Require(const Status& status) {
  if (status.ok()) return;
  fmt::print(stderr, "bench_round: {}\n", status.message());
  std::exit(1);
}

template <typename T>
T Required(Result<T> result) {
  Require(result.status());
  return std::move(result).value();
}

double Median(const std::vector<double>& values) { return Quantile(values, 0.5); }

// When the first client got its task of each round.
class RoundClock final : public ThinFleetObserver {
 public:
  void OnTask(const TaskAssignment& task) override {
    const std::lock_guard lock(mutex_);
    begins_.try_emplace(task.round, SteadyTime::now());
  }
  // From one round's first task to the next one's.
  std::vector<double> Seconds() const {
    const std::lock_guard lock(mutex_);
    std::vector<double> seconds;
    for (auto round = begins_.begin(); round != begins_.end(); ++round) {
      const auto next = std::next(round);
      if (next == begins_.end() || round->first <= kWarmUp) continue;
      seconds.push_back(std::chrono::duration<double>(next->second - round->second).count());
    }
    return seconds;
  }

 private:
  mutable std::mutex mutex_;
  std::map<RoundNumber, SteadyTime::time_point> begins_;
};

struct RunRow {
  std::vector<double> seconds;  // of each round
  double peak_rss_mb = 0.0;     // of the coordinator
  double rss_over_model = 0.0;
  double processor_s = 0.0;  // of the coordinator, a round
};

class Bench {
 public:
  Bench(Options options, std::string self) : options_(std::move(options)), self_(std::move(self)) {}

  int Run() {
    for (const Size& size : Sizes()) {
      const auto& wanted = options_.sizes;
      if (std::find(wanted.begin(), wanted.end(), size.name) != wanted.end()) MeasureSpeed(size);
    }
    if (options_.memory) MeasureMemory();
    std::puts(line_.dump().c_str());
    return 0;
  }

 private:
  // Every client holds the whole model: what federated averaging of a dense model moves.
  std::string Config(std::uint64_t bytes, int clients, int rounds, const std::string& durability,
                     const std::string& optimizer, const std::string& run) const {
    constexpr std::uint64_t kExperts = 4, kWidth = 64;
    const std::uint64_t width = bytes / sizeof(float) / kExperts / (2 * kWidth + 1);
    return fmt::format(
        "name: bench\n"
        "model: {{inputs: 16, classes: 4, width: {}, experts: {}, expert_width: {}, top_k: 2}}\n"
        "run: {{rounds: {}, quorum: 1, deadline_s: 0, clients: {{min: {}}}}}\n"
        "alignment: {{strategy: full}}\n"
        "aggregation: {{optimizer: {}, learning_rate: 0.01}}\n"
        "evaluation: {{mode: none}}\n"
        "server: {{address: '127.0.0.1:0', worker_threads: 2}}\n"
        "storage: {{directory: {}, durability: {}}}\n"
        "log: {{level: warning, live_table: false}}\n",
        kWidth, kExperts, width, rounds, clients, optimizer, run, durability);
  }

  RunRow RunRounds(std::uint64_t bytes, int clients, int rounds, const std::string& durability,
                   const std::string& optimizer) {
    const std::string run = options_.directory + "/run";
    std::filesystem::remove_all(run);
    const std::string config = options_.directory + "/bench.yaml";
    std::ofstream(config) << Config(bytes, clients, rounds, durability, optimizer, run);
    ChildProcess coordinator = Required(ChildProcess::Start(
        {options_.coordinator, "--config", config}, options_.directory + "/coordinator.log"));
    const std::string address = WaitForAddress(coordinator, run);
    const std::uint64_t idle = coordinator.ResidentBytes();
    coordinator.ForgetPeak();
    RoundClock clock;
    ThinFleet fleet({.coordinator = address, .clients = clients}, &clock);
    // The peak is read while the program still lives, which it does for as long as it lingers.
    std::thread running([&] { Require(fleet.Run()); });
    std::uint64_t peak = 0;
    double processor = 0.0;
    while (coordinator.Running()) {
      peak = std::max(peak, coordinator.PeakResidentBytes());
      processor = std::max(processor, coordinator.ProcessorSeconds());
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    running.join();
    const ThinFleetTotals totals = fleet.totals();
    if (coordinator.Wait() != 0 || totals.failed > 0 || totals.rejected > 0) {
      Require(Internal(fmt::format("the run did not complete: {} (see {}/coordinator.log)",
                                   totals.first_error, options_.directory)));
    }
    if (!options_.keep) std::filesystem::remove_all(run);
    return {.seconds = clock.Seconds(),
            .peak_rss_mb = static_cast<double>(peak) / 1e6,
            .rss_over_model =
                static_cast<double>(peak - std::min(peak, idle)) / static_cast<double>(bytes),
            .processor_s = processor / rounds};
  }

  static std::string WaitForAddress(ChildProcess& coordinator, const std::string& run) {
    for (;;) {
      std::string address;
      std::getline(std::ifstream(run + "/address") >> std::ws, address);
      if (!address.empty()) return address;
      if (!coordinator.Running()) Require(Internal("the coordinator did not start"));
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }

  // Seconds of three fdatasyncs, each of a file that has just grown by a page.
  double ThreeSyncs() {
    const std::string path = options_.directory + "/sync";
    const int file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    const std::string page(4096, 'x');
    const auto begin = SteadyTime::now();
    bool ok = file >= 0;
    for (int i = 0; i < 3; ++i) {
      ok = ok && ::write(file, page.data(), page.size()) == static_cast<ssize_t>(page.size()) &&
           ::fdatasync(file) == 0;
    }
    const double seconds = std::chrono::duration<double>(SteadyTime::now() - begin).count();
    if (file >= 0) ::close(file);
    if (!ok) Require(Internal("cannot write " + path));
    return seconds;
  }

  struct Bare {
    std::vector<double> transfer_s;
    std::vector<double> sync_s;
  };
  void MeasureBare(const Size& size, int rounds, Bare& bare) {
    ChildProcess server =
        Required(ChildProcess::Start({self_, "--serve-bare", std::to_string(size.bytes)}));
    BareClients clients("127.0.0.1:" + Required(server.ReadLine()), options_.clients, size.bytes);
    for (int round = 0; round < kWarmUp + rounds; ++round) {
      const double transfer_s = Required(clients.Round());
      const double sync_s = ThreeSyncs();
      if (round < kWarmUp) continue;
      bare.transfer_s.push_back(transfer_s);
      bare.sync_s.push_back(sync_s);
    }
  }

  void MeasureSpeed(const Size& size) {
    const int rounds = options_.rounds > 0 ? options_.rounds : size.rounds;
    const std::string name = fmt::format("{}x{}", options_.clients, size.name);
    // The yardstick before, between and after, so that what changes meanwhile befalls both.
    Bare bare;
    MeasureBare(size, rounds / 3 + 1, bare);
    const RunRow full = RunRounds(size.bytes, options_.clients, rounds + kWarmUp, "full", "fedavg");
    MeasureBare(size, rounds / 3 + 1, bare);
    const RunRow none = RunRounds(size.bytes, options_.clients, rounds + kWarmUp, "none", "fedavg");
    MeasureBare(size, rounds / 3 + 1, bare);

    std::vector<double> yardstick;
    for (std::size_t i = 0; i < bare.transfer_s.size(); ++i) {
      yardstick.push_back(bare.transfer_s[i] + bare.sync_s[i]);
    }
    const double round_s = Median(full.seconds);
    line_["round_" + name + "_s"] = round_s;
    line_["p95_" + name + "_s"] = Quantile(full.seconds, 0.95);
    line_["round_" + name + "_none_s"] = Median(none.seconds);
    line_["p95_" + name + "_none_s"] = Quantile(none.seconds, 0.95);
    line_["bare_" + name + "_s"] = Median(yardstick);
    line_["ratio_" + name] = round_s / Median(yardstick);
    line_["coordinator_cpu_" + name + "_s"] = full.processor_s;
    line_["peak_rss_" + name + "_mb"] = full.peak_rss_mb;
    line_["peak_rss_" + name + "_none_mb"] = none.peak_rss_mb;
    fmt::print(
        "{:>10}  a round: {:8.4f} s (p95 {:.4f}), not durable {:8.4f} s (p95 {:.4f}); bare gRPC "
        "{:.4f} s + 3 syncs {:.4f} s: ratio {:.2f}; the coordinator's processor time {:.4f} s, "
        "peak resident memory {:.0f} MB\n",
        name, round_s, Quantile(full.seconds, 0.95), Median(none.seconds),
        Quantile(none.seconds, 0.95), Median(bare.transfer_s), Median(bare.sync_s),
        round_s / Median(yardstick), full.processor_s, full.peak_rss_mb);
    std::fflush(stdout);
  }

  void MeasureMemory() {
    const std::uint64_t bytes = Sizes().back().bytes;
    std::map<int, double> worst;  // of the optimisers, by clients
    for (const std::string optimizer : {"fedavg", "fedadam"}) {
      double of_four = 0.0;
      for (const int clients : {4, 64}) {
        const RunRow row = RunRounds(bytes, clients, clients == 4 ? 4 : 2, "full", optimizer);
        if (clients == 4) of_four = row.rss_over_model;
        line_[fmt::format("rss_over_model_{}_clients_{}", clients, optimizer)] = row.rss_over_model;
        line_[fmt::format("peak_rss_{}_clients_{}_mb", clients, optimizer)] = row.peak_rss_mb;
        worst[clients] = std::max(worst[clients], row.rss_over_model);
        fmt::print(
            "{:>10}  {} x 100mb: peak resident memory {:.0f} MB, less idle {:.2f} of the model{}\n",
            optimizer, clients, row.peak_rss_mb, row.rss_over_model,
            clients == 4
                ? ""
                : fmt::format(", {:.2f} of that with 4 clients", row.rss_over_model / of_four));
        std::fflush(stdout);
      }
    }
    for (const auto& [clients, rss] : worst) {
      line_[fmt::format("rss_over_model_{}_clients", clients)] = rss;
    }
  }

  const Options options_;
  const std::string self_;
  nlohmann::ordered_json line_;
};

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) {
  CLI::App app(
      "Times rounds of fedmoe-coordinator with clients that train nothing, against a bare gRPC "
      "transfer of the same bytes and three fdatasyncs. The last line is one JSON object; seconds "
      "are medians.");
  fedmoe::Options options;
  std::uint64_t serve_bare = 0;
  app.add_option("--coordinator", options.coordinator,
                 "the program; default: fedmoe-coordinator beside this one");
  app.add_option("--directory", options.directory,
                 "for the runs, on the disk that is to be measured; default: a temporary one");
  app.add_option("--sizes", options.sizes, "of the model: 100kb, 10mb, 100mb")
      ->check(CLI::IsMember({"100kb", "10mb", "100mb"}));
  app.add_option("--clients", options.clients, "clients")->check(CLI::Range(1, 1000));
  app.add_option("--rounds", options.rounds, "rounds of each size; 0: by size")
      ->check(CLI::Range(0, 100'000));
  app.add_flag("!--no-memory", options.memory, "leave the memory rows out");
  app.add_flag("--keep", options.keep, "leave the last run in the directory");
  app.add_option("--serve-bare", serve_bare, "")->group("");
  CLI11_PARSE(app, argc, argv);
  if (serve_bare > 0) return fedmoe::ServeBareTransfers(serve_bare);
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  if (options.coordinator.empty()) {
    options.coordinator = (self.parent_path() / "fedmoe-coordinator").string();
  }
  const bool own = options.directory.empty();
  if (own) {
    std::string name = (std::filesystem::temp_directory_path() / "bench_round.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) return 1;
    options.directory = name;
  }
  std::filesystem::create_directories(options.directory);
  const int code = fedmoe::Bench(options, self.string()).Run();
  if (own && !options.keep) std::filesystem::remove_all(options.directory);
  return code;
}
