#include "client/benchmark.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>

#include <time.h>

#include "moe/torch.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kTokens = 64;
constexpr int kMinPasses = 3;
constexpr int kQueuedPasses = 8;  // that a device other than the processor is given at once

// Seconds of processor time that one of libtorch's threads has used.
double ThreadSeconds() {
  const int threads = std::max(1, torch::get_num_threads());
  timespec now{};
  clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_PROCESS_CPUTIME_ID, &now);
  return (static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9) / threads;
}

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class ExpertBenchmark {
 public:
  ExpertBenchmark(int width, int expert_width, torch::Device device)
      : tokens_(Fill({kTokens, width}).to(device)),
        up_(Fill({expert_width, width}).to(device)),
        down_(Fill({width, expert_width}).to(device)) {
    for (torch::Tensor* tensor : {&tokens_, &up_, &down_}) tensor->requires_grad_();
  }

  void Pass() const {
    torch::linear(torch::relu(torch::linear(tokens_, up_)), down_).sum().backward();
  }
  // Waits for the passes so far: they end one after another on a device, too.
  void Await() const { up_.grad().flatten()[0].item<float>(); }

 private:
  // Values without a random generator; denormals would slow the pass down.
  static torch::Tensor Fill(at::IntArrayRef shape) {
    torch::Tensor tensor = torch::empty(shape, torch::kFloat32);
    float* value = tensor.data_ptr<float>();
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      value[i] = 0.01F * static_cast<float>(i % 17 - 8);
    }
    return tensor;
  }

  torch::Tensor tokens_, up_, down_;
};

std::optional<std::uint64_t> ReadNumber(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  if (file >> number) return number;
  return std::nullopt;
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Bytes left under the limit of the cgroup (version 2, then 1) at the root of this process's view.
std::optional<std::uint64_t> CgroupAvailable() {
  constexpr const char* kFiles[][4] = {
      {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
       "inactive_file"},
      {"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
       "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"}};
  for (const auto& [limit_path, used_path, stat_path, cache] : kFiles) {
    const auto limit = ReadNumber(limit_path);
    if (!limit) continue;  // "max", or not this version
    return MemoryLeft(*limit, ReadNumber(used_path).value_or(0),
                      ParseMemoryStat(ReadText(stat_path), cache));
  }
  return std::nullopt;
}

}  // namespace

double MeasureExpertFlops(int width, int expert_width, double budget_s, const std::string& device) {
  try {
    const torch::Device where(device);
    const auto seconds = where.is_cpu() ? ThreadSeconds : WallSeconds;
    const ExpertBenchmark benchmark(width, expert_width, where);
    benchmark.Pass();  // warms caches and libtorch's start-up
    benchmark.Await();
    const double start_s = seconds();
    double spent_s = 0.0;
    int passes = 0;
    const int at_once = where.is_cpu() ? 1 : kQueuedPasses;
    while (passes < kMinPasses || spent_s < budget_s) {
      for (int i = 0; i < at_once; ++i) benchmark.Pass();
      passes += at_once;
      benchmark.Await();
      spent_s = seconds() - start_s;
    }
    const double forward = 2.0 * 2.0 * static_cast<double>(kTokens) * width * expert_width;
    return spent_s > 0.0 ? 3.0 * forward * passes / spent_s : 0.0;
  } catch (const std::exception&) {
    return 0.0;
  }
}

std::uint64_t ParseMemAvailable(const std::string& meminfo) {
  std::istringstream lines(meminfo);
  std::string line;
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string name;
    std::uint64_t kibibytes = 0;
    if (fields >> name >> kibibytes && name == "MemAvailable:") return kibibytes * 1024;
  }
  return 0;
}

std::uint64_t MemoryLeft(std::uint64_t limit, std::uint64_t used, std::uint64_t droppable) {
  const std::uint64_t held = used - std::min(used, droppable);
  return limit > held ? limit - held : 1;
}

std::uint64_t ParseMemoryStat(const std::string& stat, const std::string& name) {
  std::istringstream lines(stat);
  std::string key;
  std::uint64_t value = 0;
  while (lines >> key >> value) {
    if (key == name) return value;
  }
  return 0;
}

std::uint64_t MeasureMemoryBudget() {
  std::uint64_t available = ParseMemAvailable(ReadText("/proc/meminfo"));
  if (const auto limit = CgroupAvailable()) {
    available = available == 0 ? *limit : std::min(available, *limit);
  }
  // Some bytes are a limit, and none would be no limit.
  return available == 1 ? 1 : available / 2;
}

}  // namespace fedmoe
