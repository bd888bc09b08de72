#include "storage/audit_log.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <span>
#include <utility>

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

constexpr double kRepeatS = 10.0;
constexpr std::size_t kMaxRecent = 256;
constexpr int kMaxOfHost = 50;
constexpr std::size_t kMaxHosts = 1024;
constexpr std::size_t kMaxFieldBytes = 256;

std::string UtcNow() {
  const auto now = std::chrono::system_clock::now();
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
                     fmt::gmtime(std::chrono::system_clock::to_time_t(now)), ms);
}

double SteadySeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The port of a peer is another for each connection.
std::string HostOf(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }

bool Alike(const AuditEvent& a, const AuditEvent& b) {
  return a.event == b.event && a.client == b.client && a.certificate == b.certificate &&
         a.detail == b.detail && HostOf(a.peer) == HostOf(b.peer);
}

}  // namespace

Result<std::unique_ptr<AuditLog>> AuditLog::Open(FileSystem& files, const std::string& path,
                                                 std::size_t limit) {
  bool torn = false;
  if (files.Exists(path)) {
    FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> old, files.Open(path));
    FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, old->Size());
    char last = '\n';
    if (size > 0) {
      FEDMOE_RETURN_IF_ERROR(old->ReadAt(size - 1, std::as_writable_bytes(std::span(&last, 1))));
    }
    torn = last != '\n';
  }
  FEDMOE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file, files.OpenForAppend(path));
  return std::unique_ptr<AuditLog>(new AuditLog(std::move(file), path, torn, limit));
}

AuditLog::AuditLog(std::unique_ptr<WritableFile> file, std::string path, bool torn,
                   std::size_t limit)
    : file_(std::move(file)),
      path_(std::move(path)),
      limit_(limit),
      thread_([this, torn] { Write(torn); }) {}

AuditLog::~AuditLog() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void AuditLog::Record(AuditEvent event) {
  for (std::string* field : {&event.client, &event.certificate, &event.peer, &event.detail}) {
    if (field->size() > kMaxFieldBytes) field->resize(kMaxFieldBytes);
  }
  const bool rejected = event.event == "rejected";
  const double now_s = SteadySeconds();
  {
    const std::lock_guard lock(mutex_);
    if ((rejected || event.event == "admitted") && IsRepeated(event, now_s)) return;
    if (rejected && (waiting_.size() >= limit_ || IsFlood(event, now_s))) {
      ++dropped_;
      return;
    }
    Add({.event = std::move(event)});
  }
  changed_.notify_all();
}

// ---- Called with the lock.

void AuditLog::Add(Line line) {
  line.time = UtcNow();
  line.dropped = std::exchange(dropped_, 0);
  waiting_.push_back(std::move(line));
  ++added_;
}

void AuditLog::Count(const Recent& recent) {
  if (recent.repeated > 0) Add({.event = recent.event, .repeated = recent.repeated});
}

// Of those that began before.
void AuditLog::CountOld(double since_s) {
  while (!recent_.empty() && recent_.front().since_s <= since_s) {
    Count(recent_.front());
    recent_.pop_front();
  }
}

bool AuditLog::IsRepeated(const AuditEvent& event, double now_s) {
  CountOld(now_s - kRepeatS);
  const auto known = std::find_if(recent_.begin(), recent_.end(),
                                  [&](const Recent& old) { return Alike(old.event, event); });
  if (known != recent_.end()) {
    ++known->repeated;
    return true;
  }
  if (recent_.size() == kMaxRecent) {
    Count(recent_.front());
    recent_.pop_front();
  }
  recent_.push_back({.event = event, .since_s = now_s});
  return false;
}

bool AuditLog::IsFlood(const AuditEvent& event, double now_s) {
  if (now_s - hosts_since_s_ >= kRepeatS) {
    hosts_.clear();
    hosts_since_s_ = now_s;
  }
  const std::string host = HostOf(event.peer);
  if (!hosts_.contains(host) && hosts_.size() == kMaxHosts) return true;
  return ++hosts_[host] > kMaxOfHost;
}

// ---- With a lock of their own.

void AuditLog::Flush() {
  std::unique_lock lock(mutex_);
  const std::uint64_t wanted = added_;
  changed_.wait(lock, [&] { return settled_ >= wanted; });
}

void AuditLog::Write(bool torn) {
  bool failed = false;
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait_for(lock, std::chrono::duration<double>(kRepeatS),
                      [&] { return stop_ || !waiting_.empty(); });
    CountOld(stop_ ? std::numeric_limits<double>::infinity() : SteadySeconds() - kRepeatS);
    if (stop_ && dropped_ > 0) Add({.event = {.event = "dropped"}});
    if (waiting_.empty() && stop_) return;
    if (waiting_.empty()) continue;
    const std::deque<Line> lines = std::exchange(waiting_, {});
    lock.unlock();
    std::string text = torn ? "\n" : "";
    for (const Line& line : lines) {
      nlohmann::ordered_json json = {
          {"time", line.time},           {"event", line.event.event},
          {"client", line.event.client}, {"certificate", line.event.certificate},
          {"peer", line.event.peer},     {"detail", line.event.detail}};
      if (line.repeated > 0) json["repeated"] = line.repeated;
      if (line.dropped > 0) json["dropped"] = line.dropped;
      // Names come from the network: what is no UTF-8 must not end the log.
      text += json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    }
    Status status = file_->Append(AsBytes(std::string_view(text)));
    torn = !status.ok();  // part of it may stand there
    if (status.ok()) status = file_->Sync();
    if (!status.ok() && !std::exchange(failed, true)) {
      spdlog::error("{}: events are lost: {}", path_, status.message());
    }
    lock.lock();
    settled_ += lines.size();
    changed_.notify_all();
  }
}

}  // namespace fedmoe
