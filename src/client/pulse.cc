#include "client/pulse.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace fedmoe {

Pulse::Pulse(Milliseconds interval_ms, Beat beat)
    : beat_(std::move(beat)), thread_([this, interval_ms] { Run(interval_ms); }) {}

Pulse::~Pulse() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    end_ = true;
  }
  ended_.notify_all();
  thread_.join();
}

void Pulse::Run(Milliseconds interval_ms) {
  const std::chrono::milliseconds interval(std::max<Milliseconds>(interval_ms, 1));
  std::unique_lock<std::mutex> lock(mutex_);
  while (!ended_.wait_for(lock, interval, [this] { return end_; })) {
    lock.unlock();
    const Result<HeartbeatReply> reply = beat_();
    lock.lock();
    if (!Hear(reply)) return;
  }
}

bool Pulse::Hear(const Result<HeartbeatReply>& reply) {
  if (reply.ok() && reply->cancel) {
    reason_ = reply->reason;
    word_ = Cancelled("the task was cancelled");
  } else if (reply.status().code() == StatusCode::kAborted) {
    word_ = reply.status();
  }
  return word_.ok();
}

Status Pulse::word() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return word_;
}

CancelReason Pulse::reason() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return reason_;
}

}  // namespace fedmoe
