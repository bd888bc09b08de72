#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <limits>
#include <optional>
#include <system_error>
#include <utility>

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/file_system.h"
#include "common/mapped_pages.h"

namespace fedmoe {
namespace {

constexpr off_t kPageBytes = 4096;
constexpr off_t kStartSyncBytes = off_t{2} << 20;
constexpr std::size_t kReadAtOnceBytes = std::size_t{8} << 20;  // of a mapping
constexpr mode_t kFileMode = 0644;
constexpr mode_t kDirectoryMode = 0755;

StatusCode CodeOfErrno(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return StatusCode::kResourceExhausted;
    case ENOENT:
      return StatusCode::kNotFound;
    case EEXIST:
      return StatusCode::kAlreadyExists;
    case EACCES:
    case EPERM:
    case EROFS:
      return StatusCode::kPermissionDenied;
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
    case ENAMETOOLONG:
      return StatusCode::kInvalidArgument;
    default:
      return StatusCode::kInternal;
  }
}

Status Failure(std::string_view operation, const std::string& path, int error) {
  return Status(CodeOfErrno(error), std::string(operation) + " " + path + ": " +
                                        std::generic_category().message(error));
}

// Repeats a system call that a signal interrupted.
template <typename Call>
auto Retry(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Owns a file descriptor; closes it on destruction.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(Descriptor&& other) noexcept : number_(other.Release()) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const { return number_; }
  int Release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

template <typename Base, typename Derived, typename... Arguments>
Result<std::unique_ptr<Base>> MakeAs(Arguments&&... arguments) {
  return std::unique_ptr<Base>(std::make_unique<Derived>(std::forward<Arguments>(arguments)...));
}

Result<Descriptor> OpenDescriptor(std::string_view operation, const std::string& path, int flags) {
  const int number = Retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC, kFileMode); });
  if (number < 0) return Failure(operation, path, errno);
  return Descriptor(number);
}

Status WriteAll(std::string_view operation, const std::string& path, int descriptor,
                std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = Retry([&] { return ::write(descriptor, bytes.data(), bytes.size()); });
    if (written < 0) return Failure(operation, path, errno);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return Status::Ok();
}

class PosixWritableFile final : public WritableFile {
 public:
  PosixWritableFile(std::string path, Descriptor descriptor)
      : path_(std::move(path)), descriptor_(std::move(descriptor)) {}

  Status Append(std::span<const std::byte> bytes) override {
    return WriteAll("write", path_, descriptor_.get(), bytes);
  }

  // A failed sync stays failed: the kernel may have dropped the dirty pages, and a second fdatasync
  // would then claim success.
  Status Sync() override {
    if (!sync_status_.ok()) return sync_status_;
    if (Retry([&] { return ::fdatasync(descriptor_.get()); }) < 0) {
      sync_status_ = Failure("sync", path_, errno);
    }
    return sync_status_;
  }

  // The result is Sync()'s to tell: what fails here fails there.
  void StartSync() override {
    const off_t end = ::lseek(descriptor_.get(), 0, SEEK_CUR) & ~off_t{kPageBytes - 1};
    if (end - started_ < kStartSyncBytes) return;
    static_cast<void>(
        ::sync_file_range(descriptor_.get(), started_, end - started_, SYNC_FILE_RANGE_WRITE));
    started_ = end;
  }

  Status Trim() override {
    struct stat information {};
    const off_t end = ::lseek(descriptor_.get(), 0, SEEK_CUR);
    if (::fstat(descriptor_.get(), &information) < 0) return Failure("size", path_, errno);
    if (information.st_size <= end) return Status::Ok();
    if (Retry([&] { return ::ftruncate(descriptor_.get(), end); }) == 0) return Status::Ok();
    return Failure("truncate", path_, errno);
  }

  // Not repeated on EINTR: Linux has released the descriptor by then. A second Close is OK.
  Status Close() override {
    const int number = descriptor_.Release();
    if (number >= 0 && ::close(number) < 0 && errno != EINTR) {
      return Failure("close", path_, errno);
    }
    return Status::Ok();
  }

 private:
  std::string path_;
  Descriptor descriptor_;
  Status sync_status_;
  off_t started_ = 0;  // the disk has begun with what comes before
};

class PosixMappedRegion final : public MappedRegion {
 public:
  // Takes over the mapping [base, base + mapped_length); the region that was asked for starts
  // `skip` bytes into it.
  PosixMappedRegion(void* base, std::size_t mapped_length, std::size_t skip)
      : base_(base), mapped_length_(mapped_length), skip_(skip) {}
  ~PosixMappedRegion() override {
    if (mapped_length_ > 0) ::munmap(base_, mapped_length_);
  }
  PosixMappedRegion(const PosixMappedRegion&) = delete;
  PosixMappedRegion& operator=(const PosixMappedRegion&) = delete;

  std::span<const std::byte> bytes() const override {
    return std::span(static_cast<const std::byte*>(base_), mapped_length_).subspan(skip_);
  }

 private:
  void* base_;
  std::size_t mapped_length_;
  std::size_t skip_;
};

class PosixRandomAccessFile final : public RandomAccessFile {
 public:
  PosixRandomAccessFile(std::string path, Descriptor descriptor)
      : path_(std::move(path)), descriptor_(std::move(descriptor)) {}

  Result<std::uint64_t> Size() const override {
    struct stat information {};
    if (::fstat(descriptor_.get(), &information) < 0) return Failure("size", path_, errno);
    return static_cast<std::uint64_t>(information.st_size);
  }

  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    const std::uint64_t begin = offset;
    const std::size_t length = out.size();
    // An offset that pread could not take.
    if (offset > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()) - length) {
      return CheckRange("read", begin, length);
    }
    while (!out.empty()) {
      const ssize_t count = Retry([&] {
        return ::pread(descriptor_.get(), out.data(), out.size(), static_cast<off_t>(offset));
      });
      if (count < 0) return Failure("read", path_, errno);
      if (count == 0) {
        FEDMOE_RETURN_IF_ERROR(CheckRange("read", begin, length));
        return OutOfRange("read " + path_ + ": the file ends before the range");
      }
      out = out.subspan(static_cast<std::size_t>(count));
      offset += static_cast<std::uint64_t>(count);
    }
    return Status::Ok();
  }

  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_RETURN_IF_ERROR(CheckRange("map", offset, length));
    // mmap refuses a mapping of no bytes.
    if (length == 0) return MakeAs<MappedRegion, PosixMappedRegion>(nullptr, 0, 0);
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    const std::uint64_t skip = offset % page;
    const std::size_t mapped_length = skip + length;
    void* base = ::mmap(nullptr, mapped_length, PROT_READ, MAP_SHARED, descriptor_.get(),
                        static_cast<off_t>(offset - skip));
    if (base == MAP_FAILED) return Failure("map", path_, errno);
    auto region = MakeAs<MappedRegion, PosixMappedRegion>(base, mapped_length, skip);
    if (mapped_length <= kReadAtOnceBytes) {
      FEDMOE_RETURN_IF_ERROR(ReadPages(path_, base, mapped_length));
    }
    return region;
  }

 private:
  Status CheckRange(std::string_view operation, std::uint64_t offset, std::uint64_t length) const {
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, Size());
    if (offset <= size && length <= size - offset) return Status::Ok();
    return OutOfRange(std::string(operation) + " " + path_ + ": " + std::to_string(length) +
                      " bytes at offset " + std::to_string(offset) + " end past the file's " +
                      std::to_string(size) + " bytes");
  }

  std::string path_;
  Descriptor descriptor_;
};

class PosixFileLock final : public FileLock {
 public:
  explicit PosixFileLock(Descriptor descriptor) : descriptor_(std::move(descriptor)) {}

 private:
  // flock's lock belongs to the open file description and ends with it. The file itself stays:
  // removing it would let a third process lock a new file of the same name beside one that waits on
  // the old.
  Descriptor descriptor_;
};

// The process id that the holder of the lock wrote, or nothing while it has not yet.
std::optional<std::uint64_t> ReadHolder(int descriptor) {
  std::array<char, 20> text{};
  const ssize_t count = Retry([&] { return ::pread(descriptor, text.data(), text.size(), 0); });
  if (count <= 0) return std::nullopt;
  std::uint64_t holder = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + count, holder);
  if (parsed.ec != std::errc()) return std::nullopt;
  return holder;
}

bool IsDirectory(const std::string& path) {
  struct stat information {};
  return ::stat(path.c_str(), &information) == 0 && S_ISDIR(information.st_mode);
}

class PosixFileSystemImpl final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(Descriptor descriptor,
                            OpenDescriptor("create", path, O_WRONLY | O_CREAT | O_TRUNC));
    return MakeAs<WritableFile, PosixWritableFile>(path, std::move(descriptor));
  }

  Result<std::unique_ptr<WritableFile>> OpenForAppend(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(Descriptor descriptor,
                            OpenDescriptor("append", path, O_WRONLY | O_CREAT | O_APPEND));
    return MakeAs<WritableFile, PosixWritableFile>(path, std::move(descriptor));
  }

  Result<std::unique_ptr<WritableFile>> Overwrite(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(Descriptor descriptor, OpenDescriptor("overwrite", path, O_WRONLY));
    return MakeAs<WritableFile, PosixWritableFile>(path, std::move(descriptor));
  }

  std::optional<std::uint64_t> FreeBytes(const std::string& directory) override {
    struct statvfs information {};
    if (::statvfs(directory.c_str(), &information) < 0) return std::nullopt;
    return std::uint64_t{information.f_bavail} * information.f_frsize;
  }

  Result<std::unique_ptr<RandomAccessFile>> Open(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(Descriptor descriptor, OpenDescriptor("open", path, O_RDONLY));
    // Linux opens a directory for reading and only then fails; say it here, where the path is
    // chosen.
    if (IsDirectory(path)) return Failure("open", path, EISDIR);
    return MakeAs<RandomAccessFile, PosixRandomAccessFile>(path, std::move(descriptor));
  }

  Status Rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) == 0) return Status::Ok();
    return Failure("rename", from, errno);
  }

  Status Remove(const std::string& path) override {
    if (::unlink(path.c_str()) == 0) return Status::Ok();
    return Failure("remove", path, errno);
  }

  Status CreateDirectories(const std::string& path) override {
    if (IsDirectory(path)) return Status::Ok();
    for (std::size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
      FEDMOE_RETURN_IF_ERROR(CreateDirectory(path.substr(0, end)));
      if (end == std::string::npos) return Status::Ok();
    }
  }

  Status SyncDirectory(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(const Descriptor descriptor,
                            OpenDescriptor("sync directory", path, O_RDONLY | O_DIRECTORY));
    if (Retry([&] { return ::fsync(descriptor.get()); }) == 0) return Status::Ok();
    return Failure("sync directory", path, errno);
  }

  Result<std::vector<std::string>> List(const std::string& path) override {
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) return Failure("list", path, errno);
    std::vector<std::string> names;
    errno = 0;
    while (const dirent* entry = ::readdir(directory)) {
      const std::string_view name = entry->d_name;
      if (name != "." && name != "..") names.emplace_back(name);
      errno = 0;
    }
    const int error = errno;
    ::closedir(directory);
    if (error != 0) return Failure("list", path, error);
    std::sort(names.begin(), names.end());
    return names;
  }

  bool Exists(const std::string& path) override { return ::access(path.c_str(), F_OK) == 0; }

  Result<std::uint64_t> FileSize(const std::string& path) override {
    struct stat information {};
    if (::stat(path.c_str(), &information) < 0) return Failure("size", path, errno);
    return static_cast<std::uint64_t>(information.st_size);
  }

  Result<std::unique_ptr<FileLock>> Lock(const std::string& path) override {
    FEDMOE_ASSIGN_OR_RETURN(Descriptor descriptor, OpenDescriptor("lock", path, O_RDWR | O_CREAT));
    if (Retry([&] { return ::flock(descriptor.get(), LOCK_EX | LOCK_NB); }) < 0) {
      if (errno != EWOULDBLOCK) return Failure("lock", path, errno);
      const std::optional<std::uint64_t> holder = ReadHolder(descriptor.get());
      return FailedPrecondition(
          "lock " + path + ": held by " +
          (holder ? "process " + std::to_string(*holder) : std::string("another process")));
    }
    if (::ftruncate(descriptor.get(), 0) < 0) return Failure("lock", path, errno);
    const std::string text = std::to_string(::getpid()) + "\n";
    FEDMOE_RETURN_IF_ERROR(WriteAll("lock", path, descriptor.get(), AsBytes(text)));
    return MakeAs<FileLock, PosixFileLock>(std::move(descriptor));
  }

 private:
  // One level; a directory that it makes is synced into its parent.
  Status CreateDirectory(const std::string& path) {
    if (::mkdir(path.c_str(), kDirectoryMode) < 0) {
      const int error = errno;
      // EEXIST, but also EACCES or EROFS above a directory that is there.
      if (IsDirectory(path)) return Status::Ok();
      return Failure("create directory", path, error);
    }
    const std::size_t slash = path.find_last_of('/');
    if (slash == std::string::npos) return SyncDirectory(".");
    return SyncDirectory(slash == 0 ? "/" : path.substr(0, slash));
  }
};

}  // namespace

FileSystem& PosixFileSystem() {
  static PosixFileSystemImpl instance;
  return instance;
}

}  // namespace fedmoe
