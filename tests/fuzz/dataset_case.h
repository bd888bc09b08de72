// What an input of the target dataset_headers begins with: a byte that says which dataset, and a
// byte of options. Corpora depend on the numbers.
#pragma once

#include <cstdint>
#include <string>

#include "data/data_options.h"

namespace fedmoe {

enum class DatasetCase {
  kIdx,            // labels, then images, each with its length before it
  kIdxGzip,        // the same as .gz
  kCsv,            // train.csv with its length before it, then test.csv
  kCsvTestAlone,   // test.csv
  kCifar10,        // each of its files
  kCifar100,       // train.bin and test.bin
  kTextFile,       // input.txt
  kTextFolder,     // a.train.txt with its length before it, then b.train.txt and a.test.txt
  kImageFolder,    // classes.txt with its length before it, then an image in each of two folders
  kFolderWithout,  // what the folder holds has the name of the first part
};
inline constexpr int kDatasetCases = 10;

// Options: bits 0 to 2 the partition, 3 an option of the dataset, 4 and 5 the alphabet of text, 6 a
// bound on examples, 7 the second of three clients.
inline DataOptions DatasetOptions(DatasetCase dataset, std::uint8_t bits, const std::string& path) {
  DataOptions options;
  options.path = path;
  options.holdout_fraction = 0.25;
  options.partition.kind = static_cast<PartitionKind>((bits & 7) % 6);
  options.partition.clients = 3;
  options.partition.min_examples = 1;
  options.max_examples = (bits & 64) != 0 ? 2 : 0;
  options.client_index = bits >> 7;
  const bool set = (bits & 8) != 0;
  switch (dataset) {
    case DatasetCase::kIdx:
    case DatasetCase::kIdxGzip:
      options.dataset = DatasetKind::kIdx;
      break;
    case DatasetCase::kCsv:
    case DatasetCase::kCsvTestAlone:
      options.dataset = DatasetKind::kCsv;
      if (set) options.csv = {.label = "y", .classes = 5, .standardise = false};
      break;
    case DatasetCase::kCifar10:
    case DatasetCase::kCifar100:
      options.dataset = DatasetKind::kCifarBinary;
      if (set) options.image.mean = {0.5, 0.4, 0.3};
      break;
    case DatasetCase::kTextFile:
    case DatasetCase::kTextFolder:
      options.dataset = DatasetKind::kText;
      options.text = {.context = set ? 8 : 3,
                      .alphabet = static_cast<TextAlphabet>((bits >> 4 & 3) % 3),
                      .test_fraction = 0.2};
      break;
    case DatasetCase::kImageFolder:
    case DatasetCase::kFolderWithout:
      options.dataset = DatasetKind::kImageFolder;
      options.image.size = set ? 0 : 4;
      options.image.channels = (bits & 16) != 0 ? 1 : 3;
      options.image.memory_bytes = (bits & 32) != 0 ? 64 : 1 << 16;
      break;
  }
  return options;
}

}  // namespace fedmoe
