// A client by hand: each call, honest or not, is the test's.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/version.h"
#include "storage/update_format.h"
#include "tests/coordinator/fleet.h"

namespace fedmoe {

// The answer of a call that is under way.
template <typename T>
class Pending {
 public:
  std::function<void(Result<T>)> Callback() {
    return [promise = promise_](Result<T> result) { promise->set_value(std::move(result)); };
  }
  bool answered(std::chrono::milliseconds within = {}) const {
    return future_.wait_for(within) == std::future_status::ready;
  }
  Result<T> Get() { return future_.get(); }

 private:
  std::shared_ptr<std::promise<Result<T>>> promise_ = std::make_shared<std::promise<Result<T>>>();
  std::future<Result<T>> future_ = promise_->get_future();
};

struct RawClient {
  CoordinatorSlot& slot;
  ClientId name;
  ModelSpec spec = FleetSpec();
  InProcessTransport transport{slot};
  SessionId session{};
  TaskAssignment task{};

  RegisterRequest Request() const {
    return {.client = name,
            .instance = "instance of " + name,
            .protocol_min = kProtocolMin,
            .protocol_max = kProtocolMax,
            .profile = {.examples = 10, .max_experts = 2}};
  }
  void Join() {
    const Result<RegisterReply> reply = transport.Register(Request());
    ASSERT_OK(reply.status());
    session = {name, reply->session};
  }
  void TakeTask() {
    Result<NextTaskReply> reply = transport.NextTask(session);
    while (reply.ok() && reply->kind == NextTaskReply::Kind::kNothingYet) {
      reply = transport.NextTask(session);
    }
    ASSERT_OK(reply.status());
    ASSERT_EQ(reply->kind, NextTaskReply::Kind::kTask);
    task = reply->task;
  }
  // Is told that the run is over, and says that it heard.
  void HearTheEnd(int rounds = 1) {
    Result<NextTaskReply> reply = transport.NextTask(session);
    while (reply.ok() && reply->kind == NextTaskReply::Kind::kNothingYet) {
      reply = transport.NextTask(session);
    }
    ASSERT_OK(reply.status());
    ASSERT_EQ(reply->kind, NextTaskReply::Kind::kRunOver);
    EXPECT_EQ(reply->detail, "all " + std::to_string(rounds) + " rounds are done");
    ASSERT_OK(transport.Leave(session));
  }
  TrainResult Answer() const {
    const std::vector<float> zeros(64, 0.0f);
    return FakeTrainer::Answer(
        spec, task,
        [&](int shard) {
          return std::span(zeros).first(static_cast<std::size_t>(spec.ShardElements(shard)));
        },
        {}, 10);
  }
  UpdateHeader HeaderFor(const TrainResult& result,
                         const std::vector<OutgoingBlock>& blocks) const {
    return {.task = task.task,
            .client = name,
            .round = task.round,
            .total_bytes = EncodedUpdateBytes(blocks),
            .feedback = result.feedback};
  }
  // `spoil` may change the header and the encoded bytes.
  Result<Verdict> Submit(
      const TrainResult& result, const std::function<void(UpdateHeader&, std::string&)>& spoil =
                                     [](UpdateHeader&, std::string&) {}) {
    std::vector<OutgoingBlock> blocks;
    for (const BlockDelta& block : result.blocks) {
      blocks.push_back({.parameter = block.parameter, .delta = block.delta});
    }
    UpdateHeader header = HeaderFor(result, blocks);
    std::string bytes;
    EXPECT_OK(EncodeUpdate(task.task, blocks, [&](std::span<const std::byte> piece) {
      bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
      return Status::Ok();
    }));
    spoil(header, bytes);
    return transport.SubmitUpdate(
        session, header, [&](const auto& sink) { return sink(AsBytes(std::string_view(bytes))); });
  }
};

}  // namespace fedmoe
