// The coordinator without gRPC: round thread, command queue, worker pool, spool, journal and shard
// store around the pure round machine. gRPC, or a test's in-process transport, calls it.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/disk_hook.h"
#include "common/durability.h"
#include "common/file_system.h"
#include "common/result.h"
#include "common/version.h"
#include "common/write_behind_file_system.h"
#include "coordinator/arrivals.h"
#include "coordinator/command_queue.h"
#include "coordinator/housekeeping.h"
#include "coordinator/piece_cache.h"
#include "coordinator/transfer_count.h"
#include "coordinator/worker_pool.h"
#include "federation/messages.h"
#include "federation/round_machine.h"
#include "federation/upcycle_options.h"
#include "storage/encoded_store.h"
#include "storage/journal.h"
#include "storage/run_directory.h"
#include "storage/shard_store.h"
#include "storage/spool.h"

namespace fedmoe {

// The journal's fact of the version with which the run was over for its clients, too: all were
// told, or had the time to ask.
inline constexpr char kToldFact[] = "told_of_end";

struct CoreOptions {
  RunOptions run;
  UpcycleOptions upcycle;  // of a new run; one that goes on has its model
  std::string run_name = "run";
  Milliseconds poll_hold_ms = 30'000;
  Milliseconds heartbeat_interval_ms = 5'000;
  Milliseconds linger_ms = 10'000;  // after the end: how long clients have to learn of it
  // At most so long where the run can be taken up: who has not heard looks for the coordinator, as
  // it should.
  Milliseconds stop_linger_ms = 5'000;
  int max_clients = 1'000;
  int worker_threads = 2;
  int keep_versions = 3;
  Durability durability = Durability::kFull;  // of the journal; files are as durable as `files` is
  // Updates up to this size share files, and versions of the model up to it get files of their own
  // only if they last. 0: none.
  std::uint64_t small_bytes = kMaxKeptBytes;
  // How long a small update waits for others, of which each takes a few syncs of the disk.
  Milliseconds patience_ms = 2;
  // Of files that are written anew. Tests have short ones.
  SpareLimits spares;
  std::uint64_t segment_bytes = SegmentLogOptions().segment_bytes;
  // Of the journal: a snapshot follows after so many and ten for each client, though no round is
  // committed.
  std::size_t snapshot_events = 20'000;
  std::size_t queue_limit = 4'096;   // commands waiting; more are refused with RESOURCE_EXHAUSTED
  DiskHook* journal_hook = nullptr;  // sees what is done to the journal's files; outlives the core
};

// Told what happens, on the round thread; must not block or call back into the core.
class CoreObserver {
 public:
  virtual ~CoreObserver() = default;
  virtual void OnDispatch(const RoundState&) {}
  virtual void OnReport(const RoundReport&) {}
  virtual void OnAbort(const AbortRound&) {}
};

class CoordinatorCore;

// One update on its way in. Calls one after another: the next only after the last one's callback.
// Dropping it abandons the transfer.
class Upload : public std::enable_shared_from_this<Upload> {
 public:
  using Done = std::function<void(Status)>;
  using VerdictDone = std::function<void(Result<Verdict>)>;

  // `file` may have the bytes of a transfer that was cut.
  Upload(CoordinatorCore& core, SessionId session, TaskAssignment task, UpdateHeader header,
         std::unique_ptr<IncomingUpdate> file, std::shared_ptr<void> ticket, std::uint64_t number);
  ~Upload();
  // Appends a piece to the spool on the pool; `done` is called there. What is past the announced
  // size is counted and not kept: Finish() then rejects the update.
  void Append(std::string bytes, Done done);
  // Append() of the last piece, then Finish(), in one step: `done` as theirs, of the piece first,
  // and of the update only if that was well.
  void AppendLast(std::string bytes, Done appended, VerdictDone done);
  // The transfer was cut: what has come is kept for the next one of the same task, until the task
  // is over. Instead of Finish().
  void Park();
  // All pieces are there: validates, makes durable and counts the update. `done` is called on the
  // round thread, after the journal has it.
  void Finish(VerdictDone done);

 private:
  friend class CoordinatorCore;
  // Of the uploads of a task one has the right to become durable, until it is taken from it.
  enum class Right { kNone, kMay, kUsed };

  Status AppendOnWorker(const std::string& bytes);
  // `waits`: the thread may wait for the disk.
  void FinishOnWorker(const VerdictDone& done, bool waits);
  void KeepIfFirst(const Verdict& content, const VerdictDone& done);
  void Keep(const VerdictDone& done);
  // False: it has been used, or there was none.
  bool Use() { return Change(Right::kUsed); }
  bool Revoke() { return Change(Right::kNone); }
  bool Change(Right to) {
    Right may = Right::kMay;
    return right_.compare_exchange_strong(may, to);
  }
  Result<Verdict> Check();

  CoordinatorCore& core_;
  const SessionId session_;
  const TaskAssignment task_;
  const UpdateHeader header_;
  std::unique_ptr<IncomingUpdate> file_;
  std::uint64_t received_bytes_ = 0;
  std::atomic<Right> right_{Right::kNone};
  const std::shared_ptr<void> ticket_;  // counts among the client's uploads while it lives
  const std::uint64_t number_;          // rises in the order of their beginnings
  const std::weak_ptr<WorkerPool> pool_;
};

// Bytes [offset, offset + length) of a shard.
struct ShardPiece {
  ShardReference shard;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

// Names one NextTask call, so that its caller can say that it has gone.
struct Poll {
  std::atomic<bool> abandoned{false};
};

// The outcome of BeginUpdate: a verdict at once (stale, duplicate, over its size), or an upload to
// fill.
struct UploadStart {
  std::optional<Verdict> verdict;
  std::shared_ptr<Upload> upload;
};

// Thread-safe. Callbacks run on the round thread or the pool and must not block; they are called
// exactly once, also at shutdown (CANCELLED). Calls never block; a full queue answers
// RESOURCE_EXHAUSTED at once. No call may begin once the destructor has.
class CoordinatorCore {
 public:
  template <typename T>
  using Callback = std::function<void(Result<T>)>;

  // Starts the run in `directory`, or goes on with the one that is there. `stored_config` is
  // written for a new run. DATA_LOSS and others name the file.
  static Result<std::unique_ptr<CoordinatorCore>> Start(CoreOptions options, FileSystem& files,
                                                        RunDirectory& directory, const Clock& clock,
                                                        CoreObserver* observer);
  // Stops the round thread without finishing the run (as a crash would, but in order): what is
  // journaled stays.
  ~CoordinatorCore();

  void Register(RegisterRequest request, Callback<RegisterReply> done);
  // Holds the call until there is a task; while it is held its client counts as heard. After a
  // completed run kRunOver, which the client acknowledges by Leave(); after a stopped or failed one
  // UNAVAILABLE, for it may be taken up again.
  void NextTask(SessionId session, std::shared_ptr<Poll> poll, Callback<NextTaskReply> done);
  // The caller of this NextTask has gone: it ends with CANCELLED and takes no task.
  void AbandonPoll(const std::shared_ptr<Poll>& poll);
  void Beat(SessionId session, TaskId task, double progress, Callback<HeartbeatReply> done);
  // An update that begins at `offset` goes on with what was parked: FAILED_PRECONDITION where that
  // does not end there.
  void BeginUpdate(SessionId session, UpdateHeader header, Callback<UploadStart> done,
                   std::uint64_t offset = 0);
  // Bytes of a task's update that a cut transfer left, if it had the same length.
  void ResumeUpdate(SessionId session, TaskId task, std::uint64_t total_bytes,
                    Callback<std::uint64_t> done);
  void SubmitEvaluation(SessionId session, EvaluationResult result, Callback<bool> done);
  void ReturnTask(SessionId session, TaskId task, std::string why, Callback<bool> done);
  void Leave(SessionId session, Callback<bool> done);
  // Ends a client's session for it: its tasks are lost, its parked poll ends with `why`. No error
  // for a client that is not there.
  void Evict(ClientId client, fedmoe::Status why, Callback<bool> done);
  // ---- Downloads (core_shards.cc).
  // A place among the client's downloads, to be held while one is under way. `damaged`: what others
  // have read of late is read again. RESOURCE_EXHAUSTED where it has kMaxFetchesPerClient already.
  static constexpr std::size_t kMaxFetchesPerClient = 4;
  Result<std::shared_ptr<void>> BeginFetch(const SessionId& session, bool damaged);
  // The bytes that a shard has as it travels; the reference says the most. Before ReadShards() of
  // an encoded one, which is encoded on the pool by the first who asks. `damaged`: it came so, and
  // what is stored is checked. NOT_FOUND; FAILED_PRECONDITION for an encoding that is not the
  // run's.
  void OpenShard(const SessionId& session, const ShardReference& shard, bool damaged,
                 Callback<std::uint64_t> done);
  // Parts of shards as they travel, read on the pool, at most 1 MiB in all. Those of 4 KiB and more
  // are shared with others who read the same at this time.
  void ReadShards(const SessionId& session, std::vector<ShardPiece> pieces,
                  Callback<std::vector<SharedBytes>> done);
  // The run as one JSON object (docs/status.md).
  void Status(Callback<std::string> done);

  void RequestStop(bool drain);
  // Blocks until the run has finished and its clients have said that they know, or `linger_ms`
  // passed.
  RunSummary Wait();
  // For signal handling loops: true once Wait() would return.
  bool WaitFor(Milliseconds timeout_ms);

  const CoreOptions& options() const { return options_; }

 private:
  friend class Upload;
  struct ParkedPoll {
    std::uint64_t session = 0;
    std::shared_ptr<Poll> poll;
    Milliseconds until_ms = 0;
    Callback<NextTaskReply> done;
  };
  struct Registering {
    Callback<RegisterReply> done;
    std::uint32_t protocol = 0;  // the version agreed on
  };
  struct Touched {
    std::optional<Milliseconds> last_ms;
    bool posted = false;  // its command waits in the queue
  };

  CoordinatorCore(CoreOptions options, FileSystem& files, RunDirectory& directory,
                  const Clock& clock, CoreObserver* observer);
  fedmoe::Status Open();
  fedmoe::Status OpenFiles(ModelVersion newest);
  fedmoe::Status SettleKept();
  Result<Manifest> StageInitial();
  fedmoe::Status ContinueRun(RecoveredRun recovered);
  fedmoe::Status ContinueTheEnd();
  fedmoe::Status CheckStoredSpec() const;
  fedmoe::Status ReadHistory();
  bool SummarySaysCompleted() const;
  Result<std::uint32_t> CheckRegistration(const RegisterRequest& request) const;
  // What a cut transfer left of a task's update.
  struct ParkedUpload {
    ClientId client;
    std::uint64_t total_bytes = 0;
    std::unique_ptr<IncomingUpdate> file;
  };
  void OpenUpload(const TaskAssignment& task, const UpdateHeader& header, const SessionId& session,
                  std::uint64_t offset, const Callback<UploadStart>& reply);
  void ParkUpload(TaskId task, ParkedUpload parked);
  // Takes it out; null where there is none such.
  std::unique_ptr<IncomingUpdate> TakeParked(TaskId task, const ClientId& client,
                                             std::uint64_t total_bytes);
  // Of tasks that are over.
  void DropParked();
  void DropFile(std::unique_ptr<IncomingUpdate> file);

  // ---- Round thread.
  void Loop();
  Milliseconds Now() const;
  Milliseconds NextWakeMs() const;
  // How long to wait for a command; negative: for ever.
  Milliseconds NextWaitMs() const;
  void Handle(const Event& event);
  void Execute(Action action);
  // Journal, then the replies that waited for it. While one commit is under way, what comes
  // meanwhile waits for the next.
  void Flush();
  fedmoe::Status MakeDurable();
  struct PendingCommit;
  void StartCommit();
  // Waits for the commit under way, if any, and gives the replies that waited for it.
  void FinishCommit();
  void GiveReplies(std::vector<std::function<void(const fedmoe::Status&)>> replies);
  Milliseconds HeartbeatGrainMs() const;
  void HearParkedPolls();
  void Hear(const SessionId& session);
  Result<NextTaskReply> EndOfRun(const ClientId& client, const Poll& poll);
  void OnFatal(const fedmoe::Status& status);
  void FinishIfToldAll();
  void EndHeldPolls();
  // ---- Housekeeping (housekeeping.cc): what a commit leaves to do, off the way of the replies.
  // Starts it on the pool, unless it is under way or nothing is due.
  void KeepHouse();
  HouseWork DueHouseWork();
  // What came of the last one. Reports that could not be written wait for the next time; the error
  // is theirs.
  fedmoe::Status TakeHousekeeping();
  fedmoe::Status PutBack(HouseWork work, const fedmoe::Status& status);
  bool SnapshotIsDue() const;
  // When it is time for it; nullopt: nothing is due, or it is under way.
  std::optional<Milliseconds> NextPortionMs() const;
  // All that is due, here and now: while none is under way.
  fedmoe::Status KeepHouseNow();
  fedmoe::Status TakeSnapshot();
  void Conclude(RunStatus status, const std::string& detail);
  void AnswerVerdicts(TaskId task, const Verdict& verdict);
  std::string StatusJson() const;
  // `reply` is called once: with OK when all that was handled so far is durable, else with why not.
  void Defer(std::function<void(const fedmoe::Status&)> reply) {
    deferred_.push_back(std::move(reply));
  }
  template <typename T>
  void DeferReply(Callback<T> done, T value) {
    Defer([done = std::move(done), value = std::move(value)](const fedmoe::Status& status) {
      done(status.ok() ? Result<T>(value) : Result<T>(status));
    });
  }
  void DeferDelivery(const ClientId& client);
  void HandleUpdate(UpdateHeader header, const Verdict& content);
  struct KeptUpdate;
  using KeptUpdates = std::vector<std::shared_ptr<KeptUpdate>>;
  using SteadyClock = std::chrono::steady_clock;
  void MakeUpdateDurable(std::shared_ptr<Upload> upload, Upload::VerdictDone done);
  // Makes small updates durable: they share a sync, and the commit of the journal.
  void SyncArrived(const KeptUpdates& updates);
  // One of the two syncs of an update has ended.
  void Synced(const std::shared_ptr<KeptUpdate>& update, const fedmoe::Status& status);
  void CountKept(const UpdateHeader& header, const fedmoe::Status& kept,
                 const Upload::VerdictDone& done);
  fedmoe::Status CheckSession(const SessionId& session);
  const TaskState* FindTask(TaskId task) const;
  void DeliverTasks(const ClientId& client);
  void EndPoll(const ClientId& client, Result<NextTaskReply> reply);

  void On(AdmitClient& action);
  void On(TurnAwayClient& action);
  void On(Dispatch& action);
  void On(AcceptUpdate& action);
  void On(RejectUpdate& action);
  void On(CancelTasks& action);
  void On(Aggregate& action);
  void On(WriteCheckpoint& action);
  void On(PublishModel& action);
  void On(AbortRound& action);
  void On(Report& action);
  void On(Finish& action);

  // Any thread.
  template <typename T>
  void Submit(Callback<T> done, std::function<void(Callback<T>)> command);
  void Post(
      std::function<void()> command);  // internal completions: never refused, dropped at shutdown
  void PostOr(std::function<void()> command, std::function<void()> at_shutdown);
  void Touch(
      const SessionId& session);  // a sign of life beside calls that reach the round thread anyway
  fedmoe::Status CheckCurrent(const SessionId& session) const;
  void ForgetStrangers();  // with mutex_ held
  fedmoe::Status CheckTravel(const ShardReference& shard) const;
  Result<std::vector<SharedBytes>> ReadPieces(const std::vector<ShardPiece>& pieces) const;
  Result<SharedBytes> ReadPiece(const ShardPiece& piece) const;
  bool Finished() const;
  void CountDown(std::uint64_t bytes) { bytes_down_ += bytes; }
  void CountUp(std::uint64_t bytes) { bytes_up_ += bytes; }

  const CoreOptions options_;
  FileSystem& files_;
  RunDirectory& directory_;
  const Clock& clock_;
  CoreObserver* observer_;
  Digest spec_digest_;
  std::string run_id_;

  std::unique_ptr<Journal> journal_;
  // Over files_: of the store and the spool. Uploads may outlive the core.
  std::shared_ptr<WriteBehindFileSystem> quick_owner_;
  WriteBehindFileSystem& quick_files_;
  std::unique_ptr<KeptFiles> kept_;  // versions that have no files yet
  std::unique_ptr<ShardStore> store_;
  std::unique_ptr<EncodedStore> encoded_;  // null: shards travel as they are
  std::unique_ptr<Spool> spool_;
  std::shared_ptr<WorkerPool> pool_;    // uploads may outlive the core
  std::unique_ptr<WorkerPool> syncs_;   // waits for the disk
  std::unique_ptr<WorkerPool> writer_;  // writes the journal while the round thread goes on
  CommandQueue queue_;

  // Round thread only.
  RoundState state_;
  Milliseconds origin_ms_ = 0;  // Clock time at which the coordinator's own clock stood at base_ms_
  Milliseconds base_ms_ = 0;
  double earlier_wall_s_ = 0.0;  // of the run before this process
  bool journal_dirty_ = false;
  bool dispatched_ = false;                // tasks, since the last commit
  std::shared_ptr<PendingCommit> commit_;  // under way; only it touches the journal's database then
  bool snapshot_due_ = false;     // a round was committed since the last one, or much happened
  std::size_t events_ = 0;        // in the journal, since the last snapshot
  bool clean_up_due_ = false;     // since the last housekeeping
  int commits_ = 0;               // since the last snapshot
  Milliseconds snapshot_ms_ = 0;  // when that was
  std::optional<Milliseconds> portion_ms_;  // when the last housekeeping began
  std::shared_ptr<Housekeeping> house_;
  std::vector<std::function<void(const fedmoe::Status&)>> deferred_;
  std::vector<RoundReport> reports_;                // not yet in the run directory
  std::map<TaskId, std::weak_ptr<Upload>> rights_;  // which upload may become durable
  std::map<ClientId, ParkedPoll> polls_;
  Milliseconds next_poll_end_ms_ = 0;  // none ends before it
  Milliseconds polls_heard_ms_ = 0;    // when their clients were last heard
  struct PendingTask {
    TaskAssignment task;
    std::uint64_t commit = 0;  // the one that makes its dispatch durable
  };
  std::map<ClientId, std::vector<PendingTask>> pending_;  // dispatched, not yet fetched
  std::uint64_t next_commit_ = 1;
  std::uint64_t durable_commit_ = 0;
  std::map<TaskId, CancelReason> cancelled_;
  std::map<ClientId, Registering> registering_;
  TransferCount uploads_;                  // under way
  std::map<TaskId, ParkedUpload> parked_;  // cut
  std::uint64_t next_upload_ = 0;
  std::map<TaskId, std::uint64_t> begun_;  // the last upload of a task that began at its first byte
  std::map<TaskId, std::vector<Upload::VerdictDone>> verdicts_;  // of the event in hand
  struct StagedVersion {
    Manifest manifest;
    Syncing syncing = Syncing::kNow;
  };
  Result<StagedVersion> Stage(const Aggregate& action);
  // What `write` does, once more where the disk was full and what was set aside is given back.
  template <typename Write>
  auto WithRoom(const Write& write) {
    auto written = write();
    if (StatusOf(written).code() != StatusCode::kResourceExhausted) return written;
    spool_->GiveBack();
    return write();
  }
  static const fedmoe::Status& StatusOf(const fedmoe::Status& status) { return status; }
  template <typename T>
  static fedmoe::Status StatusOf(const Result<T>& result) {
    return result.status();
  }
  void CommitSmallVersion(RoundNumber round);
  std::optional<StagedVersion> staged_;
  std::vector<Event> following_;  // that actions of the event in hand have brought about
  std::set<ClientId> told_;       // have said that they know of the run's end, or need not know
  Milliseconds linger_until_ms_ = 0;
  RunSummary summary_;
  std::uint64_t reported_down_ = 0, reported_up_ = 0;
  fedmoe::Status fatal_;

  std::atomic<std::uint64_t> bytes_down_{0}, bytes_up_{0};
  std::atomic<bool> sweep_posted_{false};  // abandoned polls are about to be ended

  mutable std::mutex mutex_;
  std::condition_variable finished_condition_;
  bool finished_ = false;
  // Guarded by mutex_, for use off the round thread.
  std::map<ClientId, std::uint64_t> sessions_;
  std::map<ClientId, Touched> touched_;
  TransferCount fetches_;  // under way
  const std::shared_ptr<PieceCache> pieces_ = std::make_shared<PieceCache>();
  Arrivals<std::shared_ptr<KeptUpdate>> arrivals_;  // small updates, to be synced
  KeptUpdates named_;                               // whose names wait for a sync
  std::map<std::string, std::vector<Callback<std::uint64_t>>> encoding_;  // who waits, by ShardKey

  std::thread thread_;
};

template <typename T>
void CoordinatorCore::Submit(Callback<T> done, std::function<void(Callback<T>)> command) {
  const bool queued = queue_.TryPush([this, done, command = std::move(command)] {
    if (!fatal_.ok()) return done(Unavailable("the coordinator has failed: " + fatal_.message()));
    if (queue_.closed()) return done(Cancelled("the coordinator is going down"));
    command(done);
  });
  if (queued) return;
  if (queue_.closed()) return done(Unavailable("the coordinator is going down"));
  done(ResourceExhausted("the coordinator's queue is full (" +
                         std::to_string(options_.queue_limit) + " waiting)"));
}

}  // namespace fedmoe
