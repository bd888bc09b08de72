#include "simulation/sweep_file.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "config/document.h"
#include "config/schema.h"

namespace fedmoe {
namespace {

constexpr std::size_t kMaxCells = 10'000;
constexpr std::size_t kMaxNameBytes = 160;
constexpr std::size_t kHashDigits = 8;

std::string Below(const std::string& path, std::string_view section) {
  return path.starts_with(section) ? path.substr(section.size()) : "";
}

// The values of an entry as texts that --set takes; none for what is not one or more values.
std::vector<std::string> ValuesOf(const ConfigValue& value) {
  if (value.kind == ValueKind::kScalar) return {value.text};
  return value.kind == ValueKind::kList ? value.items : std::vector<std::string>();
}

// In `set` a list is the key's value.
std::string SetOf(const std::string& key, const ConfigValue& value) {
  if (value.kind == ValueKind::kList)
    return fmt::format("{}=[{}]", key, fmt::join(value.items, ", "));
  return key + "=" + value.text;
}

// Reads the entries one by one.
class SweepReader {
 public:
  explicit SweepReader(const ConfigDocument& document) : errors_(document.errors) {
    for (const ConfigEntry& entry : document.entries) Read(entry);
    if (sweep_.base.empty()) Miss(document.file, "base (the configuration)");
    if (sweep_.seeds.empty()) Miss(document.file, "seeds (values of run.seed)");
  }

  Result<Sweep> Take() {
    FEDMOE_RETURN_IF_ERROR(JoinErrors(std::move(errors_)));
    return std::move(sweep_);
  }

 private:
  void Complain(const ConfigEntry& entry, std::string message) {
    errors_.push_back({entry.position, std::move(message)});
  }
  void Miss(const std::string& file, const char* what) {
    ConfigError error;
    error.position.label = file;
    error.message = fmt::format("missing key {}", what);
    errors_.push_back(std::move(error));
  }

  void Read(const ConfigEntry& entry) {
    const std::string set_key = Below(entry.path, "set.");
    const std::string vary_key = Below(entry.path, "vary.");
    const bool section = entry.value.kind == ValueKind::kSection;
    if (section &&
        (entry.path == "set" || entry.path == "vary" || !set_key.empty() || !vary_key.empty())) {
      return;
    }
    if (entry.path == "base" && entry.value.kind == ValueKind::kScalar) {
      sweep_.base = entry.value.text;
    } else if (entry.path == "seeds") {
      sweep_.seeds = Distinct(entry);
    } else if (!set_key.empty()) {
      sweep_.sets.push_back(SetOf(set_key, entry.value));
    } else if (!vary_key.empty()) {
      if (vary_key == "run.seed") Complain(entry, "the values of run.seed stand in seeds");
      sweep_.vary.push_back({.key = vary_key, .values = Distinct(entry)});
    } else {
      Complain(entry, fmt::format("'{}' must be one of base, set, vary, seeds, with a value",
                                  Printable(entry.path)));
    }
  }

  std::vector<std::string> Distinct(const ConfigEntry& entry) {
    std::vector<std::string> values = ValuesOf(entry.value);
    if (values.empty()) Complain(entry, entry.path + " must be a value or a list of values");
    if (std::set<std::string>(values.begin(), values.end()).size() < values.size()) {
      Complain(entry, entry.path + " holds a value twice");
    }
    return values;
  }

  std::vector<ConfigError> errors_;
  Sweep sweep_;
};

// A folder's name that tells the cells apart; with a hash where characters had to go.
std::string NameOf(const std::vector<std::string>& parts) {
  const std::string exact = fmt::format("{}", fmt::join(parts, ","));
  std::string name = exact;
  for (char& c : name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 ||
                       std::string_view("._=,+-").find(c) != std::string_view::npos;
    if (!plain) c = '_';
  }
  if (name == exact && name.size() <= kMaxNameBytes) return name;
  return name.substr(0, kMaxNameBytes) + "-" + Sha256Of(exact).substr(0, kHashDigits);
}

}  // namespace

Result<Sweep> ReadSweep(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(const ConfigDocument document,
                          ReadConfigDocument({.path = path, .overrides = {}}));
  FEDMOE_ASSIGN_OR_RETURN(Sweep sweep, SweepReader(document).Take());
  const std::size_t slash = path.rfind('/');
  if (!sweep.base.starts_with('/') && slash != std::string::npos) {
    sweep.base = JoinPath(path.substr(0, slash), sweep.base);
  }
  return sweep;
}

Result<std::vector<SweepCell>> CellsOf(const Sweep& sweep, const std::vector<std::string>& sets) {
  std::size_t count = sweep.seeds.size();
  for (const SweepKey& key : sweep.vary) {
    count *= key.values.size();
    if (count > kMaxCells) {
      return InvalidArgument(fmt::format("the sweep has more than {} cells", kMaxCells));
    }
  }
  std::vector<SweepCell> cells;
  for (std::size_t index = 0; index < count; ++index) {
    SweepCell cell;
    cell.values.resize(sweep.vary.size());
    std::size_t rest = index;
    cell.seed = sweep.seeds[rest % sweep.seeds.size()];
    rest /= sweep.seeds.size();
    for (std::size_t i = sweep.vary.size(); i-- > 0;) {
      const std::vector<std::string>& values = sweep.vary[i].values;
      cell.values[i] = values[rest % values.size()];
      rest /= values.size();
    }
    cell.overrides = sweep.sets;
    cell.overrides.insert(cell.overrides.end(), sets.begin(), sets.end());
    std::vector<std::string> parts;
    for (std::size_t i = 0; i < sweep.vary.size(); ++i) {
      parts.push_back(sweep.vary[i].key + "=" + cell.values[i]);
    }
    cell.overrides.insert(cell.overrides.end(), parts.begin(), parts.end());
    cell.overrides.push_back("run.seed=" + cell.seed);
    parts.push_back("seed=" + cell.seed);
    cell.name = NameOf(parts);
    cells.push_back(std::move(cell));
  }
  return cells;
}

}  // namespace fedmoe
