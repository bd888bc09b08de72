// The short form of a fuzz target, for builds without libFuzzer: runs each file of the corpus, then
// a fixed number of mutations of them. The same seed gives the same inputs.
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

#include "common/counter_rng.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
// Of a sanitizer, where there is one.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

namespace fedmoe {
namespace {

constexpr std::size_t kMaxBytes = 32 * 1024;
constexpr std::size_t kMaxInserted = 64;

struct Options {
  std::uint64_t mutations = 0;
  std::uint64_t seed = 1;
  std::vector<std::string> folders;
};

// The input that is running and where it goes if it does not return.
std::string current;
std::string finding_path;

void KeepInput() {
  const int file = ::open(finding_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  const bool whole =
      ::write(file, current.data(), current.size()) == static_cast<ssize_t>(current.size());
  ::close(file);
  if (whole) std::fprintf(stderr, "the input is in %s\n", finding_path.c_str());
}

void KeepInputAndDie(int signal) {
  KeepInput();
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void Run(std::string input) {
  current = std::move(input);
  // A copy of exactly that size, so that a read past its end is seen.
  const std::vector<std::uint8_t> bytes(current.begin(), current.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Sorted by folder and name.
std::vector<std::string> ReadCorpus(const std::vector<std::string>& folders) {
  std::vector<std::string> inputs;
  for (const std::string& folder : folders) {
    if (!std::filesystem::is_directory(folder)) continue;
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.is_regular_file()) paths.push_back(entry.path());
    }
    std::sort(paths.begin(), paths.end());
    for (const std::filesystem::path& path : paths) {
      std::ifstream stream(path, std::ios::binary);
      inputs.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    }
  }
  return inputs;
}

// Writes a number of 1, 2, 4 or 8 bytes over the input: one that lengths are often wrong by.
void OverwriteNumber(std::string& input, CounterRng& rng) {
  static constexpr std::uint64_t kNumbers[] = {0,
                                               1,
                                               2,
                                               63,
                                               64,
                                               65,
                                               127,
                                               128,
                                               255,
                                               256,
                                               0x7fff,
                                               0xffff,
                                               0x10000,
                                               0x7fffffff,
                                               0x80000000,
                                               0xffffffff,
                                               0x100000000,
                                               0x7fffffffffffffff,
                                               0x8000000000000000,
                                               0xffffffffffffffff};
  const std::uint64_t number = kNumbers[rng.NextBelow(std::size(kNumbers))];
  const std::size_t width = std::size_t{1} << rng.NextBelow(4);
  if (input.size() < width) return;
  std::memcpy(input.data() + rng.NextBelow(input.size() - width + 1), &number, width);
}

void MutateOnce(std::string& input, const std::vector<std::string>& corpus, CounterRng& rng) {
  const std::size_t at = rng.NextBelow(input.size() + 1);
  const std::size_t count = 1 + rng.NextBelow(kMaxInserted);
  switch (rng.NextBelow(8)) {
    case 0:
      if (at < input.size()) input[at] = static_cast<char>(input[at] ^ 1 << rng.NextBelow(8));
      break;
    case 1:
      if (at < input.size()) input[at] = static_cast<char>(rng.NextU32());
      break;
    case 2:
      OverwriteNumber(input, rng);
      break;
    case 3:
      input.erase(at, count);
      break;
    case 4:
      input.insert(at, count, static_cast<char>(rng.NextU32()));
      break;
    case 5:
      input.insert(at, input.substr(rng.NextBelow(input.size() + 1), count));
      break;
    case 6:
      input.resize(at);
      break;
    default: {
      const std::string& other = corpus[rng.NextBelow(corpus.size())];
      input = input.substr(0, at) + other.substr(rng.NextBelow(other.size() + 1));
      break;
    }
  }
  if (input.size() > kMaxBytes) input.resize(kMaxBytes);
}

bool ReadNumber(const char* text, std::uint64_t& number) {
  const char* const end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, number);
  return parsed.ec == std::errc() && parsed.ptr == end;
}

bool ReadOptions(int count, char** arguments, Options& options) {
  for (int i = 1; i < count; ++i) {
    const std::string_view name = arguments[i];
    if (!name.starts_with("--")) {
      options.folders.emplace_back(name);
      continue;
    }
    if ((name != "--mutations" && name != "--seed") || i + 1 == count) return false;
    if (!ReadNumber(arguments[++i], name == "--seed" ? options.seed : options.mutations))
      return false;
  }
  return !options.folders.empty();
}

int Main(int count, char** arguments) {
  Options options;
  if (!ReadOptions(count, arguments, options)) {
    std::fprintf(stderr, "Usage: %s [--mutations N] [--seed N] FOLDER...\n", arguments[0]);
    return 2;
  }
  const std::string name = std::filesystem::path(arguments[0]).filename();
  // Beside the program, wherever it is run: in the build's folder.
  finding_path = std::string(arguments[0]) + ".finding";
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL}) {
    std::signal(signal, KeepInputAndDie);
  }
  if (__sanitizer_set_death_callback != nullptr) __sanitizer_set_death_callback(KeepInput);

  const std::vector<std::string> corpus = ReadCorpus(options.folders);
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no files in the corpus\n", name.c_str());
    return 1;
  }
  for (const std::string& input : corpus) Run(input);
  for (std::uint64_t i = 0; i < options.mutations; ++i) {
    CounterRng rng(MixKey({options.seed, i}));
    std::string input = corpus[rng.NextBelow(corpus.size())];
    const std::uint64_t steps = 1 + rng.NextBelow(4);
    for (std::uint64_t step = 0; step < steps; ++step) MutateOnce(input, corpus, rng);
    Run(std::move(input));
  }
  std::printf("%s: %zu files and %llu mutations (seed %llu), no finding\n", name.c_str(),
              corpus.size(), static_cast<unsigned long long>(options.mutations),
              static_cast<unsigned long long>(options.seed));
  return 0;
}

}  // namespace
}  // namespace fedmoe

int main(int count, char** arguments) { return fedmoe::Main(count, arguments); }
