#include "data/csv_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/file_system.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 30;
constexpr std::int32_t kMaxLabel = (1 << 20) - 1;
constexpr std::size_t kShownBytes = 40;

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// A field as a message shows it: cut, and without control characters.
std::string Shown(std::string_view field) {
  std::string shown(field.substr(0, kShownBytes));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20) c = '?';
  }
  return field.size() > kShownBytes ? shown + "..." : shown;
}

// Rows of fields, one after the other.
class RowReader {
 public:
  RowReader(std::string_view text, const std::string& path) : text_(text), path_(path) {
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);
  }

  // The fields of the next row that is not empty; false at the end. `fields` keeps its memory.
  Result<bool> Next(std::vector<std::string>& fields) {
    while (position_ < text_.size() && SkipLineEnd()) {
    }
    if (position_ >= text_.size()) return false;
    row_line_ = line_;
    std::size_t count = 0;
    for (;;) {
      if (fields.size() == count) fields.emplace_back();
      FEDMOE_RETURN_IF_ERROR(ReadField(fields[count++]));
      if (position_ >= text_.size() || SkipLineEnd()) break;
      ++position_;  // the comma
    }
    fields.resize(count);
    return true;
  }

  Status Error(std::string_view what) const {
    return InvalidArgument(fmt::format("{}:{}: {}", path_, row_line_, what));
  }

 private:
  bool SkipLineEnd() {
    if (text_.substr(position_, 2) == "\r\n") ++position_;
    if (text_[position_] != '\n') return false;
    ++position_;
    ++line_;
    return true;
  }

  // Stops at a comma, a line's end or the text's.
  Status ReadField(std::string& field) {
    field.clear();
    if (position_ < text_.size() && text_[position_] == '"') return ReadQuoted(field);
    const std::size_t end = std::min(text_.find_first_of(",\n", position_), text_.size());
    field = text_.substr(position_, end - position_);
    if (field.ends_with('\r')) field.pop_back();
    position_ = end;
    return Status::Ok();
  }

  Status ReadQuoted(std::string& field) {
    ++position_;
    for (;;) {
      const std::size_t quote = text_.find('"', position_);
      if (quote == std::string_view::npos) return Error("a quoted field does not end");
      const std::string_view part = text_.substr(position_, quote - position_);
      field += part;
      line_ += std::count(part.begin(), part.end(), '\n');
      position_ = quote + 1;
      if (text_.substr(position_, 1) != "\"") break;
      field += '"';
      ++position_;
    }
    if (text_.substr(position_, 1) == "\r") ++position_;
    const bool ends =
        position_ >= text_.size() || text_[position_] == ',' || text_[position_] == '\n';
    return ends ? Status::Ok() : Error("text follows the end of a quoted field");
  }

  std::string_view text_;
  const std::string& path_;
  std::size_t position_ = 0;
  std::int64_t line_ = 1;
  std::int64_t row_line_ = 1;
};

template <typename Number>
bool Parse(std::string_view text, Number& number) {
  text = Trimmed(text);
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

Status AppendRow(const RowReader& reader, const std::vector<std::string>& header,
                 const std::vector<std::string>& fields, std::size_t label_column,
                 CsvTable& table) {
  if (fields.size() != header.size()) {
    return reader.Error(
        fmt::format("{} fields where the header has {}", fields.size(), header.size()));
  }
  for (std::size_t column = 0; column < fields.size(); ++column) {
    if (column == label_column) {
      std::int32_t label = -1;
      if (!Parse(fields[column], label) || label < 0 || label > kMaxLabel) {
        return reader.Error(fmt::format("label '{}' must be a whole number from 0 to {} (got '{}')",
                                        header[column], kMaxLabel, Shown(fields[column])));
      }
      table.labels.push_back(label);
      table.max_label = std::max(table.max_label, label);
      continue;
    }
    double value = 0.0;
    if (!Parse(fields[column], value) || !std::isfinite(static_cast<float>(value))) {
      return reader.Error(fmt::format("column '{}' must be a finite number (got '{}')",
                                      header[column], Shown(fields[column])));
    }
    table.values.push_back(static_cast<float>(value));
  }
  return Status::Ok();
}

}  // namespace

Result<CsvTable> ReadCsv(const std::string& path, const std::string& label) {
  FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadFile(PosixFileSystem(), path, kMaxFileBytes));
  RowReader reader(text, path);
  std::vector<std::string> header;
  FEDMOE_ASSIGN_OR_RETURN(const bool has_header, reader.Next(header));
  if (!has_header) return InvalidArgument(path + ": empty: the first row should name the columns");
  for (std::string& name : header) name = Trimmed(name);
  std::size_t label_column = header.size() - 1;
  if (!label.empty()) {
    const auto found = std::find(header.begin(), header.end(), label);
    if (found == header.end()) {
      return reader.Error(fmt::format("no column '{}' for the label; the header has {}", label,
                                      Shown(fmt::format("{}", fmt::join(header, ", ")))));
    }
    label_column = static_cast<std::size_t>(found - header.begin());
  }
  if (header.size() < 2) {
    return reader.Error("only one column: there should be features beside the label");
  }
  CsvTable table;
  table.features = header;
  table.features.erase(table.features.begin() + static_cast<std::ptrdiff_t>(label_column));
  std::vector<std::string> fields;
  for (;;) {
    FEDMOE_ASSIGN_OR_RETURN(const bool more, reader.Next(fields));
    if (!more) break;
    FEDMOE_RETURN_IF_ERROR(AppendRow(reader, header, fields, label_column, table));
  }
  if (table.labels.empty()) return InvalidArgument(path + ": no rows after the header");
  return table;
}

}  // namespace fedmoe
