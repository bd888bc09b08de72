// The SQLite journal: one snapshot of the run's state and the events since. State is a function of
// the two (Step), so a restart goes on where the last one stopped.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/disk_hook.h"
#include "common/durability.h"
#include "common/result.h"
#include "federation/round_events.h"
#include "federation/round_state.h"

namespace fedmoe {

inline constexpr int kJournalSchemaVersion = 7;

struct RecoveredRun {
  RoundState snapshot;
  std::vector<Event> events;  // since the snapshot, in order
};

// Used by one thread at a time, but for Append() and Take(), which may run beside Write(). WAL
// mode; what Commit() and Write() returned OK for survives a power cut where durability is full.
class Journal {
 public:
  // Creates or opens. FAILED_PRECONDITION "PATH: journal schema N, this build reads M: resume with
  // the build that began the run, or begin a new run". `hook`, which must outlive the journal, sees
  // what is done to its files; null: nobody looks.
  static Result<std::unique_ptr<Journal>> Open(const std::string& path, DiskHook* hook = nullptr,
                                               Durability durability = Durability::kFull);
  ~Journal();

  // Facts of the run: "config", "spec_digest", "run_id", "version" of the build, "upcycle_digest"
  // of the dense checkpoint that it began from, "told_of_end".
  Status SetFact(const std::string& key, const std::string& value);
  Result<std::optional<std::string>> Fact(const std::string& key) const;

  // Queues an event; nothing is on disk until Commit().
  void Append(const Event& event);
  // One transaction with all that is queued. Nothing queued: no I/O. On failure the queue is kept.
  Status Commit();
  // The same in two steps: empties the queue, and commits what was in it.
  using Batch = std::vector<std::string>;
  Batch Take() { return std::exchange(queue_, {}); }
  Status Write(const Batch& batch);
  // One transaction: what is queued, then the snapshot instead of all events before it.
  Status Snapshot(const RoundState& state);

  // nullopt for a journal without a snapshot (the run never started).
  Result<std::optional<RecoveredRun>> Recover() const;

 private:
  Journal();
  struct Database;
  std::unique_ptr<Database> database_;
  std::vector<std::string> queue_;
};

}  // namespace fedmoe
