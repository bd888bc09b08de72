#include "common/crash_points.h"

#include <charconv>
#include <csignal>
#include <cstdlib>
#include <utility>

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

namespace fedmoe {
namespace {

constexpr mode_t kTraceMode = 0644;

const char* PhaseName(CrashPoints::Phase phase) {
  switch (phase) {
    case CrashPoints::Phase::kBefore:
      return "before";
    case CrashPoints::Phase::kHalf:
      return "half";
    case CrashPoints::Phase::kAfter:
      return "after";
  }
  return "";
}

}  // namespace

const char* DiskOperationName(DiskOperation operation) {
  switch (operation) {
    case DiskOperation::kCreate:
      return "create";
    case DiskOperation::kOverwrite:
      return "overwrite";
    case DiskOperation::kOpenForAppend:
      return "open_for_append";
    case DiskOperation::kWrite:
      return "write";
    case DiskOperation::kTruncate:
      return "truncate";
    case DiskOperation::kSync:
      return "sync";
    case DiskOperation::kClose:
      return "close";
    case DiskOperation::kRename:
      return "rename";
    case DiskOperation::kRemove:
      return "remove";
    case DiskOperation::kCreateDirectories:
      return "create_directories";
    case DiskOperation::kSyncDirectory:
      return "sync_directory";
    case DiskOperation::kLock:
      return "lock";
  }
  return "";
}

template <typename Call>
auto CrashPoints::Around(DiskOperation operation, const std::string& path, Call call) {
  const DiskVerdict verdict = Before(operation, path);
  auto result = call();
  After(verdict);
  return result;
}

// A file whose operations are counted.
class CrashPoints::File final : public WritableFile {
 public:
  File(std::unique_ptr<WritableFile> base, CrashPoints& owner, std::string path)
      : owner_(owner), base_(std::move(base)), path_(std::move(path)) {}

  Status Append(std::span<const std::byte> bytes) override {
    const DiskVerdict verdict = owner_.Before(DiskOperation::kWrite, path_);
    const Status status = base_->Append(verdict.half ? bytes.first((bytes.size() + 1) / 2) : bytes);
    owner_.After(verdict);
    return status;
  }
  Status Sync() override {
    return owner_.Around(DiskOperation::kSync, path_, [&] { return base_->Sync(); });
  }
  void StartSync() override { base_->StartSync(); }
  Status Trim() override {
    return owner_.Around(DiskOperation::kTruncate, path_, [&] { return base_->Trim(); });
  }
  Status Close() override {
    return owner_.Around(DiskOperation::kClose, path_, [&] { return base_->Close(); });
  }

 private:
  CrashPoints& owner_;
  std::unique_ptr<WritableFile> base_;
  std::string path_;
};

Result<CrashPoints::Options> CrashPoints::Parse(std::string_view value) {
  const auto wrong = [whole = std::string(value)] {
    return InvalidArgument(std::string(kCrashPointsVariable) +
                           " must be N:before, N:half or N:after, the absolute path of a file for "
                           "the operations, or both with a comma between (got '" +
                           whole + "')");
  };
  Options options;
  if (!value.starts_with('/')) {
    const std::size_t end = std::min(value.find(','), value.size());
    const std::string_view point = value.substr(0, end);
    const std::size_t colon = std::min(point.find(':'), point.size());
    const auto parsed = std::from_chars(point.data(), point.data() + colon, options.operation);
    if (parsed.ec != std::errc() || parsed.ptr != point.data() + colon || options.operation < 1) {
      return wrong();
    }
    bool known = false;
    for (const Phase phase : {Phase::kBefore, Phase::kHalf, Phase::kAfter}) {
      if (point.substr(std::min(colon + 1, point.size())) != PhaseName(phase)) continue;
      options.phase = phase;
      known = true;
    }
    if (!known) return wrong();
    if (end == value.size()) return options;
    value.remove_prefix(end + 1);
  }
  if (!value.starts_with('/')) return wrong();
  options.trace = value;
  return options;
}

Result<std::unique_ptr<CrashPoints>> CrashPoints::FromEnvironment(FileSystem& base) {
  const char* value = std::getenv(kCrashPointsVariable);
  if (value == nullptr) return std::unique_ptr<CrashPoints>();
  FEDMOE_ASSIGN_OR_RETURN(Options options, Parse(value));
  spdlog::warn("{}={}: this is a test of crashes", kCrashPointsVariable, value);
  return std::make_unique<CrashPoints>(base, std::move(options));
}

CrashPoints::CrashPoints(FileSystem& base, Options options)
    : ForwardingFileSystem(base), options_(std::move(options)) {
  if (options_.trace.empty()) return;
  trace_ = ::open(options_.trace.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, kTraceMode);
}

CrashPoints::~CrashPoints() {
  if (trace_ >= 0) ::close(trace_);
}

// Straight to the system: what was written outlives the process.
void CrashPoints::Trace(const std::string& line) const {
  if (trace_ < 0) return;
  static_cast<void>(!::write(trace_, line.data(), line.size()));
}

void CrashPoints::Die() const {
  Trace("killed " + std::to_string(options_.operation) + " " + PhaseName(options_.phase) + "\n");
  static_cast<void>(::kill(::getpid(), SIGKILL));
  while (true) ::pause();
}

// Dies with the lock, so that no other thread begins an operation after the chosen one.
DiskVerdict CrashPoints::Before(DiskOperation operation, const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  DiskVerdict verdict{.index = ++operations_};
  Trace(std::to_string(verdict.index) + " " + DiskOperationName(operation) + " " + path + "\n");
  if (verdict.index != options_.operation) return verdict;
  if (options_.phase == Phase::kBefore) Die();
  verdict.half = operation == DiskOperation::kWrite && options_.phase == Phase::kHalf;
  return verdict;
}

void CrashPoints::After(const DiskVerdict& verdict) {
  if (verdict.index != options_.operation) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  Die();
}

Result<std::unique_ptr<WritableFile>> CrashPoints::Create(const std::string& path) {
  return Wrapped<File>(Around(DiskOperation::kCreate, path, [&] { return base().Create(path); }),
                       *this, path);
}

Result<std::unique_ptr<WritableFile>> CrashPoints::OpenForAppend(const std::string& path) {
  return Wrapped<File>(
      Around(DiskOperation::kOpenForAppend, path, [&] { return base().OpenForAppend(path); }),
      *this, path);
}

Result<std::unique_ptr<WritableFile>> CrashPoints::Overwrite(const std::string& path) {
  return Wrapped<File>(
      Around(DiskOperation::kOverwrite, path, [&] { return base().Overwrite(path); }), *this, path);
}

Status CrashPoints::Rename(const std::string& from, const std::string& to) {
  return Around(DiskOperation::kRename, from, [&] { return base().Rename(from, to); });
}

Status CrashPoints::Remove(const std::string& path) {
  return Around(DiskOperation::kRemove, path, [&] { return base().Remove(path); });
}

Status CrashPoints::CreateDirectories(const std::string& path) {
  if (base().Exists(path)) return base().CreateDirectories(path);
  return Around(DiskOperation::kCreateDirectories, path,
                [&] { return base().CreateDirectories(path); });
}

Status CrashPoints::SyncDirectory(const std::string& path) {
  return Around(DiskOperation::kSyncDirectory, path, [&] { return base().SyncDirectory(path); });
}

Result<std::unique_ptr<FileLock>> CrashPoints::Lock(const std::string& path) {
  return Around(DiskOperation::kLock, path, [&] { return base().Lock(path); });
}

}  // namespace fedmoe
