// The binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html): records of a label
// byte and 3 x 32 x 32 pixels, channel by channel; of CIFAR-100: a coarse and a fine label byte
// first.
#include <cstddef>
#include <utility>

#include <fmt/format.h>

#include "common/file_system.h"
#include "data/loaders.h"
#include "data/split.h"

namespace fedmoe {
namespace {

constexpr std::size_t kPixels = 3 * 32 * 32;
constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 30;

struct Layout {
  int classes = 0;
  std::size_t label_bytes = 0;  // the last of them is the label
  std::vector<std::string> train;
  std::string test;
};

Layout Cifar10() {
  Layout layout{.classes = 10, .label_bytes = 1, .train = {}, .test = "test_batch.bin"};
  for (int i = 1; i <= 5; ++i) layout.train.push_back(fmt::format("data_batch_{}.bin", i));
  return layout;
}

Layout Cifar100() {
  return {.classes = 100, .label_bytes = 2, .train = {"train.bin"}, .test = "test.bin"};
}

Status AppendFile(const std::string& path, const Layout& layout, Dataset& dataset) {
  FileSystem& files = PosixFileSystem();
  if (!files.Exists(path)) {
    return NotFound(path +
                    ": no such file; fetch CIFAR-10 with ./scripts/fetch_data cifar10, or set "
                    "data.path");
  }
  FEDMOE_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(files, path, kMaxFileBytes));
  const std::size_t record = layout.label_bytes + kPixels;
  if (bytes.empty() || bytes.size() % record != 0) {
    return DataLoss(fmt::format("{}: {} bytes are not one or more records of {} (CIFAR-{})", path,
                                bytes.size(), record, layout.classes));
  }
  const std::size_t count = bytes.size() / record;
  dataset.pixels.reserve(dataset.pixels.size() + count * kPixels);
  for (std::size_t i = 0; i < count; ++i) {
    const auto pixels =
        bytes.begin() + static_cast<std::ptrdiff_t>(i * record + layout.label_bytes);
    const auto label = static_cast<std::uint8_t>(pixels[-1]);
    if (label >= layout.classes) {
      return InvalidArgument(fmt::format("{}: label {} of example {} is outside 0 to {}", path,
                                         label, i, layout.classes - 1));
    }
    dataset.labels.push_back(label);
    dataset.pixels.insert(dataset.pixels.end(), pixels,
                          pixels + static_cast<std::ptrdiff_t>(kPixels));
  }
  return Status::Ok();
}

Result<Dataset> Load(const DataOptions& options, bool test) {
  FEDMOE_RETURN_IF_ERROR(
      CheckPathGiven(options, "the folder of the .bin files for dataset cifar_binary"));
  FileSystem& files = PosixFileSystem();
  const bool hundred = files.Exists(JoinPath(options.path, "train.bin")) ||
                       files.Exists(JoinPath(options.path, "test.bin"));
  const Layout layout = hundred ? Cifar100() : Cifar10();
  Dataset dataset;
  dataset.name = options.path;
  dataset.shape = {3, 32, 32};
  dataset.classes = layout.classes;
  FEDMOE_RETURN_IF_ERROR(SetNormalisation(options.image, 3, dataset));
  for (const std::string& name : test ? std::vector{layout.test} : layout.train) {
    FEDMOE_RETURN_IF_ERROR(AppendFile(JoinPath(options.path, name), layout, dataset));
  }
  return dataset;
}

}  // namespace

Result<LocalData> LoadLocalCifar(const DataOptions& options) {
  FEDMOE_ASSIGN_OR_RETURN(const Dataset whole, Load(options, /*test=*/false));
  FEDMOE_ASSIGN_OR_RETURN(const Split split, SplitByLabels(whole.labels, whole.classes, options));
  return LocalData{Subset(whole, split.train), Subset(whole, split.holdout)};
}

Result<Dataset> LoadTestCifar(const DataOptions& options) {
  FEDMOE_ASSIGN_OR_RETURN(Dataset test, Load(options, /*test=*/true));
  return LimitTest(std::move(test), options, options.partition.seed);
}

}  // namespace fedmoe
