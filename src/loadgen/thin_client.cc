#include "loadgen/thin_client.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <grpcpp/grpcpp.h>
#include <spdlog/spdlog.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "common/version.h"
#include "moe/model_options.h"
#include "wire/chunk_pacer.h"
#include "wire/from_proto.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using Seconds = std::chrono::duration<double>;
using Clock = std::chrono::steady_clock;

constexpr Milliseconds kRetryInitialMs = 100;
constexpr Milliseconds kRetryMaxMs = 5'000;
constexpr std::chrono::seconds kUnaryDeadline{60};
constexpr int kResends = 3;
constexpr int kLeaves = 5;  // tries, where the coordinator is too busy

double Since(Clock::time_point begin) { return Seconds(Clock::now() - begin).count(); }

// Shares that sum to 1 in each layer, some experts twice as likely as others.
std::vector<double> RandomAffinity(const ModelSpec& spec, CounterRng& random) {
  std::vector<double> affinity;
  for (int layer = 0; layer < spec.layers && spec.experts > 0; ++layer) {
    std::vector<double> shares(static_cast<std::size_t>(spec.ExpertsPerLayer()));
    double sum = 0.0;
    for (double& share : shares) sum += share = 0.5 + random.NextUniform();
    for (const double share : shares) affinity.push_back(share / sum);
  }
  return affinity;
}

}  // namespace

Result<const ModelSpec*> SharedTemplate::SpecOf(const RegisterReply& run) {
  const std::lock_guard lock(mutex_);
  if (spec_ == nullptr) {
    FEDMOE_ASSIGN_OR_RETURN(const ModelOptions model, ParseModelOptions(run.preset, run.options));
    FEDMOE_ASSIGN_OR_RETURN(ModelSpec spec, BuildModelSpec(model));
    spec_ = std::make_unique<const ModelSpec>(std::move(spec));
  }
  if (SpecDigest(*spec_) != run.spec_digest) {
    return FailedPrecondition("the coordinator's model is not the one that this build makes of it");
  }
  return spec_.get();
}

const UpdateTemplate& SharedTemplate::For(const TaskAssignment& task) {
  const UploadOptions& upload = task.training.upload;
  const std::lock_guard lock(mutex_);
  auto& made = templates_[{upload.encoding, upload.top_k_fraction, upload.zstd}];
  if (made == nullptr) made = std::make_unique<const UpdateTemplate>(*spec_, upload);
  return *made;
}

void SharedTemplate::WarnWhereOutOfReach(const UpdateSizes& wanted, const TaskAssignment& task) {
  const UpdateSizes sizes = For(task).Sizes(task);
  if (wanted.least >= sizes.least && wanted.most <= sizes.most) return;
  const std::lock_guard lock(mutex_);
  if (std::exchange(warned_, true)) return;
  spdlog::warn(
      "updates of {} to {} bytes are asked for; this model's with {} experts as {} have {} to {}, "
      "and the nearest are sent",
      wanted.least, wanted.most, task.experts.size(), EncodingName(task.training.upload.encoding),
      sizes.least, sizes.most);
}

// The context of one call, known to its client while it is under way, so that Stop() reaches it.
class ThinClient::Call {
 public:
  explicit Call(ThinClient& client) : client_(&client) {
    const std::lock_guard lock(client.mutex_);
    client.under_way_ = &context;
    if (client.stopping_) context.TryCancel();
  }
  ~Call() { Done(); }
  // First of all in the call's last callback: the client may be gone before this object is.
  void Done() {
    ThinClient* const client = std::exchange(client_, nullptr);
    if (client == nullptr) return;
    const std::lock_guard lock(client->mutex_);
    if (client->under_way_ == &context) client->under_way_ = nullptr;
  }
  grpc::ClientContext context;

 private:
  ThinClient* client_;
};

class ThinClient::Fetch final : public grpc::ClientReadReactor<v1::ShardChunk> {
 public:
  Fetch(ThinClient& client, std::vector<ShardReference> shards)
      : client_(client),
        call_(client),
        request_(FetchToProto(client.session_, shards)),
        shards_(std::move(shards)) {
    for (const ShardReference& shard : shards_) lengths_.push_back(shard.bytes);
    client_.stub_.async()->FetchShards(&call_.context, &request_, this);
    StartRead(&chunk_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    Take(chunk_);
    for (const v1::ShardChunk& chunk : chunk_.more()) Take(chunk);
    if (!broken_.ok()) call_.context.TryCancel();
    StartRead(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    call_.Done();
    ThinClient& client = client_;
    Status outcome = broken_.ok() ? FromGrpc(status) : broken_;
    std::uint64_t expected = 0;
    for (const std::int64_t length : lengths_) expected += static_cast<std::uint64_t>(length);
    if (outcome.ok() && bytes_ != expected) {
      outcome = DataLoss(fmt::format("{} of {} bytes of shards came", bytes_, expected));
    }
    client.observer_.OnShards(bytes_, Since(begin_));
    delete this;
    if (!outcome.ok()) return client.Recover(outcome);
    client.Hold();
  }

 private:
  void Take(const v1::ShardChunk& chunk) {
    const Status intact = CheckChunk("shard chunk", chunk.offset(), chunk.data(), chunk.crc32c());
    bytes_ += chunk.data().size();
    const Result<ShardReference> shard = ShardOfChunk(chunk, shards_);
    if (shard.ok()) lengths_[static_cast<std::size_t>(chunk.index())] = shard->bytes;
    if (broken_.ok()) broken_ = intact.ok() ? shard.status() : intact;
  }

  ThinClient& client_;
  Call call_;
  const v1::FetchShardsRequest request_;
  const std::vector<ShardReference> shards_;
  std::vector<std::int64_t> lengths_;  // of each as it travels
  v1::ShardChunk chunk_;
  std::uint64_t bytes_ = 0;
  Status broken_;
  const Clock::time_point begin_ = Clock::now();
};

class ThinClient::Submit final : public grpc::ClientWriteReactor<v1::UpdateChunk> {
 public:
  Submit(ThinClient& client, bool cut)
      : client_(client),
        call_(client),
        update_(client.MakeUpdate()),
        cut_(cut),
        pacer_(static_cast<std::size_t>(client.tasks_)) {
    client_.stub_.async()->SubmitUpdate(&call_.context, &reply_, this);
    *chunk_.mutable_header() = ToProto(
        client.session_, {.task = client.task_.task,
                          .client = client.name_,
                          .round = client.task_.round,
                          .total_bytes = update_.total_bytes(),
                          .feedback = FeedbackOf(*client.spec_, update_.experts(),
                                                 client.behaviour_.examples, client.affinity_)});
    StartWrite(&chunk_);
    StartCall();
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return;  // OnDone says why
    if (cut_ && sent_ >= update_.total_bytes() / 2) return call_.context.TryCancel();
    std::string& data = *chunk_.mutable_data()->mutable_data();
    pacer_.Record(data.size(), Since(write_begin_));
    data.resize(std::min<std::uint64_t>(pacer_.next_bytes(), update_.total_bytes() - sent_));
    if (data.empty()) return StartWritesDone();
    update_.Take(std::as_writable_bytes(std::span(data.data(), data.size())));
    sent_ += data.size();
    chunk_.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view(data))));
    write_begin_ = Clock::now();
    StartWrite(&chunk_);
  }

  void OnDone(const grpc::Status& status) override {
    call_.Done();
    ThinClient& client = client_;
    Result<Verdict> verdict = Verdict{};
    if (const Status outcome = FromGrpc(status); !outcome.ok()) {
      verdict = outcome;
    } else {
      verdict = FromProto(reply_);
    }
    const ThinFleetObserver::Upload upload{
        .update_bytes = update_.total_bytes(), .sent_bytes = sent_, .seconds = Since(begin_)};
    const bool cut = cut_;
    delete this;
    if (cut && !client.stopping()) return client.Send();
    if (!verdict.ok()) return client.SendAgain(verdict.status());
    client.observer_.OnVerdict(client.task_, *verdict, upload);
    client.backoff_.Reset();
    client.Poll();
  }

 private:
  ThinClient& client_;
  Call call_;
  TemplateUpdate update_;
  const bool cut_;
  v1::UpdateChunk chunk_;
  v1::SubmitUpdateReply reply_;
  std::uint64_t sent_ = 0;
  ChunkPacer pacer_;
  Clock::time_point write_begin_;
  const Clock::time_point begin_ = Clock::now();
};

ThinClient::ThinClient(std::string name, v1::Coordinator::Stub& stub, const Behaviour& behaviour,
                       SharedTemplate& shared, ThinFleetObserver& observer)
    : name_(std::move(name)),
      stub_(stub),
      behaviour_(behaviour),
      shared_(shared),
      observer_(observer),
      random_(CounterRng::For(behaviour.seed, name_, 0, "thin client")),
      backoff_(name_, kRetryInitialMs, kRetryMaxMs) {}

ThinClient::~ThinClient() = default;

void ThinClient::Start() { Register(); }

void ThinClient::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  if (under_way_ != nullptr) under_way_->TryCancel();
  if (alarm_ != nullptr) alarm_->Cancel();
}

void ThinClient::End(const Status& status) { observer_.OnEnd(status); }

void ThinClient::After(Milliseconds delay_ms, std::function<void()> next) {
  if (delay_ms <= 0 && !stopping()) return next();
  // Held until the alarm is set: one that is not cannot be cancelled.
  const std::lock_guard lock(mutex_);
  // In place of the last one, whose callback may be what runs here: it holds on to what it needs.
  alarm_ = std::make_unique<grpc::Alarm>();
  const Milliseconds delay = stopping() ? 0 : delay_ms;
  alarm_->Set(std::chrono::system_clock::now() + std::chrono::milliseconds(delay),
              [this, next = std::move(next)](bool) {
                {
                  // The one who set it is through.
                  const std::lock_guard lock(mutex_);
                }
                if (stopping()) return End(Cancelled("stopped"));
                next();
              });
}

void ThinClient::Recover(const Status& status) {
  if (over_) {
    const bool again = status.code() == StatusCode::kResourceExhausted && ++leaves_ < kLeaves;
    if (!again || stopping()) return End(Status::Ok());
    return After(backoff_.Next(), [this] { Leave(); });
  }
  if (stopping()) return End(Cancelled("stopped"));
  switch (status.code()) {
    case StatusCode::kUnavailable:
    case StatusCode::kResourceExhausted:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kCancelled:
    case StatusCode::kAborted:
    case StatusCode::kDataLoss:
      break;
    default:
      return End(status);
  }
  observer_.OnRetry(status);
  After(backoff_.Next(), [this] { Register(); });
}

template <typename Request, typename Reply, typename Next>
void ThinClient::Ask(UnaryMethod<Request, Reply> method, Request request, Deadline deadline,
                     Next next) {
  struct Asked {
    Asked(ThinClient& client, Request request) : call(client), request(std::move(request)) {}
    Call call;
    const Request request;
    Reply reply;
  };
  auto asked = std::make_shared<Asked>(*this, std::move(request));
  if (deadline == Deadline::kSoon) {
    asked->call.context.set_deadline(std::chrono::system_clock::now() + kUnaryDeadline);
  }
  Asked& held = *asked;
  (stub_.async()->*method)(
      &held.call.context, &held.request, &held.reply,
      [this, call = std::move(asked), next = std::move(next)](const grpc::Status& status) mutable {
        call->call.Done();
        const Reply reply = std::move(call->reply);
        // The context holds on to the channel, and the fleet may be gone once
        // its last client is through: a channel must not end on gRPC's own
        // threads.
        call.reset();
        if (!status.ok()) return Recover(FromGrpc(status));
        next(reply);
      });
}

void ThinClient::Register() {
  const RegisterRequest request{
      .client = name_,
      .instance = "thin-" + name_.substr(0, 50),
      .protocol_min = kProtocolMin,
      .protocol_max = kProtocolMax,
      .profile = {.examples = behaviour_.examples, .max_experts = behaviour_.max_experts}};
  Ask(&Methods::Register, ToProto(request), Deadline::kSoon,
      [this](const v1::RegisterReply& reply) {
        Result<RegisterReply> run = FromProto(reply);
        if (!run.ok()) return End(run.status());
        run_ = std::move(run).value();
        Result<const ModelSpec*> spec = shared_.SpecOf(run_);
        if (!spec.ok()) return End(spec.status());
        spec_ = *spec;
        if (affinity_.empty()) affinity_ = RandomAffinity(*spec_, random_);
        session_ = {name_, run_.session};
        observer_.OnRegistered();
        Poll();
      });
}

void ThinClient::Poll() {
  if (stopping()) return End(Cancelled("stopped"));
  PollRequest request(session_);
  // As a real client: once it has fetched.
  if (!held_.empty() && held_.size() <= kMaxHeld) {
    request.carry_bytes = kMaxCarryBytes;
    for (const Digest& digest : held_) request.held.push_back(DigestPrefix(digest));
  }
  Ask(&Methods::NextTask, ToProto(request), Deadline::kNone,
      [this](const v1::NextTaskReply& reply) {
        Result<NextTaskReply> next = FromProto(reply, name_);
        if (!next.ok()) return End(next.status());
        backoff_.Reset();
        switch (next->kind) {
          case NextTaskReply::Kind::kTask:
            tasks_ = next->tasks;
            Unload(next->task, next->carried);
            return Take(std::move(next->task));
          case NextTaskReply::Kind::kNothingYet:
            return Poll();
          case NextTaskReply::Kind::kRunOver:
            return Leave();
        }
      });
}

// The coordinator waits for word that the end has been heard; whether that arrives or not, there is
// nothing left to do.
void ThinClient::Leave() {
  over_ = true;
  v1::LeaveRequest request;
  *request.mutable_session() = ToProto(session_);
  Ask(&Methods::Leave, std::move(request), Deadline::kSoon,
      [this](const v1::Empty&) { End(Status::Ok()); });
}

void ThinClient::Unload(const TaskAssignment& task, const std::vector<CarriedShard>& carried) {
  if (carried.empty()) return;
  std::uint64_t bytes = 0;
  for (const CarriedShard& shard : carried) {
    held_.push_back(task.shards[static_cast<std::size_t>(shard.index)].digest);
    bytes += shard.bytes.size();
  }
  observer_.OnCarried(bytes);
}

void ThinClient::Take(TaskAssignment task) {
  task_ = std::move(task);
  cut_ = false;
  resends_ = 0;
  observer_.OnTask(task_);
  const std::vector<ExpertIndex>& experts = task_.experts;
  if (std::ranges::adjacent_find(experts, std::greater_equal()) != experts.end() ||
      (!experts.empty() && experts.back() >= spec_->experts)) {
    return End(Internal(
        fmt::format("the coordinator's task has experts {}; they must rise and be below {}",
                    fmt::join(experts, ", "), spec_->experts)));
  }
  if (task_.kind == TaskKind::kEvaluate) return Evaluate();
  if (Draw(behaviour_.returns)) return ReturnTask();
  if (Draw(behaviour_.vanishes)) {
    return After(behaviour_.away_ms, [this] { Register(); });
  }
  cut_ = Draw(behaviour_.cuts);
  DrawSize();
  FetchShards();
}

void ThinClient::DrawSize() {
  const UpdateSizes& sizes = behaviour_.update_bytes;
  if (sizes.most == 0) return;
  shared_.WarnWhereOutOfReach(sizes, task_);
  update_bytes_ = sizes.least + random_.NextBelow(sizes.most - sizes.least + 1);
}

TemplateUpdate ThinClient::MakeUpdate() const {
  const UpdateTemplate& made = shared_.For(task_);
  return update_bytes_ > 0 ? made.Make(task_, update_bytes_) : made.Make(task_);
}

void ThinClient::FetchShards() {
  std::vector<ShardReference> missing;
  for (const ShardReference& shard : task_.shards) {
    if (std::find(held_.begin(), held_.end(), shard.digest) == held_.end())
      missing.push_back(shard);
  }
  if (missing.empty()) return Hold();
  new Fetch(*this, std::move(missing));  // deletes itself when it is done
}

// All shards of the task are here; those of earlier ones are let go.
void ThinClient::Hold() {
  held_.clear();
  for (const ShardReference& shard : task_.shards) held_.push_back(shard.digest);
  Think();
}

void ThinClient::Think() {
  Milliseconds think_ms = behaviour_.think_ms;
  if (behaviour_.jitter_ms > 0) {
    think_ms += static_cast<Milliseconds>(
        random_.NextBelow(static_cast<std::uint64_t>(behaviour_.jitter_ms) + 1));
  }
  Beat(think_ms);
}

// A sign of life every heartbeat interval, until the time is up.
void ThinClient::Beat(Milliseconds left_ms) {
  const Milliseconds interval = std::max<Milliseconds>(1, run_.heartbeat_interval_ms);
  if (left_ms <= interval) return After(left_ms, [this] { Send(); });
  After(interval, [this, left_ms, interval] {
    Ask(&Methods::Heartbeat, HeartbeatToProto(session_, task_.task, 0.5), Deadline::kSoon,
        [this, left_ms, interval](const v1::HeartbeatReply& reply) {
          if (reply.cancel()) return Poll();
          Beat(left_ms - interval);
        });
  });
}

// The coordinator may be at the last one still, or restarting: as the real client, a few times.
void ThinClient::SendAgain(const Status& status) {
  const bool passes =
      status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kCancelled;
  if (!passes || stopping() || ++resends_ > kResends) return Recover(status);
  observer_.OnRetry(status);
  After(backoff_.Next(), [this] { Send(); });
}

void ThinClient::Send() {
  new Submit(*this, std::exchange(cut_, false));  // deletes itself when it is done
}

void ThinClient::Evaluate() {
  const EvaluationResult result{.task = task_.task,
                                .correct = random_.NextUniform() * 100.0,
                                .loss = 100.0,
                                .examples = 100.0};
  Ask(&Methods::SubmitEvaluation, ToProto(session_, result), Deadline::kSoon,
      [this](const v1::Empty&) { Poll(); });
}

void ThinClient::ReturnTask() {
  Ask(&Methods::ReturnTask, ReturnToProto(session_, task_.task, "as the load generator was told"),
      Deadline::kSoon, [this](const v1::Empty&) { Poll(); });
}

}  // namespace fedmoe
