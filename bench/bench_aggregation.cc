// What the aggregation kernels reach of the speed at which memory can be read.
//
// Eight clients' encoded updates of one block, in memory. A repetition runs, one after another, a
// pure read (a vectorised sum of the same eight buffers, as many streams and threads), the kernel
// on float32, one plain axpy a client, and the kernel on int8; ratios are taken within a
// repetition and their median is reported, so that other work on the machine touches both sides.
// The kernel writes its sums, 4 bytes for 32 that it reads, and they are not counted.
//
// Then the float32 updates as the coordinator has them: in files whose pages are in memory, mapped
// window by window, 4 MiB of all clients together, into a buffer of one window.
#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "common/counter_rng.h"
#include "common/thread_loop.h"
#include "kernels/codec.h"
#include "kernels/function_versions.h"
#include "kernels/robust_rules.h"
#include "kernels/weighted_sum_encoded.h"
#include "storage/block_codec.h"

namespace fedmoe {
namespace {

struct Options {
  std::size_t clients = 8;
  std::size_t mebi_parameters = 64;
  int threads = 2;
  int repetitions = 15;
  int rule_repetitions = 3;
  std::string directory = "/dev/shm";
};

constexpr std::size_t kPart = std::size_t{1} << 18;
constexpr std::size_t kMaxClients = 64;
constexpr std::uint64_t kKey = 20260101;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void Require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "bench_aggregation: %s\n", status.ToString().c_str());
  std::exit(1);
}

// Memory at a page's start, as a mapped file is; touched before it is timed.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t size) : size_(size) {
    constexpr std::size_t kPage = 4096;
    const std::size_t bytes = (size * sizeof(T) + kPage - 1) / kPage * kPage;
    data_.reset(static_cast<T*>(std::aligned_alloc(kPage, bytes)));
    if (data_ == nullptr) {
      std::fprintf(stderr, "bench_aggregation: no memory for %zu MiB; ask for fewer parameters\n",
                   bytes >> 20);
      std::exit(1);
    }
    std::fill_n(data_.get(), size, T{});
  }
  std::span<T> span() const { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(T* data) const { std::free(data); }
  };
  std::size_t size_;
  std::unique_ptr<T, Free> data_;
};

// One part of the pure read: every client's values, in step, so that there are as many streams as
// the kernel reads.
FEDMOE_FUNCTION_VERSIONS float ReadPart(const float* const* sources, std::size_t clients,
                                        std::size_t begin, std::size_t end) {
  constexpr std::size_t kLanes = 16;
  float sums[kMaxClients][kLanes] = {};
  for (std::size_t i = begin; i + kLanes <= end; i += kLanes) {
    for (std::size_t s = 0; s < clients; ++s) {
      for (std::size_t lane = 0; lane < kLanes; ++lane) sums[s][lane] += sources[s][i + lane];
    }
  }
  float sum = 0.0F;
  for (std::size_t s = 0; s < clients; ++s) {
    for (const float lane : sums[s]) sum += lane;
  }
  return sum;
}

// The same for eight clients, with the sums in registers.
FEDMOE_FUNCTION_VERSIONS float ReadPartOfEight(const float* const* sources, std::size_t begin,
                                               std::size_t end) {
  using Values = float __attribute__((vector_size(32)));
  Values sums[8] = {};
  for (std::size_t i = begin; i + 16 <= end; i += 16) {
#pragma GCC unroll 8
    for (std::size_t s = 0; s < 8; ++s) {
      Values low;
      Values high;
      __builtin_memcpy(&low, sources[s] + i, sizeof(low));
      __builtin_memcpy(&high, sources[s] + i + 8, sizeof(high));
      sums[s] += low;
      sums[s] += high;
    }
  }
  Values sum = {};
  for (const Values& each : sums) sum += each;
  return sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

FEDMOE_FUNCTION_VERSIONS void Axpy(float weight, const float* source, std::size_t count,
                                   float* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] += weight * source[i];
}

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options),
        parameters_(options.mebi_parameters << 20),
        parts_(static_cast<int>((parameters_ + kPart - 1) / kPart)),
        parallel_(LoopOnThreads(options.threads)),
        out_(parameters_) {
    for (std::size_t s = 0; s < options.clients; ++s) {
      values_.emplace_back(parameters_);
      weights_.push_back(1.0 / static_cast<double>(options.clients + s));
      rows_.push_back(values_[s].span().data());
    }
    parallel_(parts_, [&](int part) { Fill(static_cast<std::size_t>(part)); });
  }

  nlohmann::ordered_json Run() {
    const std::vector<Buffer<std::byte>> int8 = Encoded(Encoding::kInt8);
    MeasureSums(int8);
    MeasureSpooled();
    for (const Encoding encoding :
         {Encoding::kBfloat16, Encoding::kFloat16, Encoding::kInt4, Encoding::kTopK}) {
      const std::vector<Buffer<std::byte>> payloads = Encoded(encoding);
      MeasureEncoding(EncodingName(encoding), Sources(encoding, payloads));
    }
    std::vector<EncodedValues> mixed = Sources(Encoding::kInt8, int8);
    for (std::size_t s = 0; s < mixed.size(); s += 2) mixed[s] = Float32Sources()[s];
    MeasureEncoding("f32_and_int8", mixed);
    MeasureRules();
    line_["clients"] = options_.clients;
    line_["parameters"] = parameters_;
    line_["threads"] = options_.threads;
    line_["repetitions"] = options_.repetitions;
    return line_;
  }

 private:
  // Values like a delta's: normal, of two magnitudes.
  void Fill(std::size_t part) {
    for (std::size_t s = 0; s < values_.size(); ++s) {
      CounterRng rng(MixKey({kKey, s, part}));
      const std::span<float> values = values_[s].span();
      for (std::size_t i = part * kPart; i < std::min(parameters_, (part + 1) * kPart); i += 4) {
        const auto draw = static_cast<float>(rng.NextUniform() - 0.5) * 1e-3F;
        for (std::size_t j = 0; j < 4; ++j) values[i + j] = draw * static_cast<float>(1 + j);
      }
    }
  }

  std::vector<Buffer<std::byte>> Encoded(Encoding encoding) {
    std::vector<Buffer<std::byte>> payloads;
    const std::uint64_t bytes = EncodedBytes(encoding, parameters_, parameters_ / 100);
    const double start = Now();
    for (std::size_t s = 0; s < values_.size(); ++s) payloads.emplace_back(bytes);
    const double allocated = Now();
    // One thread a client, as on the clients.
    parallel_(static_cast<int>(values_.size()), [&](int s) {
      const auto client = static_cast<std::size_t>(s);
      Require(EncodeValues(encoding, values_[client].span(), 0, MixKey({kKey, client}),
                           payloads[client].span()));
    });
    const double total = static_cast<double>(values_.size() * parameters_);
    const double seconds = Now() - allocated;
    line_["encode_" + std::string(EncodingName(encoding)) + "_mparameters_per_s"] =
        total / seconds / 1e6;
    std::printf("encode %-14s %8.1f M parameters/s (buffers in %.2f s)\n", EncodingName(encoding),
                total / seconds / 1e6, allocated - start);
    std::fflush(stdout);
    return payloads;
  }

  std::vector<EncodedValues> Sources(Encoding encoding,
                                     const std::vector<Buffer<std::byte>>& payloads) const {
    std::vector<EncodedValues> sources;
    for (const Buffer<std::byte>& payload : payloads) {
      sources.push_back({encoding, 0, parameters_, payload.span()});
    }
    return sources;
  }

  std::vector<EncodedValues> Float32Sources() const {
    std::vector<EncodedValues> sources;
    for (const Buffer<float>& values : values_) {
      sources.push_back({Encoding::kFloat32, 0, parameters_, std::as_bytes(values.span())});
    }
    return sources;
  }

  double Timed(const std::function<void()>& work) const {
    const double start = Now();
    work();
    return Now() - start;
  }

  double Read() {
    return Timed([&] {
      parallel_(parts_, [&](int part) {
        const std::size_t begin = static_cast<std::size_t>(part) * kPart;
        const std::size_t end = std::min(parameters_, begin + kPart);
        const float sum = rows_.size() == 8 ? ReadPartOfEight(rows_.data(), begin, end)
                                            : ReadPart(rows_.data(), rows_.size(), begin, end);
        sink_ += std::bit_cast<std::uint32_t>(sum) & 1;
      });
    });
  }

  double Sum(const std::vector<EncodedValues>& sources) {
    return Timed(
        [&] { Require(WeightedSumEncoded(sources, weights_, 0, out_.span(), parallel_)); });
  }

  // Client after client over all parameters.
  double Axpys() {
    return Timed([&] {
      for (std::size_t s = 0; s < rows_.size(); ++s) {
        parallel_(parts_, [&](int part) {
          const std::size_t begin = static_cast<std::size_t>(part) * kPart;
          Axpy(static_cast<float>(weights_[s]), rows_[s] + begin,
               std::min(parameters_, begin + kPart) - begin, out_.span().data() + begin);
        });
      }
    });
  }

  static double Median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  }

  double Report(const std::string& name, const std::vector<double>& seconds) {
    const double median = Median(seconds);
    const double rate = static_cast<double>(rows_.size() * parameters_) / median;
    line_[name + "_s"] = median;
    line_[name + "_gparameters_per_s"] = rate / 1e9;
    std::printf("%-21s %8.4f s  least %8.4f s  %7.3f G client-parameters/s\n", name.c_str(), median,
                *std::min_element(seconds.begin(), seconds.end()), rate / 1e9);
    std::fflush(stdout);
    return median;
  }

  void MeasureSums(const std::vector<Buffer<std::byte>>& int8_payloads) {
    const std::vector<EncodedValues> float32 = Float32Sources();
    const std::vector<EncodedValues> int8 = Sources(Encoding::kInt8, int8_payloads);
    std::vector<double> read;
    std::vector<double> sum;
    std::vector<double> axpy;
    std::vector<double> sum_int8;
    std::vector<double> fraction;
    std::vector<double> speedup;
    // The first repetition warms up and does not count.
    for (int repetition = -1; repetition < options_.repetitions; ++repetition) {
      const double seconds[] = {Read(), Sum(float32), Axpys(), Sum(int8)};
      if (repetition < 0) continue;
      read.push_back(seconds[0]);
      sum.push_back(seconds[1]);
      axpy.push_back(seconds[2]);
      sum_int8.push_back(seconds[3]);
      fraction.push_back(seconds[0] / seconds[1]);
      speedup.push_back(seconds[2] / seconds[3]);
    }
    line_["f32_fraction_of_read_bandwidth"] = Median(fraction);
    line_["int8_speedup_over_f32_axpy"] = Median(speedup);
    const double bytes = static_cast<double>(rows_.size() * parameters_ * sizeof(float));
    line_["read_gb_per_s"] = bytes / Report("read", read) / 1e9;
    Report("f32", sum);
    Report("f32_axpy", axpy);
    Report("int8", sum_int8);
  }

  void MeasureSpooled() {
    std::vector<std::unique_ptr<RandomAccessFile>> files;
    for (std::size_t s = 0; s < rows_.size(); ++s) {
      const std::string path =
          options_.directory + "/bench_aggregation-" + std::to_string(s) + ".spool";
      files.push_back(SpoolFile(path, std::as_bytes(values_[s].span())));
      std::filesystem::remove(path);
    }
    UpdateBlock block;
    block.elements = parameters_;
    block.payload_bytes = block.raw_bytes = parameters_ * sizeof(float);
    std::vector<double> spooled;
    std::vector<double> fraction;
    for (int repetition = -1; repetition < options_.repetitions; ++repetition) {
      const double read = Read();
      const double seconds = Timed([&] { Require(SumWindows(files, block)); });
      if (repetition < 0) continue;
      spooled.push_back(seconds);
      fraction.push_back(read / seconds);
    }
    line_["f32_spooled_fraction_of_read_bandwidth"] = Median(fraction);
    Report("f32_spooled", spooled);
  }

  static std::unique_ptr<RandomAccessFile> SpoolFile(const std::string& path,
                                                     std::span<const std::byte> bytes) {
    Result<std::unique_ptr<WritableFile>> file = PosixFileSystem().Create(path);
    Require(file.status());
    Require((*file)->Append(bytes));
    Require((*file)->Close());
    Result<std::unique_ptr<RandomAccessFile>> opened = PosixFileSystem().Open(path);
    Require(opened.status());
    return std::move(opened).value();
  }

  Status SumWindows(const std::vector<std::unique_ptr<RandomAccessFile>>& files,
                    const UpdateBlock& block) {
    std::vector<PayloadReader> readers;
    for (const auto& file : files) readers.emplace_back(*file, block);
    const std::size_t window = (std::size_t{1} << 20) / files.size();
    for (std::size_t at = 0; at < parameters_; at += window) {
      const std::size_t count = std::min(window, parameters_ - at);
      std::vector<EncodedValues> sources;
      for (PayloadReader& reader : readers) {
        FEDMOE_ASSIGN_OR_RETURN(const EncodedValues source, reader.Window(at, count));
        sources.push_back(source);
      }
      FEDMOE_RETURN_IF_ERROR(
          WeightedSumEncoded(sources, weights_, at, out_.span().first(count), parallel_));
    }
    return Status::Ok();
  }

  void MeasureEncoding(const std::string& name, const std::vector<EncodedValues>& sources) {
    Sum(sources);
    std::vector<double> seconds;
    for (int i = 0; i < options_.rule_repetitions; ++i) seconds.push_back(Sum(sources));
    Report(name, seconds);
  }

  void MeasureRule(const std::string& name, const std::function<Status()>& rule) {
    std::vector<double> seconds;
    for (int i = 0; i < options_.rule_repetitions; ++i) {
      seconds.push_back(Timed([&] { Require(rule()); }));
    }
    Report(name, seconds);
  }

  void MeasureRules() {
    const std::vector<EncodedValues> sources = Float32Sources();
    const std::size_t n = sources.size();
    const int trim = static_cast<int>((n - 1) / 4);
    MeasureRule("median", [&] { return CoordinateMedian(sources, 0, out_.span(), parallel_); });
    MeasureRule("trimmed_mean",
                [&] { return TrimmedMean(sources, trim, 0, out_.span(), parallel_); });
    const auto krum = [&](int attackers, int selected) -> Status {
      std::vector<double> distances(n * n, 0.0);
      FEDMOE_RETURN_IF_ERROR(AddSquaredDistances(sources, 0, parameters_, distances, parallel_));
      FEDMOE_ASSIGN_OR_RETURN(const std::vector<int> chosen,
                              SelectByKrum(distances, static_cast<int>(n), attackers, selected));
      std::vector<double> weights(n, 0.0);
      for (const int s : chosen) {
        weights[static_cast<std::size_t>(s)] = 1.0 / static_cast<double>(chosen.size());
      }
      return WeightedSumEncoded(sources, weights, 0, out_.span(), parallel_);
    };
    const int attackers = static_cast<int>(n) >= 5 ? static_cast<int>((n - 3) / 2) : 0;
    if (n >= 3) {
      MeasureRule("krum", [&] { return krum(attackers, 1); });
      MeasureRule("multi_krum", [&] { return krum(attackers, static_cast<int>(n) - attackers); });
    }
    MeasureRule("norm_clipping", [&]() -> Status {
      std::vector<double> norms(n, 0.0);
      FEDMOE_RETURN_IF_ERROR(AddSquaredNorms(sources, 0, parameters_, norms, parallel_));
      std::vector<double> weights = weights_;
      for (std::size_t s = 0; s < n; ++s) weights[s] *= ClipFactor(norms[s], 1.0);
      return WeightedSumEncoded(sources, weights, 0, out_.span(), parallel_);
    });
  }

  const Options options_;
  const std::size_t parameters_;
  const int parts_;
  const ParallelFor parallel_;
  Buffer<float> out_;
  std::vector<Buffer<float>> values_;
  std::vector<const float*> rows_;
  std::vector<double> weights_;
  std::atomic<std::uint32_t> sink_{0};
  nlohmann::ordered_json line_;
};

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) {
  CLI::App app(
      "Times the aggregation kernels against a pure read of the same memory. The last line is one "
      "JSON object; seconds are medians.");
  fedmoe::Options options;
  app.add_option("--clients", options.clients, "clients")
      ->check(CLI::Range(1, static_cast<int>(fedmoe::kMaxClients)));
  app.add_option("--mebi-parameters", options.mebi_parameters,
                 "parameters of each client, in 2^20; 64 with 8 clients take 3.5 GiB")
      ->check(CLI::Range(1, 1024));
  app.add_option("--threads", options.threads, "threads")->check(CLI::Range(1, 256));
  app.add_option("--repetitions", options.repetitions, "repetitions of the four that are compared")
      ->check(CLI::Range(1, 1000));
  app.add_option("--rule-repetitions", options.rule_repetitions,
                 "repetitions of the other encodings and the robust rules")
      ->check(CLI::Range(1, 1000));
  app.add_option("--directory", options.directory,
                 "for the updates as files, 4 bytes a parameter of each client; default: /dev/shm");
  CLI11_PARSE(app, argc, argv);
  std::puts(fedmoe::Bench(options).Run().dump().c_str());
  return 0;
}
