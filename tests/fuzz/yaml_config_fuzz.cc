// Configurations: errors that name the file and the line, or a configuration that prints as YAML
// which loads to the same. Input: a byte that says whose configuration it is, the YAML up to a byte
// of 0, then values for --set, each up to a byte of 0.
#include <cstdint>
#include <string>
#include <vector>

#include "config/client_config.h"
#include "config/coordinator_config.h"
#include "config/document.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch_folder.h"

namespace fedmoe {
namespace {

constexpr std::size_t kMaxOverrides = 16;
// For any file of at most 1 MiB; inputs are smaller.
constexpr std::size_t kMaxLoadBytes = std::size_t{256} << 20;

// Each line of the message begins with where the error stands.
void CheckErrors(const ConfigSource& source, const Status& status) {
  FUZZ_CHECK(status.code() == StatusCode::kInvalidArgument, status.ToString());
  if (!source.overrides.empty()) return;  // what --set was given stands there as it came
  std::string_view left = status.message();
  while (!left.empty()) {
    FUZZ_CHECK(left.starts_with(source.path + ":"), status.ToString());
    const std::size_t end = left.find('\n');
    left.remove_prefix(end == std::string_view::npos ? left.size() : end + 1);
  }
}

template <typename Config>
void CheckConfig(const ScratchFolder& folder, const ConfigSource& source,
                 Result<Config> (*load)(const ConfigSource&), std::string (*dump)(const Config&)) {
  const AllocationMeter meter;
  const Result<Config> config = load(source);
  FUZZ_CHECK(meter.PeakBytes() <= kMaxLoadBytes, std::to_string(meter.PeakBytes()));
  if (!config.ok()) return CheckErrors(source, config.status());
  const std::string text = dump(*config);
  const ConfigSource printed{.path = folder.Write("printed.yaml", text), .overrides = {}};
  const Result<Config> again = load(printed);
  FUZZ_CHECK(again.ok(), again.status().ToString() + "\n" + text);
  FUZZ_CHECK(dump(*again) == text, text + "\nis not\n" + dump(*again));
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fedmoe;
  static const ScratchFolder folder;
  FuzzInput input(data, size);
  const bool client = (input.TakeByte() & 1) != 0;
  const std::string yaml = input.TakeText();
  ConfigSource source{.path = folder.Write("x.yaml", yaml), .overrides = {}};
  while (!input.empty() && source.overrides.size() < kMaxOverrides) {
    source.overrides.push_back(input.TakeText());
  }
  if (client) {
    CheckConfig(folder, source, LoadClientConfig, DumpClientConfig);
  } else {
    CheckConfig(folder, source, LoadCoordinatorConfig, DumpCoordinatorConfig);
  }
  const auto flat = FlattenYaml(yaml);
  FUZZ_CHECK(flat.ok() || !flat.status().message().empty(), flat.status().ToString());
  return 0;
}
