#include "storage/spool.h"

#include <atomic>
#include <charconv>
#include <optional>
#include <string_view>
#include <utility>

#include <unistd.h>

#include "storage/small_file.h"

namespace fedmoe {
namespace {

constexpr std::string_view kKeptSuffix = ".update";
constexpr std::string_view kTemporarySuffix = ".tmp";

std::string PaddedNumber(TaskId task) {
  const std::string digits = std::to_string(task);
  return digits.size() < 4 ? std::string(4 - digits.size(), '0') + digits : digits;
}

// The task of a kept update's file name; nullopt for any other name.
std::optional<TaskId> TaskOf(const std::string& name) {
  if (!std::string_view(name).ends_with(kKeptSuffix)) return std::nullopt;
  const char* end = name.data() + name.size() - kKeptSuffix.size();
  TaskId task = 0;
  const auto parsed = std::from_chars(name.data(), end, task);
  if (parsed.ec != std::errc() || parsed.ptr != end || KeptUpdateName(task) != name) return std::nullopt;
  return task;
}

class SpooledUpdate final : public IncomingUpdate {
 public:
  SpooledUpdate(FileSystem& files, std::string directory, TaskId task,
                std::uint64_t announced_bytes, std::string temporary)
      : files_(files),
        directory_(std::move(directory)),
        task_(task),
        announced_bytes_(announced_bytes),
        temporary_(std::move(temporary)) {}

  ~SpooledUpdate() override {
    if (file_ == nullptr) return;
    file_.reset();
    // Best effort: Open() removes what stays.
    if (!kept_) static_cast<void>(files_.Remove(temporary_));
  }

  Status Append(std::span<const std::byte> bytes) override {
    FEDMOE_RETURN_IF_ERROR(Create());
    if (kept_) return FailedPrecondition(Name() + " is kept already");
    if (bytes.size() > announced_bytes_ - size_) {
      return ResourceExhausted(Name() + " has " + std::to_string(size_ + bytes.size()) +
                               " bytes, over the " + std::to_string(announced_bytes_) +
                               " announced");
    }
    // After a failed write the file's end is undefined, so nothing may follow.
    status_ = file_->Append(bytes);
    if (status_.ok()) size_ += bytes.size();
    return status_;
  }

  std::uint64_t size() const override { return size_; }

  Result<std::unique_ptr<RandomAccessFile>> Read() override {
    FEDMOE_RETURN_IF_ERROR(Create());
    FEDMOE_ASSIGN_OR_RETURN(auto file, files_.Open(kept_ ? KeptPath() : temporary_));
    return BufferIfSmall(std::move(file));
  }

  Status Keep() override {
    FEDMOE_RETURN_IF_ERROR(Create());
    if (kept_) return Status::Ok();
    FEDMOE_RETURN_IF_ERROR(files_.Rename(temporary_, KeptPath()));
    kept_ = true;
    return Status::Ok();
  }

  Status Sync() override {
    FEDMOE_RETURN_IF_ERROR(Create());
    return file_->Sync();
  }

 private:
  // With the first use, so that Begin() needs no disk.
  Status Create() {
    if (file_ == nullptr && status_.ok()) {
      Result<std::unique_ptr<WritableFile>> file = files_.Create(temporary_);
      status_ = file.status();
      if (file.ok()) file_ = std::move(file).value();
    }
    return status_;
  }
  std::string Name() const { return "update of task " + std::to_string(task_); }
  std::string KeptPath() const { return JoinPath(directory_, KeptUpdateName(task_)); }

  FileSystem& files_;
  std::string directory_;
  TaskId task_;
  std::uint64_t announced_bytes_;
  std::string temporary_;
  std::unique_ptr<WritableFile> file_;
  std::uint64_t size_ = 0;
  Status status_;
  bool kept_ = false;
};

}  // namespace

std::string KeptUpdateName(TaskId task) { return PaddedNumber(task) + std::string(kKeptSuffix); }

Result<std::unique_ptr<Spool>> Spool::Open(FileSystem& files, const std::string& directory) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory));
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    if (!std::string_view(name).ends_with(kTemporarySuffix)) continue;
    FEDMOE_RETURN_IF_ERROR(files.Remove(JoinPath(directory, name)));
  }
  return std::unique_ptr<Spool>(new Spool(files, directory));
}

std::unique_ptr<IncomingUpdate> Spool::Begin(TaskId task, std::uint64_t announced_bytes) {
  // Unique among the streams of this process and, by its id, of any other on the same directory.
  static std::atomic<std::uint64_t> counter = 0;
  const std::string temporary =
      JoinPath(directory_, PaddedNumber(task) + "." + std::to_string(::getpid()) + "-" +
                               std::to_string(++counter) + std::string(kTemporarySuffix));
  return std::make_unique<SpooledUpdate>(files_, directory_, task, announced_bytes, temporary);
}

Result<std::unique_ptr<RandomAccessFile>> Spool::Read(TaskId task) const {
  FEDMOE_ASSIGN_OR_RETURN(auto file, files_.Open(JoinPath(directory_, KeptUpdateName(task))));
  return BufferIfSmall(std::move(file));
}

bool Spool::Has(TaskId task) const { return files_.Exists(JoinPath(directory_, KeptUpdateName(task))); }

Status Spool::SyncNames() { return files_.SyncDirectory(directory_); }

Status Spool::RemoveExcept(const std::set<TaskId>& keep, TaskId end) {
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(directory_));
  for (const std::string& name : names) {
    const std::optional<TaskId> task = TaskOf(name);
    if (!task || *task >= end || keep.contains(*task)) continue;
    FEDMOE_RETURN_IF_ERROR(files_.Remove(JoinPath(directory_, name)));
  }
  return Status::Ok();
}

}  // namespace fedmoe
