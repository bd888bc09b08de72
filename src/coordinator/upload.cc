// One update on its way in: pool work between gRPC's threads and the round thread.
#include <utility>

#include "coordinator/core.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

// One that comes and one that was broken off and does not know it yet. Of all tasks together, so
// that those of tasks that have lapsed do not add up.
constexpr std::size_t kMaxUploadsPerClient = 2;

}  // namespace

void CoordinatorCore::OpenUpload(const TaskAssignment& task, const UpdateHeader& header,
                                 const SessionId& session, std::uint64_t offset,
                                 const Callback<UploadStart>& reply) {
  DropParked();
  Result<std::shared_ptr<void>> ticket =
      uploads_.Take(task.client, kMaxUploadsPerClient, "uploads");
  if (!ticket.ok()) return reply(ticket.status());
  // One that begins anew leaves no use for what was parked, either.
  std::unique_ptr<IncomingUpdate> parked =
      TakeParked(task.task, session.client, header.total_bytes);
  const std::uint64_t received = parked == nullptr ? 0 : parked->size();
  if (offset > 0 && offset != received) {
    if (parked != nullptr) {
      ParkUpload(task.task, {session.client, header.total_bytes, std::move(parked)});
    }
    return reply(FailedPrecondition(
        "of the update of task " + std::to_string(task.task) + " " + std::to_string(received) +
        " bytes are here, so it cannot go on at byte " + std::to_string(offset)));
  }
  const std::uint64_t number = ++next_upload_;
  if (offset == 0) {
    DropFile(std::move(parked));
    parked = spool_->Begin(header.task, header.total_bytes);
    begun_[task.task] = number;
  }
  const auto upload = std::make_shared<Upload>(*this, session, task, header, std::move(parked),
                                               std::move(ticket).value(), number);
  if (header.total_bytes <= options_.small_bytes) arrivals_.Expect(number, SteadyClock::now());
  // Of two the later one asks for it when all of it is here.
  std::weak_ptr<Upload>& right = rights_[task.task];
  if (right.expired()) {
    right = upload;
    upload->right_ = Upload::Right::kMay;
  }
  reply(UploadStart{.verdict = std::nullopt, .upload = upload});
}

// ---- Transfers that were cut. On the round thread, but for Park().

void Upload::Park() {
  core_.Post([self = shared_from_this()] {
    CoordinatorCore::ParkedUpload parked{self->session_.client, self->header_.total_bytes,
                                         std::move(self->file_)};
    if (parked.file == nullptr || parked.file->size() == 0) return;
    // Since then one began anew, perhaps with other bytes.
    const auto begun = self->core_.begun_.find(self->task_.task);
    if (begun != self->core_.begun_.end() && self->number_ < begun->second)
      return self->core_.DropFile(std::move(parked.file));
    self->core_.ParkUpload(self->task_.task, std::move(parked));
  });
}

void CoordinatorCore::ParkUpload(TaskId task, ParkedUpload parked) {
  ParkedUpload& known = parked_[task];
  // Of two the longer one.
  if (known.file == nullptr || known.file->size() <= parked.file->size()) std::swap(known, parked);
  DropFile(std::move(parked.file));
  DropParked();
}

std::unique_ptr<IncomingUpdate> CoordinatorCore::TakeParked(TaskId task, const ClientId& client,
                                                            std::uint64_t total_bytes) {
  const auto found = parked_.find(task);
  if (found == parked_.end() || found->second.client != client ||
      found->second.total_bytes != total_bytes) {
    return nullptr;
  }
  std::unique_ptr<IncomingUpdate> file = std::move(found->second.file);
  parked_.erase(found);
  return file;
}

void CoordinatorCore::DropParked() {
  // Seldom: there may be many tasks.
  const auto is_past = [this](const auto& entry) { return !state_.tasks.contains(entry.first); };
  const std::size_t most = 2 * state_.tasks.size() + 16;
  if (begun_.size() > most) std::erase_if(begun_, is_past);
  if (rights_.size() > most) std::erase_if(rights_, is_past);
  for (auto entry = parked_.begin(); entry != parked_.end();) {
    const auto task = state_.tasks.find(entry->first);
    const bool open = task != state_.tasks.end() && (task->second.status == TaskStatus::kOpen ||
                                                     task->second.status == TaskStatus::kLost);
    if (!open) DropFile(std::move(entry->second.file));
    entry = open ? std::next(entry) : parked_.erase(entry);
  }
}

// Removing a file is work for the pool.
void CoordinatorCore::DropFile(std::unique_ptr<IncomingUpdate> file) {
  if (file == nullptr) return;
  pool_->Run([file = std::shared_ptr<IncomingUpdate>(std::move(file))]() mutable { file.reset(); });
}

void CoordinatorCore::ResumeUpdate(SessionId session, TaskId task, std::uint64_t total_bytes,
                                   Callback<std::uint64_t> done) {
  Submit<std::uint64_t>(
      std::move(done), [this, session, task, total_bytes](Callback<std::uint64_t> reply) {
        if (fedmoe::Status known = CheckSession(session); !known.ok()) return reply(known);
        const auto found = parked_.find(task);
        const bool same = found != parked_.end() && found->second.client == session.client &&
                          found->second.total_bytes == total_bytes;
        reply(same ? found->second.file->size() : 0);
      });
}

// ---- An upload.

Upload::Upload(CoordinatorCore& core, SessionId session, TaskAssignment task, UpdateHeader header,
               std::unique_ptr<IncomingUpdate> file, std::shared_ptr<void> ticket,
               std::uint64_t number)
    : core_(core),
      session_(std::move(session)),
      task_(std::move(task)),
      header_(std::move(header)),
      file_(std::move(file)),
      received_bytes_(file_->size()),
      ticket_(std::move(ticket)),
      number_(number),
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
    done(self->AppendOnWorker(bytes));
  });
}

void Upload::AppendLast(std::string bytes, Done appended, VerdictDone done) {
  core_.Touch(session_);
  // To check a small update takes less than the change to another thread.
  const bool small = header_.total_bytes <= core_.options().small_bytes;
  WorkerPool& pool = small ? *core_.syncs_ : *core_.pool_;
  pool.Run([self = shared_from_this(), bytes = std::move(bytes), appended = std::move(appended),
            done = std::move(done), small]() mutable {
    const Status status = self->AppendOnWorker(bytes);
    std::string().swap(bytes);
    appended(status);
    if (status.ok()) self->FinishOnWorker(done, small);
  });
}

Status Upload::AppendOnWorker(const std::string& bytes) {
  core_.CountUp(bytes.size());
  received_bytes_ += bytes.size();
  if (received_bytes_ > header_.total_bytes) return Status::Ok();
  return file_->Append(AsBytes(std::string_view(bytes)));
}

void Upload::Finish(VerdictDone done) {
  core_.pool_->Run(
      [self = shared_from_this(), done = std::move(done)] { self->FinishOnWorker(done, false); });
}

void Upload::FinishOnWorker(const VerdictDone& done, bool waits) {
  Result<Verdict> content = Check();
  if (!content.ok()) return done(content.status());
  if (!content->accepted()) file_.reset();
  if (content->accepted() && Use()) {
    if (waits) return Keep(done);
    core_.syncs_->Run([self = shared_from_this(), done] { self->Keep(done); });
    return;
  }
  core_.PostOr(
      [self = shared_from_this(), verdict = *content, done] { self->KeepIfFirst(verdict, done); },
      [done] { done(Cancelled("the coordinator is going down")); });
}

// On the round thread: there are, or were, several. Only one update of a task may become durable:
// one that comes beside it, or after it, must not take the place of the bytes that were counted.
void Upload::KeepIfFirst(const Verdict& content, const VerdictDone& done) {
  const auto task = core_.state_.tasks.find(task_.task);
  const bool open =
      task != core_.state_.tasks.end() && core_.state_.phase == Phase::kReporting &&
      (task->second.status == TaskStatus::kOpen || task->second.status == TaskStatus::kLost);
  if (!open || !content.accepted()) {
    core_.verdicts_[task_.task].push_back(done);
    return core_.HandleUpdate(header_, content);
  }
  std::weak_ptr<Upload>& holder = core_.rights_[task_.task];
  if (const std::shared_ptr<Upload> other = holder.lock(); other != nullptr && !other->Revoke()) {
    return done(Unavailable("another upload of task " + std::to_string(task_.task) +
                            " is being taken in; ask again"));
  }
  holder = weak_from_this();
  right_ = Right::kUsed;
  core_.syncs_->Run([self = shared_from_this(), done] { self->Keep(done); });
}

void Upload::Keep(const VerdictDone& done) {
  const Status kept = file_->Keep();
  if (kept.ok()) return core_.MakeUpdateDurable(shared_from_this(), done);
  core_.PostOr(
      [self = shared_from_this(), kept, done] { self->core_.CountKept(self->header_, kept, done); },
      [done] { done(Cancelled("the coordinator is going down")); });
}

// An update that has its name and is being made durable: a large one's bytes by one job, its name
// by another.
struct CoordinatorCore::KeptUpdate {
  std::shared_ptr<Upload> upload;
  Upload::VerdictDone done;
  std::mutex mutex;
  int left = 2;
  fedmoe::Status status;
};

// Waiting for the disk takes no processor: its threads are more than the pool's. Of large updates
// that get their names while it is busy, one sync makes all names durable.
void CoordinatorCore::MakeUpdateDurable(std::shared_ptr<Upload> upload, Upload::VerdictDone done) {
  const auto update = std::make_shared<KeptUpdate>();
  update->upload = std::move(upload);
  update->done = std::move(done);
  if (!update->upload->file_->HasFile()) {
    return SyncArrived(arrivals_.Arrive(update->upload->number_, update, SteadyClock::now()));
  }
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    named_.push_back(update);
    first = named_.size() == 1;
  }
  syncs_->Run([this, update] { Synced(update, update->upload->file_->Sync()); });
  if (!first) return;
  syncs_->Run([this] {
    std::vector<std::shared_ptr<KeptUpdate>> group;
    {
      const std::lock_guard lock(mutex_);
      group = std::exchange(named_, {});
    }
    const fedmoe::Status synced = spool_->SyncNames();
    for (const auto& each : group) Synced(each, synced);
  });
}

void CoordinatorCore::SyncArrived(const KeptUpdates& updates) {
  if (updates.empty()) return;
  // The first one's sync has the others' bytes, too.
  for (const auto& update : updates) {
    update->status = update->upload->file_->Sync();
    update->upload->file_.reset();
  }
  PostOr(
      [this, updates] {
        for (const auto& update : updates) {
          CountKept(update->upload->header_, update->status, update->done);
        }
      },
      [updates] {
        for (const auto& update : updates) {
          update->done(Cancelled("the coordinator is going down"));
        }
      });
}

void CoordinatorCore::Synced(const std::shared_ptr<KeptUpdate>& update,
                             const fedmoe::Status& status) {
  {
    const std::lock_guard lock(update->mutex);
    if (update->status.ok()) update->status = status;
    if (--update->left > 0) return;
  }
  // What it has beside what is kept goes here, where files may be waited for.
  update->upload->file_.reset();
  PostOr([this, update] { CountKept(update->upload->header_, update->status, update->done); },
         [update] { update->done(Cancelled("the coordinator is going down")); });
}

void CoordinatorCore::CountKept(const UpdateHeader& header, const fedmoe::Status& kept,
                                const Upload::VerdictDone& done) {
  rights_.erase(header.task);
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
