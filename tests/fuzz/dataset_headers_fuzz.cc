// Datasets from files: an error, or examples of the shape and number that the file announces,
// labels and tokens within their classes, all of which can be made into batches. Input:
// dataset_case.h.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/dataset_case.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/scratch_folder.h"

namespace fedmoe {
namespace {

// Batches of larger examples are left out.
constexpr std::int64_t kMaxBatchElements = 1 << 16;

// What loading may take: 1 MiB classes at most, each with its list, a decoder's buffers, and the
// files in several copies; of what deflate or PNG packs, as much as it can unpack to.
std::size_t MostBytes(DatasetCase dataset, std::size_t files) {
  const bool packed = dataset == DatasetCase::kIdxGzip || dataset == DatasetCase::kImageFolder;
  return (std::size_t{160} << 20) + 64 * files * (packed ? 1032 : 1);
}

void CheckText(const Dataset& data) {
  for (const std::uint16_t token : data.tokens) {
    FUZZ_CHECK(token < data.classes, std::to_string(token));
  }
  const auto tokens = static_cast<std::int64_t>(data.tokens.size());
  for (const TextDocument& document : data.documents) {
    FUZZ_CHECK(0 <= document.begin && document.begin < document.end && document.end <= tokens,
               std::to_string(document.begin) + " to " + std::to_string(document.end));
  }
  for (const TextWindow& window : data.windows) {
    const TextDocument& document = data.documents.at(static_cast<std::size_t>(window.document));
    FUZZ_CHECK(document.begin <= window.first && window.first + data.shape.at(0) < document.end,
               std::to_string(window.first));
  }
}

void CheckExamples(const Dataset& data) {
  const auto examples = static_cast<std::size_t>(data.size());
  const auto elements = static_cast<std::size_t>(data.ExampleElements());
  FUZZ_CHECK(data.pixels.empty() || data.pixels.size() == examples * elements, data.name);
  FUZZ_CHECK(data.values.empty() || data.values.size() == examples * elements, data.name);
  FUZZ_CHECK(data.files.empty() || data.files.size() == examples, data.name);
  FUZZ_CHECK(examples == 0 || elements == 0 || !data.pixels.empty() || !data.values.empty() ||
                 !data.files.empty(),
             data.name);
  for (const std::int32_t label : data.labels) {
    FUZZ_CHECK(0 <= label && label < data.classes, std::to_string(label));
  }
}

void CheckBatch(const Dataset& data) {
  if (data.size() == 0 || data.ExampleElements() > kMaxBatchElements) return;
  const std::vector<std::int64_t> indices = {data.size() - 1, 0};
  ExampleBatch batch;
  const Status status = MakeBatch(data, indices, {}, 1, batch);
  // A folder's images are looked at when they are needed, where they do not fit into memory.
  if (!status.ok() && !data.files.empty()) return;
  FUZZ_CHECK(status.ok(), status.ToString());
  const auto elements = 2 * static_cast<std::size_t>(data.ExampleElements());
  FUZZ_CHECK(batch.features.size() + batch.tokens.size() == elements, data.name);
  FUZZ_CHECK(std::all_of(batch.features.begin(), batch.features.end(),
                         [](float value) { return std::isfinite(value); }),
             data.name);
  for (const std::int64_t label : batch.labels) {
    FUZZ_CHECK(0 <= label && label < data.classes, std::to_string(label));
  }
}

void CheckDataset(const Dataset& data) {
  FUZZ_CHECK(data.classes >= 1 && !data.shape.empty(), data.name);
  for (const int extent : data.shape) FUZZ_CHECK(extent >= 1, data.name);
  if (data.IsText()) {
    CheckText(data);
  } else {
    CheckExamples(data);
  }
  CheckBatch(data);
}

void CheckError(const Status& status, const std::string& path) {
  const std::string& message = status.message();
  FUZZ_CHECK(message.starts_with(path) || message.starts_with("data.") ||
                 message.starts_with("open " + path),
             status.ToString());
}

void CheckLoads(DatasetCase dataset, const DataOptions& options, std::size_t files) {
  const AllocationMeter meter;
  const Result<LocalData> local = LoadLocalData(options);
  const Result<Dataset> test = LoadTestData(options);
  FUZZ_CHECK(meter.PeakBytes() <= MostBytes(dataset, files), std::to_string(meter.PeakBytes()));
  if (local.ok()) {
    CheckDataset(local->train);
    CheckDataset(local->holdout);
  } else {
    CheckError(local.status(), options.path);
  }
  if (test.ok()) {
    CheckDataset(*test);
  } else {
    CheckError(test.status(), options.path);
  }
}

void WriteIdx(const ScratchFolder& folder, FuzzInput& input, const std::string& ending) {
  const std::string labels = input.TakeSized();
  const std::string images = input.TakeRest();
  for (const char* part : {"train", "t10k"}) {
    folder.Write(std::string("idx/") + part + "-labels-idx1-ubyte" + ending, labels);
    folder.Write(std::string("idx/") + part + "-images-idx3-ubyte" + ending, images);
  }
}

void WriteCifar10(const ScratchFolder& folder, const std::string& bytes) {
  for (int i = 1; i <= 5; ++i) {
    folder.Write("cifar10/data_batch_" + std::to_string(i) + ".bin", bytes);
  }
  folder.Write("cifar10/test_batch.bin", bytes);
}

// The name of the only file of a folder: letters, and what archives and CIFAR's files end with.
std::string PlainName(std::string name) {
  name.resize(std::min<std::size_t>(name.size(), 64));
  for (char& c : name) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
    if (!plain) c = 'x';
  }
  return "f" + name;
}

// Writes the input's files and returns the path that the dataset is at.
std::string WriteFiles(const ScratchFolder& folder, DatasetCase dataset, FuzzInput& input) {
  switch (dataset) {
    case DatasetCase::kIdx:
      WriteIdx(folder, input, "");
      return folder.File("idx");
    case DatasetCase::kIdxGzip:
      WriteIdx(folder, input, ".gz");
      return folder.File("idx");
    case DatasetCase::kCsv:
      folder.Write("csv/train.csv", input.TakeSized());
      folder.Write("csv/test.csv", input.TakeRest());
      return folder.File("csv");
    case DatasetCase::kCsvTestAlone:
      folder.Write("csv_test/test.csv", input.TakeRest());
      return folder.File("csv_test");
    case DatasetCase::kCifar10:
      WriteCifar10(folder, input.TakeRest());
      return folder.File("cifar10");
    case DatasetCase::kCifar100: {
      const std::string bytes = input.TakeRest();
      folder.Write("cifar100/train.bin", bytes);
      folder.Write("cifar100/test.bin", bytes);
      return folder.File("cifar100");
    }
    case DatasetCase::kTextFile:
      return folder.Write("text/input.txt", input.TakeRest());
    case DatasetCase::kTextFolder: {
      folder.Write("texts/a.train.txt", input.TakeSized());
      const std::string rest = input.TakeRest();
      folder.Write("texts/b.train.txt", rest);
      folder.Write("texts/a.test.txt", rest);
      return folder.File("texts");
    }
    case DatasetCase::kImageFolder: {
      folder.Write("images/classes.txt", input.TakeSized());
      const std::string first = input.TakeSized();
      folder.Write("images/train/cat/1.png", first);
      folder.Write("images/test/cat/1.png", first);
      folder.Write("images/train/dog/2.jpg", input.TakeRest());
      return folder.File("images");
    }
    case DatasetCase::kFolderWithout: {
      const std::string path = folder.File("without");
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
      folder.Write("without/" + PlainName(input.TakeRest()), "x");
      return path;
    }
  }
  return {};
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fedmoe;
  // Plain and packed files of one name must not stand side by side: the plain one would be read.
  static const ScratchFolder folder, packed;
  FuzzInput input(data, size);
  const auto dataset = static_cast<DatasetCase>(input.TakeByte() % kDatasetCases);
  const std::uint8_t bits = input.TakeByte();
  const std::string path =
      WriteFiles(dataset == DatasetCase::kIdxGzip ? packed : folder, dataset, input);
  CheckLoads(dataset, DatasetOptions(dataset, bits, path), size);
  return 0;
}
