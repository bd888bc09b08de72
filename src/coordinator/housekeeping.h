// What a committed round leaves to do that nobody waits for: its report, and the removal of what is
// no longer needed.
#pragma once

#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/ids.h"
#include "common/result.h"
#include "federation/round_report.h"
#include "storage/encoded_store.h"
#include "storage/run_directory.h"
#include "storage/shard_store.h"
#include "storage/spool.h"

namespace fedmoe {

// One portion of it. The pointers outlive the work.
struct HouseWork {
  FileSystem* files = nullptr;
  RunDirectory* directory = nullptr;
  Spool* spool = nullptr;
  ShardStore* store = nullptr;
  EncodedStore* encoded = nullptr;   // null: shards travel as they are
  std::vector<RoundReport> reports;  // those that were written are taken off
  // With clean_up: spooled updates of tasks below `end` go, but for those of `keep`, model versions
  // before `version` but for the newest and those pinned, and encoded shards that neither
  // `version`, later ones nor those pinned have.
  bool clean_up = false;
  std::set<TaskId> keep;
  TaskId end = 0;
  int keep_versions = 0;
  ModelVersion version = 0;
  std::set<ModelVersion> pinned;
  // If not null, what it keeps of versions up to `version` is brought to the disk by itself.
  KeptFiles* kept = nullptr;
  bool last = false;  // no round follows

  // The error where reports cannot be written, and then nothing is removed, or checkpoints cannot.
  // Failures to remove are logged.
  Status Do();

 private:
  Status Settle();
};

// The portion under way, between the round thread and the pool. Thread-safe.
class Housekeeping {
 public:
  void Begin() {
    const std::lock_guard lock(mutex_);
    busy_ = true;
  }
  void End(HouseWork work, Status status) {
    {
      const std::lock_guard lock(mutex_);
      taken_ = false;
      work_ = std::move(work);
      status_ = std::move(status);
      busy_ = false;
    }
    idle_.notify_all();
  }
  bool busy() const {
    const std::lock_guard lock(mutex_);
    return busy_;
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return !busy_; });
  }
  // What became of it: once after each End(), else OK and nothing.
  Status Take(HouseWork& work) {
    const std::lock_guard lock(mutex_);
    if (busy_ || taken_) return Status::Ok();
    taken_ = true;
    work = std::move(work_);
    return status_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  bool busy_ = false;
  bool taken_ = true;
  HouseWork work_;
  Status status_;
};

}  // namespace fedmoe
