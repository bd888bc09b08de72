// The types of keys: how each reads text into a field and writes the field as text.
#include <charconv>
#include <cmath>
#include <cstddef>
#include <memory>
#include <system_error>

#include <fmt/format.h>

#include "config/schema.h"

namespace fedmoe {
namespace {

constexpr std::size_t kMaxTextBytes = 4096;
constexpr std::uint64_t kMaxBytes = 1ULL << 50;

// Parses the whole of `text`, or nothing.
template <typename T>
std::optional<T> Parse(const std::string& text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

std::string DescribeRange(const IntegerRange& range) {
  if (range.most == std::numeric_limits<std::int64_t>::max()) {
    return fmt::format("at least {}", range.least);
  }
  return fmt::format("{} to {}", range.least, range.most);
}

std::string DescribeRange(const NumberRange& range) {
  if (!range.above_least && !range.below_most) {
    return fmt::format("{:g} to {:g}", range.least, range.most);
  }
  return fmt::format("{} {:g} and {} {:g}", range.above_least ? "above" : "at least", range.least,
                     range.below_most ? "below" : "at most", range.most);
}

// Each reader returns the complaint, or nothing after it has stored the value.

std::string ReadInteger(const ConfigValue& value, const IntegerRange& range, std::int64_t& out) {
  const std::optional<std::int64_t> number =
      value.kind == ValueKind::kScalar ? Parse<std::int64_t>(value.text) : std::nullopt;
  if (!number) return fmt::format("must be a whole number (got {})", Describe(value));
  if (*number < range.least || *number > range.most) {
    return fmt::format("must be {} (got {})", DescribeRange(range), *number);
  }
  out = *number;
  return "";
}

std::string ReadNumber(const ConfigValue& value, const NumberRange& range, double& out) {
  const std::optional<double> number =
      value.kind == ValueKind::kScalar ? Parse<double>(value.text) : std::nullopt;
  if (!number || !std::isfinite(*number)) {
    return fmt::format("must be a number (got {})", Describe(value));
  }
  const bool low = range.above_least ? *number <= range.least : *number < range.least;
  const bool high = range.below_most ? *number >= range.most : *number > range.most;
  if (low || high)
    return fmt::format("must be {} (got {})", DescribeRange(range), Printable(value.text));
  out = *number;
  return "";
}

std::string ReadByteCount(const ConfigValue& value, std::uint64_t& out) {
  static constexpr std::pair<std::string_view, int> kUnits[] = {
      {"KiB", 10}, {"MiB", 20}, {"GiB", 30}};
  std::string digits = value.text;
  int shift = 0;
  for (const auto& [unit, bits] : kUnits) {
    if (digits.size() > unit.size() && digits.ends_with(unit)) {
      digits.resize(digits.size() - unit.size());
      while (digits.ends_with(' ')) digits.pop_back();
      shift = bits;
      break;
    }
  }
  const std::optional<std::uint64_t> number =
      value.kind == ValueKind::kScalar ? Parse<std::uint64_t>(digits) : std::nullopt;
  if (!number) {
    return fmt::format("must be a whole number of bytes, or of KiB, MiB or GiB (got {})",
                       Describe(value));
  }
  if (*number > (kMaxBytes >> shift)) {
    return fmt::format("must be at most 1048576GiB (got {})", Printable(value.text));
  }
  out = *number << shift;
  return "";
}

std::string WriteByteCount(std::uint64_t bytes) {
  static constexpr std::pair<const char*, int> kUnits[] = {{"GiB", 30}, {"MiB", 20}, {"KiB", 10}};
  for (const auto& [unit, bits] : kUnits) {
    if (bytes != 0 && (bytes & ((1ULL << bits) - 1)) == 0) {
      return fmt::format("{}{}", bytes >> bits, unit);
    }
  }
  return std::to_string(bytes);
}

// Division and multiplication do not undo each other to the last bit; 12 digits hide that, so that
// what was written reads back to what is written again.
std::string WriteNumber(double field, double scale) {
  return scale == 1.0 ? fmt::format("{}", field) : fmt::format("{:.12g}", field / scale);
}

// Reads a scalar or a list of scalars with `read_one(value, T& out)`.
template <typename T, typename ReadOne>
std::string ReadSeveral(const ConfigValue& value, std::vector<T>& field, ReadOne read_one) {
  std::vector<T> read;
  if (value.kind != ValueKind::kList) {
    read.emplace_back();
    std::string complaint = read_one(value, read.back());
    if (!complaint.empty()) return complaint;
  } else if (value.items.empty()) {
    return "must hold at least one value (got an empty list)";
  }
  for (std::size_t i = 0; i < value.items.size(); ++i) {
    read.emplace_back();
    const ConfigValue item{.kind = ValueKind::kScalar, .text = value.items[i], .items = {}};
    const std::string complaint = read_one(item, read.back());
    if (!complaint.empty()) return fmt::format("value {} {}", i + 1, complaint);
  }
  field = std::move(read);
  return "";
}

// One value alone, several as "[1, 2]".
template <typename T, typename WriteOne>
std::string WriteSeveral(const std::vector<T>& field, WriteOne write_one) {
  if (field.size() == 1) return write_one(field[0]);
  std::vector<std::string> items;
  for (const T& value : field) items.push_back(write_one(value));
  return fmt::format("[{}]", fmt::join(items, ", "));
}

template <typename T>
std::string StoreInteger(const ConfigValue& value, const IntegerRange& range, T& field) {
  std::int64_t number = 0;
  std::string complaint = ReadInteger(value, range, number);
  if (complaint.empty()) field = static_cast<T>(number);
  return complaint;
}

}  // namespace

void SchemaSection::Integer(const std::string& key, int& field, IntegerRange range) const {
  Add(
      key, [&field, range](const ConfigValue& v) { return StoreInteger(v, range, field); },
      [&field] { return std::to_string(field); });
}

void SchemaSection::Integer(const std::string& key, std::int64_t& field, IntegerRange range) const {
  Add(
      key, [&field, range](const ConfigValue& v) { return StoreInteger(v, range, field); },
      [&field] { return std::to_string(field); });
}

void SchemaSection::Integer(const std::string& key, std::uint64_t& field,
                            IntegerRange range) const {
  Add(
      key, [&field, range](const ConfigValue& v) { return StoreInteger(v, range, field); },
      [&field] { return std::to_string(field); });
}

void SchemaSection::Number(const std::string& key, double& field, NumberRange range,
                           double scale) const {
  Add(
      key,
      [&field, range, scale](const ConfigValue& value) {
        double number = 0.0;
        std::string complaint = ReadNumber(value, range, number);
        if (complaint.empty()) field = number * scale;
        return complaint;
      },
      [&field, scale] { return WriteNumber(field, scale); });
}

void SchemaSection::Boolean(const std::string& key, bool& field) const {
  Add(
      key,
      [&field](const ConfigValue& value) -> std::string {
        const bool yes = value.kind == ValueKind::kScalar && value.text == "true";
        const bool no = value.kind == ValueKind::kScalar && value.text == "false";
        if (!yes && !no) return fmt::format("must be true or false (got {})", Describe(value));
        field = yes;
        return "";
      },
      [&field] { return field ? "true" : "false"; });
}

void SchemaSection::Seconds(const std::string& key, Milliseconds& field, NumberRange range) const {
  Add(
      key,
      [&field, range](const ConfigValue& value) {
        double seconds = 0.0;
        std::string complaint = ReadNumber(value, range, seconds);
        if (complaint.empty()) field = std::llround(seconds * 1000.0);
        return complaint;
      },
      [&field] { return fmt::format("{:.12g}", static_cast<double>(field) / 1000.0); });
}

void SchemaSection::Bytes(const std::string& key, std::uint64_t& field) const {
  Add(
      key, [&field](const ConfigValue& value) { return ReadByteCount(value, field); },
      [&field] { return WriteByteCount(field); });
}

void SchemaSection::Text(const std::string& key, std::string& field,
                         std::function<std::string(const std::string&)> complaint) const {
  Add(
      key,
      [&field, complaint](const ConfigValue& value) -> std::string {
        if (value.kind != ValueKind::kScalar) {
          return fmt::format("must be text (got {})", Describe(value));
        }
        if (value.text.size() > kMaxTextBytes) {
          return fmt::format("must be at most {} bytes of text (got {})", kMaxTextBytes,
                             value.text.size());
        }
        std::string wrong = complaint ? complaint(value.text) : std::string();
        if (wrong.empty()) field = value.text;
        return wrong;
      },
      [&field] { return QuoteYaml(field); });
}

void SchemaSection::Word(const std::string& key, std::string& field,
                         std::vector<std::string> words) const {
  Add(
      key,
      [&field, words = std::move(words)](const ConfigValue& value) -> std::string {
        for (const std::string& word : words) {
          if (value.kind != ValueKind::kScalar || value.text != word) continue;
          field = word;
          return "";
        }
        return NotOneOf(value, words);
      },
      [&field] { return field; });
}

void SchemaSection::Integers(const std::string& key, std::vector<int>& field,
                             IntegerRange range) const {
  Add(
      key,
      [&field, range](const ConfigValue& value) {
        return ReadSeveral(value, field, [&](const ConfigValue& one, int& out) {
          return StoreInteger(one, range, out);
        });
      },
      [&field] { return WriteSeveral(field, [](int value) { return std::to_string(value); }); });
}

void SchemaSection::Numbers(const std::string& key, std::vector<double>& field, NumberRange range,
                            double scale) const {
  Add(
      key,
      [&field, range, scale](const ConfigValue& value) {
        return ReadSeveral(value, field, [&](const ConfigValue& one, double& out) {
          std::string complaint = ReadNumber(one, range, out);
          out *= scale;
          return complaint;
        });
      },
      [&field, scale] {
        return WriteSeveral(field, [&](double value) { return WriteNumber(value, scale); });
      });
}

void SchemaSection::ByteCounts(const std::string& key, std::vector<std::uint64_t>& field) const {
  Add(
      key, [&field](const ConfigValue& value) { return ReadSeveral(value, field, ReadByteCount); },
      [&field] { return WriteSeveral(field, WriteByteCount); });
}

}  // namespace fedmoe
