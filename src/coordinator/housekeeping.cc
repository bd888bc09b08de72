#include "coordinator/housekeeping.h"

#include <algorithm>
#include <utility>

#include <spdlog/spdlog.h>

#include "coordinator/core.h"

namespace fedmoe {
namespace {

// A snapshot costs as much as a short round: it is taken after so many commits, or this much time.
// A restart replays what came since.
constexpr int kCommitsPerSnapshot = 64;
constexpr Milliseconds kSnapshotMs = 1'000;

// Rounds that are shorter than this have their reports written, and the disk waited for, together.
constexpr Milliseconds kPortionMs = 250;

}  // namespace

Status HouseWork::Do() {
  if (!reports.empty()) {
    if (const Status written = directory->AppendReports(reports); !written.ok()) {
      const Status status = written.WithContext(
          "the report of round " + std::to_string(reports.front().round) + " could not be written");
      spdlog::error("{}", status.message());
      return status;
    }
    reports.clear();
  }
  if (!clean_up) return Status::Ok();
  // A run that was stopped may have updates that are being merged still.
  Status cleaned = spool->RemoveExcept(keep, end, last ? Reuse::kNo : Reuse::kYes);
  if (cleaned.ok() && last) cleaned = spool->Seal();
  if (!cleaned.ok()) spdlog::warn("spool: {}", cleaned.message());
  if (const Status pruned = store->Prune(keep_versions, pinned, version); !pruned.ok()) {
    spdlog::warn("checkpoints: {}", pruned.message());
  }
  if (encoded != nullptr) {
    if (const Status pruned = encoded->Prune(version, pinned); !pruned.ok()) {
      spdlog::warn("encoded shards: {}", pruned.message());
    }
  }
  const Status settled = kept == nullptr ? Status::Ok() : Settle();
  if (!settled.ok()) spdlog::error("checkpoints: {}", settled.message());
  return settled;
}

Status HouseWork::Settle() {
  FEDMOE_RETURN_IF_ERROR(kept->Settle(*files, version));
  return last ? kept->Seal() : Status::Ok();
}

HouseWork CoordinatorCore::DueHouseWork() {
  HouseWork work{.files = &quick_files_,
                 .directory = &directory_,
                 .spool = spool_.get(),
                 .store = store_.get(),
                 .encoded = encoded_.get(),
                 .reports = std::exchange(reports_, {})};
  work.last = state_.phase == Phase::kFinished;
  // An earlier portion may have cleaned up after the newest version and left it where it is kept.
  const bool settles = work.last || SnapshotIsDue();
  work.clean_up = std::exchange(clean_up_due_, false) || (snapshot_due_ && settles);
  if (!work.clean_up) return work;
  // By the state of now: rounds go on meanwhile.
  for (const auto& [task, state] : state_.tasks) work.keep.insert(task);
  work.end = state_.next_task;
  work.keep_versions = options_.keep_versions;
  work.version = state_.version;
  work.pinned.insert(state_.version);
  for (const auto& [version, evaluation] : state_.evaluations) work.pinned.insert(version);
  if (settles) work.kept = kept_.get();
  return work;
}

bool CoordinatorCore::SnapshotIsDue() const {
  return commits_ >= kCommitsPerSnapshot || Now() - snapshot_ms_ >= kSnapshotMs;
}

std::optional<Milliseconds> CoordinatorCore::NextPortionMs() const {
  if (house_->busy()) return std::nullopt;
  const Milliseconds next_ms = portion_ms_ ? *portion_ms_ + kPortionMs : Milliseconds{0};
  if (!reports_.empty() || clean_up_due_) return next_ms;
  // What was committed since the last snapshot does not wait for the next round.
  if (snapshot_due_) return std::max(next_ms, snapshot_ms_ + kSnapshotMs);
  return std::nullopt;
}

void CoordinatorCore::KeepHouse() {
  if (!fatal_.ok() || house_->busy()) return;
  // Of a portion that has ended and whose word is still on its way, too: nothing of it may be lost.
  static_cast<void>(TakeHousekeeping());
  const std::optional<Milliseconds> due_ms = NextPortionMs();
  if (!due_ms || Now() < *due_ms) return;
  portion_ms_ = Now();
  house_->Begin();
  pool_->Run([this, work = DueHouseWork()]() mutable {
    const fedmoe::Status status = work.Do();
    house_->End(std::move(work), status);
    Post([this] {
      // The next portion may be under way already: nothing else may write reports beside it, and no
      // snapshot forget what it has not written.
      if (house_->busy() || !TakeHousekeeping().ok()) return;
      if (SnapshotIsDue()) {
        if (const fedmoe::Status durable = MakeDurable(); !durable.ok()) return OnFatal(durable);
        if (state_.phase == Phase::kFinished || !KeepHouseNow().ok()) return;
        if (const fedmoe::Status taken = TakeSnapshot(); !taken.ok()) return OnFatal(taken);
      }
      // The next portion begins after Flush(), which knows what is durable.
    });
  });
}

fedmoe::Status CoordinatorCore::KeepHouseNow() {
  HouseWork work = DueHouseWork();
  const fedmoe::Status done = work.Do();
  return PutBack(std::move(work), done);
}

// After the reports of the events that it forgets.
fedmoe::Status CoordinatorCore::TakeSnapshot() {
  if (!snapshot_due_) return fedmoe::Status::Ok();
  FinishCommit();
  FEDMOE_RETURN_IF_ERROR(fatal_);
  FEDMOE_RETURN_IF_ERROR(journal_->Snapshot(state_).WithContext("journal"));
  journal_dirty_ = false;
  snapshot_due_ = false;
  commits_ = 0;
  events_ = 0;
  snapshot_ms_ = Now();
  return fedmoe::Status::Ok();
}

fedmoe::Status CoordinatorCore::TakeHousekeeping() {
  HouseWork work;
  const fedmoe::Status status = house_->Take(work);
  return PutBack(std::move(work), status);
}

// Reports that could not be written come before those that were made since.
fedmoe::Status CoordinatorCore::PutBack(HouseWork work, const fedmoe::Status& status) {
  reports_.insert(reports_.begin(), std::make_move_iterator(work.reports.begin()),
                  std::make_move_iterator(work.reports.end()));
  if (!status.ok()) clean_up_due_ = true;
  return status;
}

}  // namespace fedmoe
