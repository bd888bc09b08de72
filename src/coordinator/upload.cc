// One update on its way in: pool work between gRPC's threads and the round thread.
#include <utility>

#include "coordinator/core.h"
#include "storage/update_format.h"

namespace fedmoe {

Upload::Upload(CoordinatorCore& core, SessionId session, TaskAssignment task, UpdateHeader header,
               std::unique_ptr<IncomingUpdate> file)
    : core_(core),
      session_(std::move(session)),
      task_(std::move(task)),
      header_(std::move(header)),
      file_(std::move(file)) {}

void Upload::Append(std::string bytes, Done done) {
  core_.Touch(session_);
  core_.pool_->Run([self = shared_from_this(), bytes = std::move(bytes), done = std::move(done)] {
    self->core_.CountUp(bytes.size());
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
  if (content->accepted()) {
    if (const Status kept = file_->Keep(); !kept.ok()) return done(kept);
  }
  file_.reset();
  CoordinatorCore& core = core_;
  core.PostOr(
      [&core, header = header_, verdict = *content, done] {
        core.verdicts_[header.task].push_back(done);
        core.Handle(UpdateReceived{.at_ms = core.Now(), .header = header, .content = verdict});
      },
      [done] { done(Cancelled("the coordinator is going down")); });
}

Result<Verdict> Upload::Check() {
  if (file_->size() != header_.total_bytes) {
    return Verdict{RejectReason::kMalformed, "the header announces " +
                                                 std::to_string(header_.total_bytes) + " bytes, " +
                                                 std::to_string(file_->size()) + " came"};
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
