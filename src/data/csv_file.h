// A table of numbers in CSV (RFC 4180). Internal to `data`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/result.h"

namespace fedmoe {

struct CsvTable {
  std::vector<std::string> features;  // names of the columns but the label's
  std::vector<float> values;          // [rows, features]
  std::vector<std::int32_t> labels;
  std::int32_t max_label = 0;
};

// Reads a file of at most 1 GiB. The first row names the columns. Fields are separated by commas
// and may be quoted ("a ""b"", c"); spaces around a number count for nothing; empty lines are
// skipped. `label`: name of the label's column, empty: the last. Errors (INVALID_ARGUMENT, LINE
// where the row begins):
//   "PATH: empty: the first row should name the columns"
//   "PATH: no rows after the header"
//   "PATH:LINE: no column 'NAME' for the label; the header has A, B"
//   "PATH:LINE: only one column: there should be features beside the label"
//   "PATH:LINE: N fields where the header has M"
//   "PATH:LINE: column 'NAME' must be a finite number (got 'TEXT')"
//   "PATH:LINE: label 'NAME' must be a whole number from 0 to 1048575 (got 'TEXT')"
//   "PATH:LINE: a quoted field does not end"
//   "PATH:LINE: text follows the end of a quoted field"
Result<CsvTable> ReadCsv(const std::string& path, const std::string& label);

}  // namespace fedmoe
