#include "storage/segment_log.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

#include "common/checksum.h"
#include "storage/small_file.h"
#include "storage/spare_files.h"

namespace fedmoe {
namespace {

constexpr std::string_view kSuffix = ".segment";
constexpr std::string_view kSpareSuffix = ".spare";
// As many as are filled between two times that what is old is forgotten, where rounds are short.
constexpr std::size_t kSpares = 4;

// All numbers little-endian.
constexpr std::size_t kHeaderBytes = 32;
constexpr std::uint32_t kMagic = 0x53474546;  // "FEGS"

struct Header {
  // Of the segment, its lowest bits: tells its records from older ones in the same place.
  std::uint32_t tag = 0;
  SegmentKey key = 0;
  std::uint64_t length = 0;
  std::uint32_t bytes_crc = 0;
};

// N of a file named N + suffix.
std::optional<std::uint64_t> NumberOf(std::string_view name, std::string_view suffix) {
  if (!name.ends_with(suffix)) return std::nullopt;
  const char* const end = name.data() + name.size() - suffix.size();
  std::uint64_t number = 0;
  const auto parsed = std::from_chars(name.data(), end, number);
  return parsed.ec == std::errc() && parsed.ptr == end ? std::optional(number) : std::nullopt;
}

std::uint32_t TagOf(std::uint64_t segment) { return static_cast<std::uint32_t>(segment); }

template <typename T>
void Put(std::byte*& at, T value) {
  std::memcpy(at, &value, sizeof(value));
  at += sizeof(value);
}

template <typename T>
T Take(const std::byte*& at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  at += sizeof(value);
  return value;
}

void WriteHeader(const Header& header, std::span<std::byte> out) {
  std::byte* at = out.data();
  Put<std::uint32_t>(at, kMagic);
  Put<std::uint32_t>(at, header.bytes_crc);
  Put<std::uint64_t>(at, static_cast<std::uint64_t>(header.key));
  Put<std::uint64_t>(at, header.length);
  Put<std::uint32_t>(at, header.tag);
  Put<std::uint32_t>(at, Crc32c(out.first(kHeaderBytes - sizeof(std::uint32_t))));
}

std::optional<Header> ReadHeader(std::span<const std::byte> bytes) {
  const std::byte* at = bytes.data();
  Header header;
  if (Take<std::uint32_t>(at) != kMagic) return std::nullopt;
  header.bytes_crc = Take<std::uint32_t>(at);
  header.key = static_cast<SegmentKey>(Take<std::uint64_t>(at));
  header.length = Take<std::uint64_t>(at);
  header.tag = Take<std::uint32_t>(at);
  const std::uint32_t crc = Crc32c(bytes.first(kHeaderBytes - sizeof(std::uint32_t)));
  return Take<std::uint32_t>(at) == crc ? std::optional(header) : std::nullopt;
}

// Part of a file, as a file.
class Slice final : public RandomAccessFile {
 public:
  Slice(std::unique_ptr<RandomAccessFile> file, std::uint64_t offset, std::uint64_t length)
      : file_(std::move(file)), offset_(offset), length_(length) {}

  Result<std::uint64_t> Size() const override { return length_; }
  Status ReadAt(std::uint64_t offset, std::span<std::byte> out) const override {
    FEDMOE_RETURN_IF_ERROR(Check(offset, out.size()));
    return file_->ReadAt(offset_ + offset, out);
  }
  Result<std::unique_ptr<MappedRegion>> Map(std::uint64_t offset,
                                            std::uint64_t length) const override {
    FEDMOE_RETURN_IF_ERROR(Check(offset, length));
    return file_->Map(offset_ + offset, length);
  }

 private:
  Status Check(std::uint64_t offset, std::uint64_t length) const {
    if (offset <= length_ && length <= length_ - offset) return Status::Ok();
    return OutOfRange(std::to_string(length) + " bytes at offset " + std::to_string(offset) +
                      " end past the record's " + std::to_string(length_) + " bytes");
  }

  const std::unique_ptr<RandomAccessFile> file_;
  const std::uint64_t offset_;
  const std::uint64_t length_;
};

}  // namespace

bool IsSpareSegment(const std::string& name) { return NumberOf(name, kSpareSuffix).has_value(); }

// One that this object writes to. The log's mutex guards what is written, its own what is synced.
struct SegmentLog::Segment {
  std::uint64_t number = 0;
  std::unique_ptr<WritableFile> file;
  std::uint64_t size = 0;
  bool damaged = false;  // an append failed

  std::mutex mutex;
  std::condition_variable synced_changed;
  std::uint64_t written = 0;
  std::uint64_t synced = 0;
  bool syncing = false;
  Status failed;  // a sync that failed: what came after it may not be trusted either
};

SegmentLog::SegmentLog(FileSystem& files, std::string directory, const SegmentLogOptions& options)
    : files_(files), directory_(std::move(directory)), options_(options) {}

SegmentLog::~SegmentLog() = default;

std::string SegmentLog::PathOf(std::uint64_t segment) const {
  return JoinPath(directory_, std::to_string(segment) + std::string(kSuffix));
}

std::string SegmentLog::SparePathOf(std::uint64_t segment) const {
  return JoinPath(directory_, std::to_string(segment) + std::string(kSpareSuffix));
}

Result<std::unique_ptr<SegmentLog>> SegmentLog::Open(FileSystem& files, std::string directory,
                                                     const SegmentLogOptions& options) {
  std::unique_ptr<SegmentLog> log(new SegmentLog(files, std::move(directory), options));
  FEDMOE_ASSIGN_OR_RETURN(const std::vector<std::string> names, files.List(log->directory_));
  for (const std::string& name : names) {
    if (IsSpareSegment(name)) {
      FEDMOE_RETURN_IF_ERROR(files.Remove(JoinPath(log->directory_, name)));
    }
    if (const auto number = NumberOf(name, kSuffix)) log->segments_.insert(*number);
  }
  for (const std::uint64_t segment : log->segments_) {
    FEDMOE_RETURN_IF_ERROR(log->ReadSegment(segment));
    log->next_segment_ = segment + 1;
  }
  return log;
}

Status SegmentLog::ReadSegment(std::uint64_t segment) {
  FEDMOE_ASSIGN_OR_RETURN(const auto file, files_.Open(PathOf(segment)));
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file->Size());
  std::array<std::byte, kHeaderBytes> start;
  std::vector<std::byte> bytes;
  for (std::uint64_t at = 0; size - at >= kHeaderBytes;) {
    FEDMOE_RETURN_IF_ERROR(file->ReadAt(at, start));
    const std::optional<Header> header = ReadHeader(start);
    at += kHeaderBytes;
    if (!header || header->tag != TagOf(segment) || header->length > size - at) break;
    // Not mapped: a bad sector is then an error that names the file.
    bytes.resize(static_cast<std::size_t>(header->length));
    FEDMOE_RETURN_IF_ERROR(file->ReadAt(at, bytes));
    if (Crc32c(bytes) == header->bytes_crc) {
      records_[header->key] = {.segment = segment, .offset = at, .length = header->length};
    }
    at += header->length;
  }
  return Status::Ok();
}

Result<std::shared_ptr<SegmentLog::Segment>> SegmentLog::Current() {
  if (current_ != nullptr && current_->size < options_.segment_bytes) {
    const std::lock_guard lock(current_->mutex);
    if (current_->failed.ok()) return current_;
  }
  // Whoever syncs a record of the next one has what came before it, too.
  const std::shared_ptr<Segment> last = std::exchange(current_, nullptr);
  if (last != nullptr && last->size >= options_.segment_bytes) {
    FEDMOE_RETURN_IF_ERROR(SyncSegment(*last, last->size));
  }
  auto segment = std::make_shared<Segment>();
  segment->number = next_segment_;
  FEDMOE_ASSIGN_OR_RETURN(segment->file, MakeFile(segment->number));
  ++next_segment_;
  segments_.insert(segment->number);
  // Once for all of its records.
  FEDMOE_RETURN_IF_ERROR(files_.SyncDirectory(directory_));
  open_[segment->number] = segment;
  current_ = segment;
  return segment;
}

Result<std::unique_ptr<WritableFile>> SegmentLog::MakeFile(std::uint64_t segment) {
  const std::string path = PathOf(segment);
  if (spares_.empty()) return files_.Create(path);
  const std::uint64_t spare = *spares_.begin();
  spares_.erase(spares_.begin());
  // One that is not to be had is done without.
  if (!files_.Rename(SparePathOf(spare), path).ok()) {
    static_cast<void>(files_.Remove(SparePathOf(spare)));
    return files_.Create(path);
  }
  return files_.Overwrite(path);
}

Result<SegmentPlace> SegmentLog::Append(SegmentKey key,
                                        std::initializer_list<std::span<const std::byte>> pieces) {
  std::uint64_t length = 0;
  std::uint32_t bytes_crc = 0;
  for (const std::span<const std::byte> piece : pieces) {
    length += piece.size();
    bytes_crc = Crc32c(piece, bytes_crc);
  }
  const auto bytes = std::make_shared<std::vector<std::byte>>();
  std::vector<std::byte>& record = *bytes;
  record.reserve(kHeaderBytes + length);
  record.resize(kHeaderBytes);
  for (const std::span<const std::byte> piece : pieces) {
    record.insert(record.end(), piece.begin(), piece.end());
  }
  const auto write = [&]() -> Result<SegmentPlace> {
    const std::lock_guard lock(mutex_);
    FEDMOE_ASSIGN_OR_RETURN(const SegmentPlace place, Write(key, bytes_crc, record));
    Remember(key, bytes);
    return place;
  };
  Result<SegmentPlace> place = write();
  if (place.status().code() != StatusCode::kResourceExhausted) return place;
  // There may be room now.
  static_cast<void>(RemoveSpares());
  return write();
}

Result<SegmentPlace> SegmentLog::Write(SegmentKey key, std::uint32_t bytes_crc,
                                       std::span<std::byte> record) {
  FEDMOE_ASSIGN_OR_RETURN(const std::shared_ptr<Segment> segment, Current());
  const std::uint64_t length = record.size() - kHeaderBytes;
  WriteHeader({.tag = TagOf(segment->number), .key = key, .length = length, .bytes_crc = bytes_crc},
              record.first(kHeaderBytes));
  if (const Status written = segment->file->Append(record); !written.ok()) {
    // Its end is undefined, so nothing may follow.
    segment->damaged = true;
    current_ = nullptr;
    return written;
  }
  records_[key] = {
      .segment = segment->number, .offset = segment->size + kHeaderBytes, .length = length};
  segment->size += record.size();
  const std::lock_guard written(segment->mutex);
  segment->written = segment->size;
  return SegmentPlace{.segment = segment->number, .end = segment->size};
}

void SegmentLog::Remember(SegmentKey key, Bytes record) {
  Unremember(key);
  if (record->size() > options_.recent_bytes) return;
  recent_bytes_ += record->size();
  recent_[key] = std::move(record);
  while (recent_bytes_ > options_.recent_bytes) Unremember(recent_.begin()->first);
}

void SegmentLog::Unremember(SegmentKey key) {
  const auto found = recent_.find(key);
  if (found == recent_.end()) return;
  recent_bytes_ -= found->second->size();
  recent_.erase(found);
}

Status SegmentLog::Sync(const SegmentPlace& place) {
  std::shared_ptr<Segment> segment;
  {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(place.segment);
    if (found == open_.end()) return Status::Ok();  // its records are forgotten
    segment = found->second;
  }
  return SyncSegment(*segment, place.end);
}

Status SegmentLog::SyncSegment(Segment& segment, std::uint64_t end) {
  std::unique_lock lock(segment.mutex);
  while (segment.synced < end) {
    FEDMOE_RETURN_IF_ERROR(segment.failed);
    if (segment.syncing) {
      segment.synced_changed.wait(lock);
      continue;
    }
    segment.syncing = true;
    const std::uint64_t written = segment.written;
    lock.unlock();
    const Status synced = segment.file->Sync();
    lock.lock();
    segment.syncing = false;
    if (synced.ok()) {
      segment.synced = written;
    } else {
      segment.failed = synced;
    }
    segment.synced_changed.notify_all();
  }
  return Status::Ok();
}

bool SegmentLog::Has(SegmentKey key) const {
  const std::lock_guard lock(mutex_);
  return records_.contains(key);
}

std::vector<SegmentKey> SegmentLog::Keys() const {
  const std::lock_guard lock(mutex_);
  std::vector<SegmentKey> keys;
  for (const auto& [key, record] : records_) keys.push_back(key);
  return keys;
}

Result<std::unique_ptr<RandomAccessFile>> SegmentLog::Read(SegmentKey key) const {
  Record record;
  {
    const std::lock_guard lock(mutex_);
    const auto found = records_.find(key);
    if (found == records_.end()) {
      return NotFound(directory_ + ": no record " + std::to_string(key));
    }
    record = found->second;
    if (const auto recent = recent_.find(key); recent != recent_.end()) {
      return std::unique_ptr<RandomAccessFile>(
          std::make_unique<Slice>(FileOf(recent->second), kHeaderBytes, record.length));
    }
  }
  FEDMOE_ASSIGN_OR_RETURN(auto file, files_.Open(PathOf(record.segment)));
  return BufferIfSmall(std::make_unique<Slice>(std::move(file), record.offset, record.length));
}

std::map<std::uint64_t, bool> SegmentLog::TakeEmptySegments() {
  std::set<std::uint64_t> empty = segments_;
  for (const auto& [key, record] : records_) empty.erase(record.segment);
  if (current_ != nullptr) empty.erase(current_->number);
  std::map<std::uint64_t, bool> taken;
  for (const std::uint64_t number : empty) {
    bool& sound = taken[number];
    if (const auto open = open_.find(number); open != open_.end()) {
      Segment& segment = *open->second;
      const std::lock_guard lock(segment.mutex);
      sound = !segment.damaged && segment.failed.ok();
    }
    segments_.erase(number);
    open_.erase(number);
  }
  return taken;
}

std::size_t SegmentLog::MostSpares() const {
  const std::uint64_t free = files_.FreeBytes(directory_).value_or(0);
  return std::min<std::uint64_t>(kSpares, free / kSparesOfFree / options_.segment_bytes);
}

Status SegmentLog::RemoveSegments(const std::map<std::uint64_t, bool>& segments, std::size_t most) {
  Status status;
  for (const auto& [segment, sound] : segments) {
    bool spare = false;
    {
      const std::lock_guard lock(mutex_);
      spare = sound && spares_.size() < most;
    }
    spare = spare && files_.Rename(PathOf(segment), SparePathOf(segment)).ok();
    const Status gone = spare ? Status::Ok() : files_.Remove(PathOf(segment));
    const std::lock_guard lock(mutex_);
    if (spare) spares_.insert(segment);
    if (gone.ok()) continue;
    status = gone;
    if (files_.Exists(PathOf(segment))) segments_.insert(segment);  // to be tried again
  }
  return status;
}

Status SegmentLog::RemoveSpares() {
  std::set<std::uint64_t> spares;
  {
    const std::lock_guard lock(mutex_);
    spares = std::exchange(spares_, {});
  }
  Status status;
  for (const std::uint64_t spare : spares) {
    if (const Status removed = files_.Remove(SparePathOf(spare)); !removed.ok()) status = removed;
  }
  return status;
}

Status SegmentLog::RemoveExcept(const std::set<SegmentKey>& keep, SegmentKey end, Reuse reuse) {
  std::map<std::uint64_t, bool> empty;
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(records_, [&](const auto& entry) {
      const bool forgotten = entry.first < end && !keep.contains(entry.first);
      if (forgotten) Unremember(entry.first);
      return forgotten;
    });
    empty = TakeEmptySegments();
  }
  const std::size_t most = reuse == Reuse::kYes ? MostSpares() : 0;
  bool too_many = false;
  {
    const std::lock_guard lock(mutex_);
    too_many = spares_.size() > most;
  }
  if (too_many) FEDMOE_RETURN_IF_ERROR(RemoveSpares());
  return RemoveSegments(empty, most);
}

Status SegmentLog::Seal() {
  std::map<std::uint64_t, bool> empty;
  {
    const std::lock_guard lock(mutex_);
    current_ = nullptr;
    empty = TakeEmptySegments();
  }
  const Status spares = RemoveSpares();
  const Status removed = RemoveSegments(empty, 0);
  return spares.ok() ? removed : spares;
}

}  // namespace fedmoe
