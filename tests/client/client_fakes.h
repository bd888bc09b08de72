// A coordinator by script, a trainer that trains nothing, and a log that can be read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include "client/client_loop.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {

// Two experts of two values each, and a trunk of four.
inline ModelSpec TinySpec() {
  ModelSpec spec;
  spec.preset = "tiny";
  spec.experts = 2;
  spec.top_k = 1;
  spec.blocks.push_back({.name = "trunk", .shape = {4}, .init_key = "trunk"});
  for (int e = 0; e < 2; ++e) {
    spec.blocks.push_back({.name = fmt::format("experts.{}", e),
                           .shape = {2},
                           .owner = BlockOwner::kExpert,
                           .expert = e,
                           .merge = MergeRule::kByTokens,
                           .init_key = "expert"});
  }
  return spec;
}

inline std::vector<float> ShardOf(int shard) {
  return std::vector<float>(shard == 0 ? 4 : 2, 1.0F + static_cast<float>(shard));
}

inline ShardReference ReferenceTo(int shard) {
  const std::vector<float> values = ShardOf(shard);
  return {shard, Sha256Of(std::as_bytes(std::span(values))),
          static_cast<std::int64_t>(values.size() * sizeof(float))};
}

inline TaskAssignment TrainTask(TaskId id, RoundNumber round = 1, TaskId last_committed = 0) {
  TaskAssignment task;
  task.task = id;
  task.client = "alice";
  task.round = round;
  task.version = round - 1;
  task.experts = {1};
  task.shards = {ReferenceTo(0), ReferenceTo(2)};
  task.last_committed_task = last_committed;
  return task;
}

inline NextTaskReply TaskReply(TaskAssignment task) {
  return {.kind = NextTaskReply::Kind::kTask, .task = std::move(task), .detail = ""};
}

inline NextTaskReply RunOver() {
  return {.kind = NextTaskReply::Kind::kRunOver, .task = {}, .detail = "completed"};
}

// Each call takes the next entry of its script; a script that is empty gives the call's default.
// Every call is noted in `calls`, in order.
class FakeTransport : public Transport {
 public:
  template <typename T>
  using Script = std::deque<std::function<T()>>;

  Script<Result<RegisterReply>> registrations;
  Script<Result<NextTaskReply>> polls;  // default: the run is over
  Script<Result<HeartbeatReply>> beats;
  std::function<Result<HeartbeatReply>(TaskId)> on_beat;  // instead of `beats`, where set
  Script<Status> fetches;               // before the transfer; default: it succeeds
  Script<Result<Verdict>> submissions;  // default: accepted
  Script<Status> returns;
  std::function<void(std::vector<std::byte>&)> damage;  // applied to the bytes of each shard sent
  std::uint64_t session = 0;
  std::string run_id = "run-1";
  Milliseconds heartbeat_interval_ms = 1'000'000;
  std::vector<PollRequest> requests;
  std::vector<UpdateHeader> headers;
  std::vector<EvaluationResult> evaluations;

  RegisterReply Welcome() {
    return {.run_id = run_id,
            .run_name = "test",
            .protocol = 1,
            .session = ++session,
            .preset = "tiny",
            .options = {},
            .spec_digest = SpecDigest(TinySpec()),
            .seed = 7,
            .heartbeat_interval_ms = heartbeat_interval_ms,
            .capacity = {.experts = 1, .reason = CapacityReason::kMemory}};
  }

  Result<RegisterReply> Register(const RegisterRequest& request) override {
    Note("register " + request.client);
    if (cancelled(false)) return Cancelled("cancelled");
    return Next<Result<RegisterReply>>(registrations, [this] { return Welcome(); });
  }
  Result<NextTaskReply> NextTask(const PollRequest& request) override {
    Note(fmt::format("poll {}", request.session.session));
    requests.push_back(request);
    if (cancelled(false)) return Cancelled("cancelled");
    return Next<Result<NextTaskReply>>(polls, [] { return RunOver(); });
  }
  Result<HeartbeatReply> Beat(const SessionId& id, TaskId task, double) override {
    Note(fmt::format("beat {} {}", id.session, task));
    if (on_beat) return on_beat(task);
    return Next<Result<HeartbeatReply>>(beats, [] { return HeartbeatReply{}; });
  }
  Status FetchShards(const SessionId&, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool, std::uint64_t) override {
    std::string names;
    for (const ShardReference& shard : shards) names += fmt::format(" {}", shard.shard);
    Note("fetch" + names);
    FEDMOE_RETURN_IF_ERROR(Next<Status>(fetches, [] { return Status::Ok(); }));
    for (const ShardReference& shard : shards) {
      const std::vector<float> values = ShardOf(shard.shard);
      const auto view = std::as_bytes(std::span(values));
      std::vector<std::byte> bytes(view.begin(), view.end());
      if (damage) damage(bytes);
      // In two pieces, as a stream would.
      const auto half = std::span<const std::byte>(bytes).first(4);
      FEDMOE_RETURN_IF_ERROR(sink(shard, 0, half));
      FEDMOE_RETURN_IF_ERROR(sink(shard, 4, std::span<const std::byte>(bytes).subspan(4)));
    }
    return Status::Ok();
  }
  Result<Verdict> SubmitUpdate(const SessionId& id, const UpdateHeader& header,
                               const UpdateSource& encode, bool again) override {
    Note(fmt::format("submit{} {} {}", again ? " again" : "", id.session, header.task));
    std::uint64_t bytes = 0;
    FEDMOE_RETURN_IF_ERROR(encode([&bytes](std::span<const std::byte> piece) {
      bytes += piece.size();
      return Status::Ok();
    }));
    EXPECT_EQ(bytes, header.total_bytes);
    headers.push_back(header);
    return Next<Result<Verdict>>(submissions, [] { return Verdict{}; });
  }
  Status SubmitEvaluation(const SessionId&, const EvaluationResult& result) override {
    Note(fmt::format("evaluation {}", result.task));
    evaluations.push_back(result);
    return Status::Ok();
  }
  Status ReturnTask(const SessionId&, TaskId task, const std::string& why) override {
    Note(fmt::format("return {}: {}", task, why));
    if (cancelled(true)) return Cancelled("cancelled");
    return Next<Status>(returns, [] { return Status::Ok(); });
  }
  Status Leave(const SessionId& id) override {
    Note(fmt::format("leave {}", id.session));
    return Status::Ok();
  }
  void CancelWork() override { Cancel(false); }
  void CancelAll() override { Cancel(true); }

  // Blocks as a parked poll does, until cancelled. True when it was.
  bool Park() {
    std::unique_lock<std::mutex> lock(mutex_);
    parked_ = true;
    wake_.notify_all();
    wake_.wait(lock, [this] { return cancel_work_; });
    return true;
  }
  // For another thread: until a call is parked.
  void WaitForParked() {
    std::unique_lock<std::mutex> lock(mutex_);
    wake_.wait(lock, [this] { return parked_; });
  }
  std::vector<std::string> calls() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return calls_;
  }
  bool cancelled(bool all) const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return all ? cancel_all_ : cancel_work_;
  }

 private:
  template <typename T>
  T Next(Script<T>& script, const std::function<T()>& otherwise) {
    if (script.empty()) return otherwise();
    const std::function<T()> step = std::move(script.front());
    script.pop_front();
    return step();
  }
  void Note(std::string call) {
    const std::lock_guard<std::mutex> lock(mutex_);
    calls_.push_back(std::move(call));
  }
  void Cancel(bool all) {
    const std::lock_guard<std::mutex> lock(mutex_);
    cancel_work_ = true;
    cancel_all_ = cancel_all_ || all;
    wake_.notify_all();
  }

  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::string> calls_;
  bool parked_ = false;
  bool cancel_work_ = false;
  bool cancel_all_ = false;
};

// Hands in a delta of ones for the trunk and the experts held, and its task id as client state.
class FakeTrainer final : public Trainer {
 public:
  Status prepared;
  bool with_state = false;
  std::deque<std::function<Status(const TrainContext&)>> script;  // before each piece of work
  std::vector<std::string> states;                                // that training started from
  int trained = 0;
  std::function<void()> on_prepare = [] {};

  Status Prepare(const ModelSpec& spec, std::uint64_t) override {
    on_prepare();
    spec_ = spec;
    return prepared;
  }
  // Reads all that training reads.
  void TouchAll() {
    for (const ParameterBlock& block : spec_.blocks) touched_ += block.name.size();
    for (const std::byte byte : state_) touched_ += static_cast<std::size_t>(byte);
  }
  Result<TrainResult> Train(const TaskAssignment& task, const ShardValues& shards,
                            std::span<const std::byte> state,
                            const TrainContext& context) override {
    ++trained;
    state_ = state;
    states.emplace_back(reinterpret_cast<const char*>(state.data()), state.size());
    FEDMOE_RETURN_IF_ERROR(RunScript(context));
    TrainResult result;
    result.feedback.examples = examples();
    for (const ShardReference& shard : task.shards) {
      EXPECT_EQ(std::vector<float>(shards(shard.shard).begin(), shards(shard.shard).end()),
                ShardOf(shard.shard));
      result.blocks.push_back({shard.shard, std::vector<float>(shard.bytes / 4, 1.0F)});
    }
    if (with_state) {
      const std::string text = fmt::format("state of {}", task.task);
      result.state.assign(reinterpret_cast<const std::byte*>(text.data()),
                          reinterpret_cast<const std::byte*>(text.data()) + text.size());
    }
    return result;
  }
  Result<EvaluationResult> Evaluate(const TaskAssignment&, const ShardValues&,
                                    std::span<const std::byte>,
                                    const TrainContext& context) override {
    FEDMOE_RETURN_IF_ERROR(RunScript(context));
    return EvaluationResult{.task = 0, .correct = 3, .loss = 1.5, .examples = 4};
  }
  std::int64_t examples() const override { return 512; }

 private:
  ModelSpec spec_;
  std::span<const std::byte> state_;
  std::size_t touched_ = 0;

  Status RunScript(const TrainContext& context) {
    if (script.empty()) return Status::Ok();
    const auto step = std::move(script.front());
    script.pop_front();
    return step(context);
  }
};

// Works until it is cancelled.
inline Status UntilCancelled(const TrainContext& context) {
  while (!context.cancelled()) std::this_thread::yield();
  return Cancelled("cancelled");
}

// One client with all that it needs.
class ClientHarness : public ::testing::Test {
 protected:
  ClientHarness() {
    auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(log_);
    auto logger = std::make_shared<spdlog::logger>("test", sink);
    logger->set_pattern("%v");
    before_ = spdlog::default_logger();
    spdlog::set_default_logger(logger);
    options_ = {
        .name = "alice", .coordinator = "host:7070", .retry_initial_ms = 1, .retry_max_ms = 2};
    options_.build_spec = [](const std::string&, const auto&) -> Result<ModelSpec> {
      return TinySpec();
    };
    OpenState();
  }
  ~ClientHarness() override { spdlog::set_default_logger(before_); }

  void OpenState() {
    state_.reset();
    auto opened = ClientState::Open(PosixFileSystem(), directory_.path());
    if (!opened.ok()) throw std::runtime_error(opened.status().ToString());
    state_ = std::move(opened).value();
  }
  ClientLoop& Make() {
    loop_ = std::make_unique<ClientLoop>(transport_, trainer_, *state_, clock_, options_);
    return *loop_;
  }
  ClientOutcome Run() { return Make().Run(); }
  std::string log() const { return log_.str(); }

  TempDir directory_;
  FakeTransport transport_;
  FakeTrainer trainer_;
  SteadyClock clock_;
  ClientLoopOptions options_;
  std::unique_ptr<ClientState> state_;
  std::unique_ptr<ClientLoop> loop_;

 private:
  std::ostringstream log_;
  std::shared_ptr<spdlog::logger> before_;
};

}  // namespace fedmoe
