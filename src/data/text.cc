// Examples from text: one file, or a folder of files in several languages.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "common/file_system.h"
#include "data/loaders.h"
#include "data/split.h"
#include "data/text_codec.h"
#include "data/text_windows.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 30;

// The files of a dataset: a single one that is both training text and, its end, test text; or files
// of the one kind that was asked for.
struct TextFiles {
  bool single = false;
  std::vector<std::string> paths;  // sorted; not empty
};

Result<TextFiles> FindFiles(const std::string& path, const std::string& ending) {
  FileSystem& files = PosixFileSystem();
  std::error_code ignored;
  if (!files.Exists(path)) {
    return NotFound(path +
                    ": no such file or folder; fetch text with ./scripts/fetch_data shakespeare or "
                    "./scripts/fetch_data languages, or set data.path");
  }
  if (!std::filesystem::is_directory(path, ignored)) return TextFiles{true, {path}};
  const std::string single = JoinPath(path, "input.txt");
  if (files.Exists(single)) return TextFiles{true, {single}};
  FEDMOE_ASSIGN_OR_RETURN(const auto names, files.List(path));
  TextFiles found;
  for (const std::string& name : names) {
    if (name.ends_with(ending)) found.paths.push_back(JoinPath(path, name));
  }
  if (!found.paths.empty()) return found;
  return NotFound(
      fmt::format("{}: neither input.txt nor files named <name>{} in this folder", path, ending));
}

Result<std::string> ReadText(const std::string& path) {
  FEDMOE_ASSIGN_OR_RETURN(std::string text, ReadFile(PosixFileSystem(), path, kMaxFileBytes));
  if (text.empty()) return InvalidArgument(path + ": empty");
  return text;
}

// Where the test part of a single file begins.
std::size_t TestBegin(std::string_view text, const TextOptions& options) {
  const double train = static_cast<double>(text.size()) * (1.0 - options.test_fraction);
  return NextCodePoint(text, static_cast<std::size_t>(train), options.alphabet);
}

// A dataset that is being collected: `tokens` and `documents`, no windows yet.
class Collector {
 public:
  explicit Collector(const DataOptions& options) : options_(options.text) {
    whole_.name = options.path;
    whole_.shape = {options_.context};
    whole_.classes = AlphabetSize(options_.alphabet);
  }

  // Adds to the current document text that stands at `offset` of the file `path`.
  Status Add(std::string_view text, const std::string& path, std::size_t offset) {
    return AppendIds(text, options_.alphabet, path, offset, whole_.tokens);
  }
  // Ends the document, which must hold a window; `what` names it.
  Status EndDocument(const std::string& what) {
    const TextDocument document{begin_, static_cast<std::int64_t>(whole_.tokens.size())};
    if (WindowsIn(document, options_.context) == 0) {
      return InvalidArgument(
          fmt::format("{}: {} characters are fewer than an example's {} (data.text.context + 1)",
                      what, document.end - document.begin, options_.context + 1));
    }
    begin_ = document.end;
    whole_.documents.push_back(document);
    return Status::Ok();
  }

  const Dataset& whole() const { return whole_; }

 private:
  TextOptions options_;
  Dataset whole_;
  std::int64_t begin_ = 0;
};

Status AddSpeaker(const std::string& path, std::string_view text, const DataOptions& options,
                  Collector& collector) {
  const std::vector<Speaker> speakers = FindSpeakers(text);
  const int clients = options.partition.clients;
  if (static_cast<std::int64_t>(speakers.size()) < clients) {
    return InvalidArgument(
        fmt::format("{}: {} speakers (blocks that begin with a line \"NAME:\") are fewer than "
                    "data.partition.clients ({})",
                    path, speakers.size(), clients));
  }
  const Speaker& speaker = speakers[static_cast<std::size_t>(options.client_index)];
  for (const Speaker::Block& block : speaker.blocks) {
    FEDMOE_RETURN_IF_ERROR(
        collector.Add(text.substr(block.begin, block.end - block.begin), path, block.begin));
  }
  return collector.EndDocument(fmt::format("{}: speaker {}", path, speaker.name));
}

// The training files, or the client's alone for the partition `files`; a document each.
Status AddFiles(const TextFiles& files, const DataOptions& options, Collector& collector) {
  const bool own_alone = options.partition.kind == PartitionKind::kFiles;
  const std::size_t own = static_cast<std::size_t>(options.client_index) % files.paths.size();
  for (std::size_t i = 0; i < files.paths.size(); ++i) {
    if (own_alone && i != own) continue;
    const std::string& path = files.paths[i];
    FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
    std::string_view train = text;
    if (files.single) train = train.substr(0, TestBegin(text, options.text));
    if (options.partition.kind == PartitionKind::kSpeakers) {
      return AddSpeaker(path, train, options, collector);
    }
    FEDMOE_RETURN_IF_ERROR(collector.Add(train, path, 0));
    FEDMOE_RETURN_IF_ERROR(collector.EndDocument(path));
  }
  return Status::Ok();
}

// The client's share of a file that it has in common with others: contiguous and as long as theirs.
Result<TextDocument> ShareOfFile(const TextDocument& document, const TextFiles& files,
                                 const DataOptions& options) {
  const auto count = static_cast<int>(files.paths.size());
  const int file = options.client_index % count;
  const int rank = options.client_index / count;
  const int sharers = (options.partition.clients - file + count - 1) / count;
  const std::int64_t windows = WindowsIn(document, options.text.context);
  if (windows < sharers) {
    return InvalidArgument(fmt::format(
        "{}: {} windows of {} characters are too few for the {} clients that share it",
        files.paths[static_cast<std::size_t>(file)], windows, options.text.context, sharers));
  }
  return PartOf(document, windows * rank / sharers, windows * (rank + 1) / sharers,
                options.text.context);
}

Result<std::vector<TextDocument>> OwnDocuments(const Dataset& whole, const TextFiles& files,
                                               const DataOptions& options) {
  switch (options.partition.kind) {
    case PartitionKind::kIid:
      return DealRuns(whole.documents, options.text.context, options);
    case PartitionKind::kFiles: {
      FEDMOE_ASSIGN_OR_RETURN(const TextDocument share,
                              ShareOfFile(whole.documents[0], files, options));
      return std::vector{share};
    }
    default:
      return whole.documents;
  }
}

Status CheckText(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckPathGiven(options, "a text file or a folder for dataset text"));
  const TextOptions& text = options.text;
  if (text.context < 1 || text.context > 65536) {
    return InvalidArgument(
        fmt::format("data.text.context must be in 1 to 65536 (got {})", text.context));
  }
  if (!(text.test_fraction >= 0.0 && text.test_fraction <= 0.9)) {
    return InvalidArgument(
        fmt::format("data.text.test_fraction must be in 0 to 0.9 (got {})", text.test_fraction));
  }
  return Status::Ok();
}

Dataset Limited(Dataset data, std::int64_t most, const DataOptions& options,
                const std::string& owner) {
  if (data.size() <= most) return data;
  return Subset(data, DrawAtMost(AllIndices(static_cast<std::size_t>(data.size())), most,
                                 options.partition.seed, owner));
}

}  // namespace

Result<LocalData> LoadLocalText(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckText(options));
  FEDMOE_ASSIGN_OR_RETURN(const TextFiles files, FindFiles(options.path, ".train.txt"));
  if (options.partition.kind == PartitionKind::kSpeakers && !files.single) {
    return InvalidArgument(options.path +
                           ": data.partition.kind speakers needs a single file, input.txt; for "
                           "this folder use files");
  }
  Collector collector(options);
  FEDMOE_RETURN_IF_ERROR(AddFiles(files, options, collector));
  const Dataset& whole = collector.whole();
  FEDMOE_ASSIGN_OR_RETURN(const auto own, OwnDocuments(whole, files, options));
  FEDMOE_ASSIGN_OR_RETURN(const DocumentSplit split,
                          HoldBackEnds(own, options.text.context, options));
  LocalData data{WindowDataset(whole, split.train), WindowDataset(whole, split.holdout)};
  const std::int64_t most = options.max_examples;
  if (most > 0 && data.train.size() + data.holdout.size() > most) {
    FEDMOE_ASSIGN_OR_RETURN(const std::int64_t kept_back, HoldoutCount(options, most));
    const std::string client = ClientName(options.client_index);
    data.train = Limited(std::move(data.train), most - kept_back, options, client);
    data.holdout = Limited(std::move(data.holdout), kept_back, options, client);
  }
  return data;
}

Result<Dataset> LoadTestText(const DataOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckText(options));
  FEDMOE_ASSIGN_OR_RETURN(const TextFiles files, FindFiles(options.path, ".test.txt"));
  Collector collector(options);
  for (const std::string& path : files.paths) {
    FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadText(path));
    const std::size_t begin = files.single ? TestBegin(text, options.text) : 0;
    FEDMOE_RETURN_IF_ERROR(collector.Add(std::string_view(text).substr(begin), path, begin));
    FEDMOE_RETURN_IF_ERROR(collector.EndDocument(files.single ? path + ": the test part" : path));
  }
  return LimitTest(WindowDataset(collector.whole(), collector.whole().documents), options,
                   options.partition.seed);
}

}  // namespace fedmoe
