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

// Small updates that are merged soon need not be read again.
constexpr std::uint64_t kRecentBytes = std::uint64_t{4} << 20;
constexpr std::string_view kKeptSuffix = ".update";
constexpr std::string_view kTemporarySuffix = ".tmp";

std::string PaddedNumber(TaskId task) {
  const std::string digits = std::to_string(task);
  return digits.size() < 4 ? std::string(4 - digits.size(), '0') + digits : digits;
}

std::string KeptName(TaskId task) { return PaddedNumber(task) + std::string(kKeptSuffix); }

// The task of a kept update's file name; nullopt for any other name.
std::optional<TaskId> TaskOf(const std::string& name) {
  if (!std::string_view(name).ends_with(kKeptSuffix)) return std::nullopt;
  const char* end = name.data() + name.size() - kKeptSuffix.size();
  TaskId task = 0;
  const auto parsed = std::from_chars(name.data(), end, task);
  if (parsed.ec != std::errc() || parsed.ptr != end || KeptName(task) != name) return std::nullopt;
  return task;
}

class SpooledUpdate final : public IncomingUpdate {
 public:
  SpooledUpdate(FileSystem& files, std::shared_ptr<FileSystem> owner, std::string directory,
                TaskId task, std::uint64_t announced_bytes, std::string temporary,
                SpareFiles& spares, SegmentLog& segments, bool small)
      : owner_(std::move(owner)),
        files_(files),
        directory_(std::move(directory)),
        task_(task),
        announced_bytes_(announced_bytes),
        temporary_(std::move(temporary)),
        spares_(spares),
        segments_(segments),
        small_(small) {}

  ~SpooledUpdate() override {
    if (file_ == nullptr) return;
    file_.reset();
    // Best effort: Open() removes what stays.
    if (!kept_ || place_) static_cast<void>(files_.Remove(temporary_));
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
    GiveBackIfFull(status_);
    if (!small_) file_->StartSync();  // while the rest comes in
    return status_;
  }

  std::uint64_t size() const override { return size_; }

  Result<std::unique_ptr<RandomAccessFile>> Read() override {
    FEDMOE_RETURN_IF_ERROR(Create());
    FEDMOE_RETURN_IF_ERROR(file_->Trim());
    FEDMOE_ASSIGN_OR_RETURN(auto file, files_.Open(kept_ && !place_ ? KeptPath() : temporary_));
    return BufferIfSmall(std::move(file));
  }

  Status Keep() override {
    const Status kept = KeepOnce();
    GiveBackIfFull(kept);
    return kept;
  }

  Status Sync() override {
    const Status synced = SyncOnce();
    GiveBackIfFull(synced);
    return synced;
  }

  bool HasFile() const override { return !place_; }

 private:
  Status KeepOnce() {
    FEDMOE_RETURN_IF_ERROR(Create());
    if (kept_) return Status::Ok();
    if (small_) {
      FEDMOE_ASSIGN_OR_RETURN(const auto file, files_.Open(temporary_));
      FEDMOE_ASSIGN_OR_RETURN(const auto region, file->Map(0, size_));
      FEDMOE_ASSIGN_OR_RETURN(place_, segments_.Append(task_, region->bytes()));
    } else {
      FEDMOE_RETURN_IF_ERROR(file_->Trim());
      FEDMOE_RETURN_IF_ERROR(files_.Rename(temporary_, KeptPath()));
      // A small one that was never counted does not stand before it, here or after a restart.
      if (segments_.Has(task_)) {
        FEDMOE_ASSIGN_OR_RETURN(void_, segments_.Append(task_, {}));
      }
    }
    kept_ = true;
    return Status::Ok();
  }

  Status SyncOnce() {
    if (place_) return segments_.Sync(*place_);
    FEDMOE_RETURN_IF_ERROR(Create());
    FEDMOE_RETURN_IF_ERROR(file_->Sync());
    return void_ ? segments_.Sync(*void_) : Status::Ok();
  }

  // The next one then has room.
  void GiveBackIfFull(const Status& status) {
    if (status.code() != StatusCode::kResourceExhausted) return;
    static_cast<void>(spares_.Clear());
    static_cast<void>(segments_.RemoveSpares());
  }

  // With the first use, so that Begin() needs no disk.
  Status Create() {
    if (file_ == nullptr && status_.ok()) {
      Result<std::unique_ptr<WritableFile>> file =
          small_ ? files_.Create(temporary_) : spares_.Create(temporary_, announced_bytes_);
      status_ = file.status();
      GiveBackIfFull(status_);
      if (file.ok()) file_ = std::move(file).value();
    }
    return status_;
  }
  std::string Name() const { return "update of task " + std::to_string(task_); }
  std::string KeptPath() const { return JoinPath(directory_, KeptName(task_)); }

  const std::shared_ptr<FileSystem> owner_;  // of files_, if it must be held on to
  FileSystem& files_;
  std::string directory_;
  TaskId task_;
  std::uint64_t announced_bytes_;
  std::string temporary_;
  SpareFiles& spares_;
  SegmentLog& segments_;
  const bool small_;                   // else it gets a file of its own
  std::optional<SegmentPlace> place_;  // where it was kept in the segments
  std::optional<SegmentPlace> void_;   // of the empty record that sends readers to the file
  std::unique_ptr<WritableFile> file_;
  std::uint64_t size_ = 0;
  Status status_;
  bool kept_ = false;
};

}  // namespace

Result<std::unique_ptr<Spool>> Spool::Open(FileSystem& files, const std::string& directory,
                                           const SpoolOptions& options) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory));
  FEDMOE_RETURN_IF_ERROR(RemoveUnfinished(files, directory));
  std::unique_ptr<Spool> spool(new Spool(files, directory, options));
  FEDMOE_ASSIGN_OR_RETURN(
      spool->segments_,
      SegmentLog::Open(files, directory,
                       {.recent_bytes = kRecentBytes, .segment_bytes = options.segment_bytes}));
  return spool;
}

Status Spool::RemoveUnfinished(FileSystem& files, const std::string& directory) {
  if (!files.Exists(directory)) return Status::Ok();
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(directory));
  for (const std::string& name : names) {
    const bool unfinished = std::string_view(name).ends_with(kTemporarySuffix);
    if (!unfinished && !IsSpareSegment(name)) continue;
    FEDMOE_RETURN_IF_ERROR(files.Remove(JoinPath(directory, name)));
  }
  return Status::Ok();
}

std::unique_ptr<IncomingUpdate> Spool::Begin(TaskId task, std::uint64_t announced_bytes) {
  // Unique among the streams of this process and, by its id, of any other on the same directory.
  static std::atomic<std::uint64_t> counter = 0;
  const std::string temporary =
      JoinPath(directory_, PaddedNumber(task) + "." + std::to_string(::getpid()) + "-" +
                               std::to_string(++counter) + std::string(kTemporarySuffix));
  const bool small = announced_bytes <= segment_update_bytes_;
  // One that is to be a file is one from the beginning: many at once would fill the memory.
  return std::make_unique<SpooledUpdate>(small ? files_ : disk_, incoming_, directory_, task,
                                         announced_bytes, temporary, spares_, *segments_, small);
}

Result<std::unique_ptr<RandomAccessFile>> Spool::Read(TaskId task) const {
  if (segments_->Has(task)) {
    FEDMOE_ASSIGN_OR_RETURN(auto record, segments_->Read(task));
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t bytes, record->Size());
    if (bytes > 0) return record;  // else it is in a file
  }
  FEDMOE_ASSIGN_OR_RETURN(auto file, files_.Open(JoinPath(directory_, KeptName(task))));
  return BufferIfSmall(std::move(file));
}

bool Spool::Has(TaskId task) const {
  return segments_->Has(task) || files_.Exists(JoinPath(directory_, KeptName(task)));
}

Status Spool::SyncNames() { return files_.SyncDirectory(directory_); }

Status Spool::RemoveExcept(const std::set<TaskId>& keep, TaskId end, Reuse reuse) {
  FEDMOE_RETURN_IF_ERROR(segments_->RemoveExcept(keep, end, reuse));
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.List(directory_));
  for (const std::string& name : names) {
    const std::optional<TaskId> task = TaskOf(name);
    if (!task || *task >= end || keep.contains(*task)) continue;
    const std::string path = JoinPath(directory_, name);
    FEDMOE_RETURN_IF_ERROR(reuse == Reuse::kYes ? spares_.Retire(path) : files_.Remove(path));
  }
  return Status::Ok();
}

void Spool::GiveBack() {
  static_cast<void>(spares_.Clear());
  static_cast<void>(segments_->RemoveSpares());
}

Status Spool::Seal() {
  const Status cleared = spares_.Clear();
  const Status sealed = segments_->Seal();
  return cleared.ok() ? sealed : cleared;
}

}  // namespace fedmoe
