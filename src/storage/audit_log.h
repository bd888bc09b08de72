// Who was let in, who was turned away, and why: one JSON object a line.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/file_system.h"

namespace fedmoe {

struct AuditEvent {
  // admitted, rejected, revoked, restored or commanded (by fedmoe-admin).
  std::string event;
  std::string client;       // the name in question: what it calls itself, or what was revoked
  std::string certificate;  // common name on the caller's certificate; empty: none
  std::string peer;         // "ipv4:192.0.2.7:50212"
  std::string detail;       // why it was rejected; the command
};

// Appends to a file, in order, on a thread of its own: Record never waits for the disk. What was
// recorded is synced within moments and when the log is destroyed; a power cut may take the last
// lines, and leave one torn, behind which the next begins anew. Bounded, whoever calls: fields are
// cut at 256 bytes; equal admissions and equal rejections within 10 s are one line, and a second
// one that counts the others ("repeated") when those seconds are over or the log is destroyed;
// rejections past 50 of a host in 10 s, and those that come while `limit` events wait for the disk,
// are dropped and counted in the next line ("dropped"; of its own where none follows). Nothing else
// is ever left out. Thread-safe.
class AuditLog {
 public:
  static Result<std::unique_ptr<AuditLog>> Open(FileSystem& files, const std::string& path,
                                                std::size_t limit = 4096);
  ~AuditLog();
  AuditLog(const AuditLog&) = delete;
  AuditLog& operator=(const AuditLog&) = delete;

  void Record(AuditEvent event);
  // Blocks until all that was recorded before is synced, or the disk has failed.
  void Flush();

 private:
  struct Line {
    AuditEvent event;
    std::string time;
    std::size_t repeated = 0;
    std::size_t dropped = 0;
  };
  struct Recent {
    AuditEvent event;
    double since_s = 0.0;
    std::size_t repeated = 0;
  };
  AuditLog(std::unique_ptr<WritableFile> file, std::string path, bool torn, std::size_t limit);
  bool IsRepeated(const AuditEvent& event, double now_s);
  bool IsFlood(const AuditEvent& event, double now_s);
  void Add(Line line);
  void Count(const Recent& recent);
  void CountOld(double since_s);
  void Write(bool torn);

  const std::unique_ptr<WritableFile> file_;  // of the thread
  const std::string path_;
  const std::size_t limit_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Line> waiting_;          // below, all guarded by mutex_
  std::deque<Recent> recent_;         // admissions and rejections of the last 10 s, a few
  std::map<std::string, int> hosts_;  // rejections by host since hosts_since_s_
  double hosts_since_s_ = 0.0;
  std::size_t dropped_ = 0;
  std::uint64_t added_ = 0;    // lines, ever
  std::uint64_t settled_ = 0;  // of them written, or lost to the disk
  bool stop_ = false;
  std::thread thread_;  // last: starts when all else is there
};

}  // namespace fedmoe
