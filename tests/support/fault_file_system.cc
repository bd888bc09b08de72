#include "tests/support/fault_file_system.h"

#include <limits>
#include <utility>

namespace fedmoe {

class FaultFileSystem::FaultWritableFile final : public WritableFile {
 public:
  FaultWritableFile(std::unique_ptr<WritableFile> base, FaultFileSystem& owner, std::string path)
      : owner_(owner), base_(std::move(base)), path_(std::move(path)) {}

  Status Append(std::span<const std::byte> bytes) override {
    const Decision decision = owner_.Count(Operation::kAppend, "write", path_);
    if (decision.status.ok()) return base_->Append(bytes);
    if (decision.fault == Fault::kShortWrite || decision.fault == Fault::kWorst) {
      FEDMOE_RETURN_IF_ERROR(base_->Append(bytes.first(bytes.size() / 2)));
    }
    return decision.status;
  }

  Status Sync() override {
    FEDMOE_RETURN_IF_ERROR(owner_.Count(Operation::kSync, "sync", path_).status);
    return base_->Sync();
  }

  Status Trim() override {
    FEDMOE_RETURN_IF_ERROR(owner_.Count(Operation::kOther, "truncate", path_).status);
    return base_->Trim();
  }

  // The descriptor is released whether or not the close reports an error, as the system does.
  Status Close() override {
    const Decision decision = owner_.Count(Operation::kOther, "close", path_);
    const Status closed = base_->Close();
    return decision.status.ok() ? closed : decision.status;
  }

 private:
  FaultFileSystem& owner_;
  std::unique_ptr<WritableFile> base_;
  std::string path_;
};

class FaultFileSystem::FaultReadFile final : public RandomAccessFile {
 public:
  FaultReadFile(std::unique_ptr<RandomAccessFile> base, FaultFileSystem& owner, std::string path)
      : owner_(owner), base_(std::move(base)), path_(std::move(path)) {}

  Result<std::uint64_t> Size() const override { return base_->Size(); }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_RETURN_IF_ERROR(owner_.CountRead("read", path_));
    return base_->ReadAt(offset, out);
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_RETURN_IF_ERROR(owner_.CountRead("map", path_));
    return base_->Map(offset, length);
  }

 private:
  FaultFileSystem& owner_;
  const std::unique_ptr<RandomAccessFile> base_;
  const std::string path_;
};

bool FaultFileSystem::Hits(Fault fault, Operation operation) {
  switch (fault) {
    case Fault::kNoSpace:
      return operation != Operation::kRemove;
    case Fault::kIoError:
    case Fault::kWorst:
      return true;
    case Fault::kShortWrite:
      return operation == Operation::kAppend;
    case Fault::kSyncFails:
      return operation == Operation::kSync;
    case Fault::kTornRename:
      return operation == Operation::kRename;
  }
  return false;
}

FaultFileSystem::Decision FaultFileSystem::Count(Operation operation, const std::string& name,
                                                 const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const std::int64_t index = operations_++;
  if (index < first_ || index >= last_ || !Hits(fault_, operation)) return {fault_, Status::Ok()};
  ++faults_;
  const std::string subject = name + " " + path + ": ";
  if (fault_ == Fault::kNoSpace || fault_ == Fault::kShortWrite ||
      (fault_ == Fault::kWorst && operation == Operation::kAppend)) {
    return {fault_, ResourceExhausted(subject + "No space left on device")};
  }
  return {fault_, Internal(subject + "Input/output error")};
}

Status FaultFileSystem::CountRead(const std::string& name, const std::string& path) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (reads_++ != failed_read_) return Status::Ok();
  ++faults_;
  return Internal(name + " " + path + ": Input/output error");
}

DiskVerdict FaultFileSystem::Before(DiskOperation operation, const std::string& path) {
  Operation kind = Operation::kOther;
  if (operation == DiskOperation::kWrite) kind = Operation::kAppend;
  if (operation == DiskOperation::kSync) kind = Operation::kSync;
  if (operation == DiskOperation::kRemove) kind = Operation::kRemove;
  const Decision decision = Count(kind, DiskOperationName(operation), path);
  const bool half = kind == Operation::kAppend && !decision.status.ok() &&
                    (decision.fault == Fault::kShortWrite || decision.fault == Fault::kWorst);
  // No test of SQLite's files cuts the power, and thousands of syncs take minutes.
  return {.half = half, .skip = kind == Operation::kSync, .error = decision.status};
}

void FaultFileSystem::FailAt(std::int64_t index, Fault fault) {
  const std::lock_guard<std::mutex> lock(mutex_);
  first_ = index;
  last_ = index + 1;
  fault_ = fault;
}

void FaultFileSystem::FailFrom(std::int64_t index, Fault fault) {
  const std::lock_guard<std::mutex> lock(mutex_);
  first_ = index;
  last_ = std::numeric_limits<std::int64_t>::max();
  fault_ = fault;
}

void FaultFileSystem::FailReadAt(std::int64_t index) {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_read_ = index;
}

void FaultFileSystem::Clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  failed_read_ = -1;
  first_ = 0;
  last_ = 0;
}

std::int64_t FaultFileSystem::operations() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return operations_;
}

std::int64_t FaultFileSystem::reads() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reads_;
}

std::int64_t FaultFileSystem::faults() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return faults_;
}

Result<std::unique_ptr<WritableFile>> FaultFileSystem::Create(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kOther, "create", path).status);
  return Wrapped<FaultWritableFile>(base().Create(path), *this, path);
}

Result<std::unique_ptr<WritableFile>> FaultFileSystem::OpenForAppend(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kOther, "append", path).status);
  return Wrapped<FaultWritableFile>(base().OpenForAppend(path), *this, path);
}

Result<std::unique_ptr<WritableFile>> FaultFileSystem::Overwrite(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kOther, "overwrite", path).status);
  return Wrapped<FaultWritableFile>(base().Overwrite(path), *this, path);
}

Result<std::unique_ptr<RandomAccessFile>> FaultFileSystem::Open(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(CountRead("open", path));
  FEDMOE_ASSIGN_OR_RETURN(auto file, base().Open(path));
  return std::unique_ptr<RandomAccessFile>(
      std::make_unique<FaultReadFile>(std::move(file), *this, path));
}

Result<std::vector<std::string>> FaultFileSystem::List(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(CountRead("list", path));
  return base().List(path);
}

Status FaultFileSystem::TearRename(const std::string& from, const std::string& to) {
  FEDMOE_ASSIGN_OR_RETURN(const std::string content,
                          ReadFile(base(), from, std::numeric_limits<std::int64_t>::max()));
  FEDMOE_RETURN_IF_ERROR(base().Rename(from, to));
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, base().Create(to));
  return file->Append(AsBytes(std::string_view(content).substr(0, content.size() / 2)));
}

Status FaultFileSystem::Rename(const std::string& from, const std::string& to) {
  const Decision decision = Count(Operation::kRename, "rename", from);
  if (decision.status.ok()) return base().Rename(from, to);
  if (decision.fault == Fault::kTornRename || decision.fault == Fault::kWorst)
    FEDMOE_RETURN_IF_ERROR(TearRename(from, to));
  return decision.status;
}

Status FaultFileSystem::Remove(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kRemove, "remove", path).status);
  return base().Remove(path);
}

Status FaultFileSystem::CreateDirectories(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kOther, "create directory", path).status);
  return base().CreateDirectories(path);
}

Status FaultFileSystem::SyncDirectory(const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(Count(Operation::kSync, "sync directory", path).status);
  return base().SyncDirectory(path);
}

}  // namespace fedmoe
