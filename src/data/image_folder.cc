// Examples from a folder of images: PATH/train/CLASS/*.jpg and PATH/test/CLASS/*.jpg.
#include <algorithm>
#include <atomic>
#include <cctype>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "common/file_system.h"
#include "data/image.h"
#include "data/loaders.h"
#include "data/split.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxClassListBytes = 1 << 20;
constexpr unsigned kMaxDecodingThreads = 4;
constexpr const char* kClassList = "classes.txt";

struct ImageList {
  std::vector<std::string> files;
  std::vector<std::int32_t> labels;
};

bool IsFolder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

bool EndsWithOneOf(std::string name, std::initializer_list<std::string_view> endings) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

// Why there is no folder `part`.
Status NoPart(const std::string& root, const std::string& part) {
  if (!IsFolder(root)) {
    return NotFound(root +
                    ": no such folder; fetch CIFAR-10 with ./scripts/fetch_data cifar10, or set "
                    "data.path");
  }
  FEDMOE_ASSIGN_OR_RETURN(const auto names, PosixFileSystem().List(root));
  for (const std::string& name : names) {
    if (EndsWithOneOf(name, {".tar.xz", ".tar.gz", ".tar", ".tgz", ".zip"})) {
      return FailedPrecondition(
          fmt::format("{}: holds an archive, {}, and no images; run ./scripts/fetch_data cifar10, "
                      "which unpacks "
                      "CIFAR-10 into data/cifar10, and set data.path to the unpacked folder",
                      root, name));
    }
    if (EndsWithOneOf(name, {"_batch_1.bin", "test_batch.bin", "train.bin"})) {
      return FailedPrecondition(
          fmt::format("{}: holds {} and no images; set data.dataset to cifar_binary", root, name));
    }
  }
  return NotFound(
      fmt::format("{}: no such folder; an image folder has train/<class>/ and test/<class>/ in it",
                  JoinPath(root, part)));
}

Result<std::vector<std::string>> ClassFolders(const std::string& folder) {
  FEDMOE_ASSIGN_OR_RETURN(const auto names, PosixFileSystem().List(folder));
  std::vector<std::string> classes;
  for (const std::string& name : names) {
    if (!name.starts_with('.') && IsFolder(JoinPath(folder, name))) classes.push_back(name);
  }
  if (classes.empty()) {
    return InvalidArgument(
        fmt::format("{0}: no class folders; images belong in {0}/<class>/", folder));
  }
  return classes;
}

// The classes in the order of their labels: the lines of classes.txt, for a node that lacks some,
// else the folders of `train`, else those of `test`.
Result<std::vector<std::string>> ClassNames(const std::string& root) {
  const std::string list = JoinPath(root, kClassList);
  if (!PosixFileSystem().Exists(list)) {
    const std::string train = JoinPath(root, "train");
    return ClassFolders(IsFolder(train) ? train : JoinPath(root, "test"));
  }
  FEDMOE_ASSIGN_OR_RETURN(const std::string text,
                          ReadFile(PosixFileSystem(), list, kMaxClassListBytes));
  std::vector<std::string> classes;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.pop_back();
    if (!line.empty()) classes.push_back(std::move(line));
    begin = end + 1;
  }
  if (classes.empty()) return InvalidArgument(list + ": empty: it should name a class a line");
  return classes;
}

Result<ImageList> ListImages(const std::string& root, const std::string& part,
                             const std::vector<std::string>& classes) {
  const std::string folder = JoinPath(root, part);
  FEDMOE_ASSIGN_OR_RETURN(const auto present, ClassFolders(folder));
  ImageList images;
  for (const std::string& name : present) {
    const std::string class_folder = JoinPath(folder, name);
    const auto known = std::find(classes.begin(), classes.end(), name);
    if (known == classes.end()) {
      return InvalidArgument(
          fmt::format("{}: not one of the classes {}", class_folder, fmt::join(classes, ", ")));
    }
    FEDMOE_ASSIGN_OR_RETURN(const auto files, PosixFileSystem().List(class_folder));
    const std::size_t before = images.files.size();
    for (const std::string& file : files) {
      if (file.starts_with('.') || !EndsWithOneOf(file, {".jpg", ".jpeg", ".png"})) continue;
      images.files.push_back(JoinPath(class_folder, file));
      images.labels.push_back(static_cast<std::int32_t>(known - classes.begin()));
    }
    if (images.files.size() == before) {
      return InvalidArgument(class_folder +
                             ": no images (.jpg, .jpeg or .png) in this class folder");
    }
  }
  return images;
}

// Decodes dataset.files into dataset.pixels, over several threads; an error is that of the first
// file that has one.
Status DecodeAll(Dataset& dataset) {
  const std::size_t count = dataset.files.size();
  const auto elements = static_cast<std::size_t>(dataset.ExampleElements());
  dataset.pixels.resize(count * elements);
  std::atomic<std::size_t> next = 0, failed = std::numeric_limits<std::size_t>::max();
  std::mutex mutex;
  Status error;
  const auto work = [&] {
    for (std::size_t i; (i = next.fetch_add(1)) < count && i < failed;) {
      const Result<Image> image = ReadImage(dataset.files[i], dataset.shape[0]);
      if (image.ok()) {
        FitImage(*image, dataset.shape[1], dataset.shape[2],
                 std::span(dataset.pixels).subspan(i * elements, elements));
        continue;
      }
      const std::lock_guard lock(mutex);
      if (i < failed) {
        failed = i;
        error = image.status();
      }
    }
  };
  std::vector<std::thread> threads;
  const unsigned wanted = std::min(kMaxDecodingThreads, std::thread::hardware_concurrency());
  for (unsigned i = 1; i < wanted; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  dataset.files.clear();
  return error;
}

Status CheckImageOptions(const ImageOptions& image) {
  if (image.size < 0 || image.size > kMaxImageSide) {
    return InvalidArgument(
        fmt::format("data.image.size must be in 0 to {} (got {})", kMaxImageSide, image.size));
  }
  if (image.channels != 1 && image.channels != 3) {
    return InvalidArgument(
        fmt::format("data.image.channels must be 1 or 3 (got {})", image.channels));
  }
  return Status::Ok();
}

struct Opened {
  Dataset empty;  // everything but examples
  ImageList images;
};

// Lists PATH/part and finds the shape of its examples.
Result<Opened> Open(const DataOptions& options, const std::string& part) {
  FEDMOE_RETURN_IF_ERROR(
      CheckPathGiven(options, "the folder of train/ and test/ for dataset image_folder"));
  FEDMOE_RETURN_IF_ERROR(CheckImageOptions(options.image));
  if (!IsFolder(JoinPath(options.path, part))) return NoPart(options.path, part);
  FEDMOE_ASSIGN_OR_RETURN(const auto classes, ClassNames(options.path));
  Opened opened;
  FEDMOE_ASSIGN_OR_RETURN(opened.images, ListImages(options.path, part, classes));
  Dataset& dataset = opened.empty;
  dataset.name = options.path;
  dataset.classes = static_cast<int>(classes.size());
  const int channels = options.image.channels;
  FEDMOE_RETURN_IF_ERROR(SetNormalisation(options.image, channels, dataset));
  int height = options.image.size, width = options.image.size;
  if (options.image.size == 0) {
    // The first training image, so that a test set has the same shape.
    std::string first = opened.images.files.front();
    if (part != "train" && IsFolder(JoinPath(options.path, "train"))) {
      FEDMOE_ASSIGN_OR_RETURN(const ImageList train, ListImages(options.path, "train", classes));
      first = train.files.front();
    }
    FEDMOE_ASSIGN_OR_RETURN(const Image image, ReadImage(first, channels));
    height = image.height;
    width = image.width;
  }
  dataset.shape = {channels, height, width};
  return opened;
}

// The examples `indices` of what was opened; their pixels if they are to be in memory.
Result<Dataset> Take(const Opened& opened, std::span<const std::int64_t> indices, bool in_memory) {
  Dataset dataset = opened.empty;
  for (const std::int64_t index : indices) {
    dataset.files.push_back(opened.images.files[static_cast<std::size_t>(index)]);
    dataset.labels.push_back(opened.images.labels[static_cast<std::size_t>(index)]);
  }
  if (in_memory) FEDMOE_RETURN_IF_ERROR(DecodeAll(dataset));
  return dataset;
}

bool FitsMemory(const Opened& opened, std::size_t examples, const ImageOptions& image) {
  const auto bytes = static_cast<std::uint64_t>(opened.empty.ExampleElements()) * examples;
  return bytes <= image.memory_bytes;
}

}  // namespace

Status SetNormalisation(const ImageOptions& image, int channels, Dataset& dataset) {
  const auto convert = [channels](const std::vector<double>& values, const char* key,
                                  std::vector<float>& out) {
    if (values.size() != 1 && values.size() != static_cast<std::size_t>(channels)) {
      return InvalidArgument(fmt::format("data.image.{} must have 1 or {} values (got {})", key,
                                         channels, values.size()));
    }
    out.assign(values.begin(), values.end());
    if (out.size() == 1) out.resize(static_cast<std::size_t>(channels), out.front());
    return Status::Ok();
  };
  FEDMOE_RETURN_IF_ERROR(convert(image.mean, "mean", dataset.mean));
  FEDMOE_RETURN_IF_ERROR(convert(image.deviation, "deviation", dataset.deviation));
  for (const float deviation : dataset.deviation) {
    if (!(deviation > 0.0f)) {
      return InvalidArgument(
          fmt::format("data.image.deviation must be above 0 (got {})", deviation));
    }
  }
  return Status::Ok();
}

Result<LocalData> LoadLocalImageFolder(const DataOptions& options) {
  FEDMOE_ASSIGN_OR_RETURN(const Opened opened, Open(options, "train"));
  FEDMOE_ASSIGN_OR_RETURN(const Split split,
                          SplitByLabels(opened.images.labels, opened.empty.classes, options));
  const bool in_memory =
      FitsMemory(opened, split.train.size() + split.holdout.size(), options.image);
  LocalData data;
  FEDMOE_ASSIGN_OR_RETURN(data.train, Take(opened, split.train, in_memory));
  FEDMOE_ASSIGN_OR_RETURN(data.holdout, Take(opened, split.holdout, in_memory));
  return data;
}

Result<Dataset> LoadTestImageFolder(const DataOptions& options) {
  FEDMOE_ASSIGN_OR_RETURN(const Opened opened, Open(options, "test"));
  const auto chosen = DrawAtMost(AllIndices(opened.images.files.size()), MostTestExamples(options),
                                 options.partition.seed, "test");
  return Take(opened, chosen, FitsMemory(opened, chosen.size(), options.image));
}

}  // namespace fedmoe
