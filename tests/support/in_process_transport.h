// The transport of tests: clients call the coordinator's core in the same process. Can lose, delay,
// duplicate, cut and corrupt, from a seed.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <utility>
#include <vector>

#include "client/transport.h"
#include "common/counter_rng.h"
#include "coordinator/core.h"

namespace fedmoe {

// The address of a coordinator that may be there or not. Thread-safe.
class CoordinatorSlot {
 public:
  // Null: nobody is there. Returns when no call is under way into the former core, which may then
  // be destroyed.
  void Set(CoordinatorCore* core);
  // After `calls` more calls (of any kind) nobody is there any more: how tests choose the moment of
  // a crash. Negative: never.
  void CloseAfter(std::int64_t calls) { calls_left_ = calls; }
  bool closed() const { return closed_; }

  // Runs `call` on the core. Of `generation` only, if given (what belongs to an earlier core is
  // void). False if nobody is there.
  bool Call(const std::function<void(CoordinatorCore&)>& call,
            std::optional<std::uint64_t> generation = std::nullopt);
  std::uint64_t generation() const { return generation_; }

 private:
  std::shared_mutex mutex_;
  CoordinatorCore* core_ = nullptr;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<std::int64_t> calls_left_{-1};
  std::atomic<bool> closed_{false};
};

// Each the probability that it befalls a call.
struct TransportFaults {
  std::uint64_t seed = 0;
  double lose_request = 0.0;  // UNAVAILABLE; the core never heard of it
  double lose_reply = 0.0;    // UNAVAILABLE; the core has done it
  double delay = 0.0;         // by up to 2 ms
  double duplicate_submit = 0.0;
  double corrupt_upload = 0.0;  // one byte of an update
  double corrupt_shard = 0.0;   // one byte of a shard
  double cut_upload = 0.0;      // the upload ends half-way, UNAVAILABLE
};

class InProcessTransport final : public Transport {
 public:
  // The slot outlives the transport.
  explicit InProcessTransport(CoordinatorSlot& slot, TransportFaults faults = {});

  Result<RegisterReply> Register(const RegisterRequest& request) override;
  Result<NextTaskReply> NextTask(const PollRequest& request) override;
  Result<HeartbeatReply> Beat(const SessionId& session, TaskId task, double progress) override;
  Status FetchShards(const SessionId& session, const std::vector<ShardReference>& shards,
                     const ShardSink& sink, bool damaged, std::uint64_t first_offset) override;
  Result<Verdict> SubmitUpdate(const SessionId& session, const UpdateHeader& header,
                               const UpdateSource& encode, bool again = false) override;
  Status SubmitEvaluation(const SessionId& session, const EvaluationResult& result) override;
  Status ReturnTask(const SessionId& session, TaskId task, const std::string& why) override;
  Status Leave(const SessionId& session) override;
  void CancelWork() override;
  void CancelAll() override;

  // Around every update that is submitted, so that a test can put the answers in order.
  std::function<void(const UpdateHeader&)> before_submit = [](const UpdateHeader&) {};
  std::function<void(const UpdateHeader&, const Result<Verdict>&)> after_submit =
      [](const UpdateHeader&, const Result<Verdict>&) {};

 private:
  enum class Kind { kWork, kAnswer };  // what CancelWork ends, and what it leaves alone
  // Shared with callbacks that may come after the transport is gone.
  struct Bell {
    std::mutex mutex;
    std::condition_variable rung;
    bool work_cancelled = false;
    bool all_cancelled = false;
  };
  // `start` hands the callback to the core; returns its answer, or why there is none.
  template <typename T>
  Result<T> Ask(Kind kind,
                const std::function<void(CoordinatorCore&, std::function<void(Result<T>)>)>& start,
                std::optional<std::uint64_t> generation = std::nullopt, bool faulty = true);
  template <typename T>
  Result<T> AskOnce(Kind kind,
                    const std::function<void(CoordinatorCore&, std::function<void(Result<T>)>)>&,
                    std::optional<std::uint64_t> generation);
  bool Cancelled(Kind kind) const;  // under bell_->mutex
  Result<Verdict> SubmitOnce(const SessionId& session, const UpdateHeader& header,
                             const UpdateSource& encode);
  bool Chance(double probability);
  std::uint64_t Below(std::uint64_t bound);
  void Delay();

  CoordinatorSlot& slot_;
  const TransportFaults faults_;
  const std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  std::mutex random_mutex_;
  CounterRng random_;
};

}  // namespace fedmoe
