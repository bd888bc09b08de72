// One update on its way in: pool work between gRPC's threads and the round thread.
#include <utility>

#include "coordinator/core.h"
#include "storage/update_format.h"

namespace fedmoe {

Upload::Upload(CoordinatorCore& core, SessionId session, TaskAssignment task, UpdateHeader header,
               std::unique_ptr<IncomingUpdate> file, std::shared_ptr<void> ticket)
    : core_(core),
      session_(std::move(session)),
      task_(std::move(task)),
      header_(std::move(header)),
      file_(std::move(file)),
      ticket_(std::move(ticket)),
      pool_(core.pool_) {}

// Removing the file is disk work, and the last to let go may be a thread of gRPC.
Upload::~Upload() {
  const std::shared_ptr<WorkerPool> pool = pool_.lock();
  if (file_ == nullptr || pool == nullptr) return;
  pool->Run([file = std::shared_ptr<IncomingUpdate>(std::move(file_))]() mutable { file.reset(); });
}

void Upload::Append(std::string bytes, Done done) {
  core_.Touch(session_);
  core_.pool_->Run([self = shared_from_this(), bytes = std::move(bytes), done = std::move(done)] {
    self->core_.CountUp(bytes.size());
    self->received_bytes_ += bytes.size();
    if (self->received_bytes_ > self->header_.total_bytes) return done(Status::Ok());
    done(self->file_->Append(AsBytes(std::string_view(bytes))));
  });
}

void Upload::Finish(VerdictDone done) {
  core_.pool_->Run(
      [self = shared_from_this(), done = std::move(done)] { self->FinishOnWorker(done); });
}

void Upload::FinishOnWorker(const VerdictDone& done) {
  Result<Verdict> content = Check();
  if (!content.ok()) return done(content.status());
  if (!content->accepted()) file_.reset();
  core_.PostOr(
      [self = shared_from_this(), verdict = *content, done] { self->KeepIfFirst(verdict, done); },
      [done] { done(Cancelled("the coordinator is going down")); });
}

// On the round thread. Only one update of a task may become durable: one that comes beside it, or
// after it, must not take the place of the bytes that were counted.
void Upload::KeepIfFirst(const Verdict& content, const VerdictDone& done) {
  const auto task = core_.state_.tasks.find(task_.task);
  const bool open =
      task != core_.state_.tasks.end() && core_.state_.phase == Phase::kReporting &&
      (task->second.status == TaskStatus::kOpen || task->second.status == TaskStatus::kLost);
  if (!open || !content.accepted()) {
    core_.verdicts_[task_.task].push_back(done);
    return core_.HandleUpdate(header_, content);
  }
  if (!core_.keeping_.insert(task_.task).second) {
    return done(Unavailable("another upload of task " + std::to_string(task_.task) +
                            " is being taken in; ask again"));
  }
  core_.pool_->Run([self = shared_from_this(), done] {
    const Status kept = self->file_->Keep();
    self->file_.reset();
    self->core_.SyncName({self->header_, kept, done});
  });
}

// Of updates that are kept while the disk is busy with others' names, one sync makes all durable:
// the job that does it is queued behind their own.
void CoordinatorCore::SyncName(KeptUpdate update) {
  {
    const std::lock_guard lock(mutex_);
    kept_.push_back(std::move(update));
    if (kept_.size() > 1) return;
  }
  pool_->Run([this] {
    std::vector<KeptUpdate> group;
    {
      const std::lock_guard lock(mutex_);
      group = std::exchange(kept_, {});
    }
    const fedmoe::Status synced = spool_->SyncNames();
    for (KeptUpdate& each : group) {
      if (each.kept.ok()) each.kept = synced;
    }
    const auto shared = std::make_shared<std::vector<KeptUpdate>>(std::move(group));
    PostOr(
        [this, shared] {
          for (const KeptUpdate& each : *shared) CountKept(each.header, each.kept, each.done);
        },
        [shared] {
          for (const KeptUpdate& each : *shared) {
            each.done(Cancelled("the coordinator is going down"));
          }
        });
  });
}

void CoordinatorCore::CountKept(const UpdateHeader& header, const fedmoe::Status& kept,
                                const Upload::VerdictDone& done) {
  keeping_.erase(header.task);
  if (!kept.ok()) return done(kept);
  verdicts_[header.task].push_back(done);
  HandleUpdate(header, Verdict{});
}

Result<Verdict> Upload::Check() {
  if (received_bytes_ != header_.total_bytes) {
    return Verdict{RejectReason::kMalformed, "the header announces " +
                                                 std::to_string(header_.total_bytes) + " bytes, " +
                                                 std::to_string(received_bytes_) + " came"};
  }
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<RandomAccessFile> bytes, file_->Read());
  const ModelSpec& spec = core_.options().run.spec;
  FEDMOE_ASSIGN_OR_RETURN(ParsedUpdate parsed, ParseUpdate(*bytes, task_.task, spec.blocks.size()));
  if (!parsed.verdict.accepted()) return parsed.verdict;
  Verdict verdict = ValidateUpdate(header_, parsed.blocks, task_, spec);
  if (!verdict.accepted()) return verdict;
  return VerifyPayloads(*bytes, parsed.blocks, spec);
}

}  // namespace fedmoe
