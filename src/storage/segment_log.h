// Small blobs one after another in few files: what each of them would cost the disk as a file of
// its own, its making, its name and its removal, they share. A file whose blobs nobody needs any
// more is written anew, under another name. The spool's small updates. Format:
// docs/update_format.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"

namespace fedmoe {

using SegmentKey = std::uint64_t;

// Where a record ends.
struct SegmentPlace {
  std::uint64_t segment = 0;
  std::uint64_t end = 0;
};

struct SegmentLogOptions {
  // Of the records with the highest keys so many bytes stay in memory, for who reads them soon.
  std::uint64_t recent_bytes = 0;
  // A segment past it takes no more records.
  std::uint64_t segment_bytes = std::uint64_t{8} << 20;
};

enum class Reuse { kYes, kNo };

// Whether a file of this name is one that a log set aside.
bool IsSpareSegment(const std::string& name);

// Thread-safe.
class SegmentLog {
 public:
  // Reads the records of the segments in `directory`: of each key the last one that is whole. What
  // a crash left at the end of a segment is passed over.
  static Result<std::unique_ptr<SegmentLog>> Open(FileSystem& files, std::string directory,
                                                  const SegmentLogOptions& options = {});
  ~SegmentLog();

  // Durable once Sync() of the place has returned OK, as is all that was appended before it without
  // an error. After an error nothing is there, and the next record goes into another segment. The
  // record is the pieces one after another.
  Result<SegmentPlace> Append(SegmentKey key, std::span<const std::byte> bytes) {
    return Append(key, {bytes});
  }
  Result<SegmentPlace> Append(SegmentKey key,
                              std::initializer_list<std::span<const std::byte>> pieces);
  // One sync of the disk serves all who wait at the time.
  Status Sync(const SegmentPlace& place);
  bool Has(SegmentKey key) const;
  std::vector<SegmentKey> Keys() const;  // ascending
  // The record's bytes, checked against their checksum when they were found or written; in memory
  // where they are few. NOT_FOUND names the key.
  Result<std::unique_ptr<RandomAccessFile>> Read(SegmentKey key) const;
  // Forgets every key below `end` but those of `keep`. Segments that then have none are removed,
  // or, some and if so told, written anew: then nobody may read them any more. What was forgotten
  // may be there again after Open().
  Status RemoveExcept(const std::set<SegmentKey>& keep, SegmentKey end, Reuse reuse = Reuse::kYes);
  // For the time being nothing more comes: all segments that hold nothing are removed.
  Status Seal();
  // Removes what is set aside to be written anew, for whose place there is a better use. Best
  // effort.
  Status RemoveSpares();

 private:
  struct Record {
    std::uint64_t segment = 0;
    std::uint64_t offset = 0;  // of its bytes
    std::uint64_t length = 0;
  };
  struct Segment;

  using Bytes = std::shared_ptr<const std::vector<std::byte>>;

  SegmentLog(FileSystem& files, std::string directory, const SegmentLogOptions& options);
  std::string PathOf(std::uint64_t segment) const;
  std::string SparePathOf(std::uint64_t segment) const;
  Status ReadSegment(std::uint64_t segment);
  static Status SyncSegment(Segment& segment, std::uint64_t end);
  // With mutex_ held: the segment that takes a record next.
  Result<std::shared_ptr<Segment>> Current();
  // With mutex_ held: takes the segments that hold nothing, and no more are written to, off.
  // Second: whether the disk took all that was written to it.
  std::map<std::uint64_t, bool> TakeEmptySegments();
  std::size_t MostSpares() const;
  // With mutex_ held: writes the record, whose header is filled in here, to the segment in hand.
  Result<SegmentPlace> Write(SegmentKey key, std::uint32_t bytes_crc, std::span<std::byte> record);
  // With mutex_ held: a file for the segment with this number.
  Result<std::unique_ptr<WritableFile>> MakeFile(std::uint64_t segment);
  // With mutex_ held: `record`, with its header, is the last one of the key.
  void Remember(SegmentKey key, Bytes record);
  void Unremember(SegmentKey key);
  // Removes them, but for some sound ones that become spares until there are `most`.
  Status RemoveSegments(const std::map<std::uint64_t, bool>& segments, std::size_t most);

  FileSystem& files_;
  const std::string directory_;
  const SegmentLogOptions options_;
  mutable std::mutex mutex_;
  std::map<SegmentKey, Record> records_;
  std::map<SegmentKey, Bytes> recent_;  // with their headers
  std::uint64_t recent_bytes_ = 0;
  std::set<std::uint64_t> segments_;  // on the disk
  std::set<std::uint64_t> spares_;    // were segments; files that are to be written anew
  std::map<std::uint64_t, std::shared_ptr<Segment>> open_;  // written to by this object
  std::shared_ptr<Segment> current_;
  std::uint64_t next_segment_ = 1;
};

}  // namespace fedmoe
