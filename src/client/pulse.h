// Signs of life while the client's loop waits for a transfer: over a slow link a single chunk can
// take longer than the coordinator waits for a word.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "common/ids.h"
#include "common/result.h"
#include "federation/messages.h"

namespace fedmoe {

// Beats on a thread of its own for as long as it lives.
class Pulse {
 public:
  using Beat = std::function<Result<HeartbeatReply>()>;

  // The first beat comes after `interval_ms`. `beat` outlives the pulse, and may run beside the
  // transfer.
  Pulse(Milliseconds interval_ms, Beat beat);
  // Waits for the beat that is under way.
  ~Pulse();
  Pulse(const Pulse&) = delete;
  Pulse& operator=(const Pulse&) = delete;

  // What the coordinator said about the task or the session, which then beats no more: CANCELLED,
  // the task is not wanted any longer; ABORTED, the session is void. That it cannot be reached is
  // the transfer's to tell.
  Status word() const;
  CancelReason reason() const;

 private:
  void Run(Milliseconds interval_ms);
  // False: there is nothing more to say.
  bool Hear(const Result<HeartbeatReply>& reply);

  const Beat beat_;
  mutable std::mutex mutex_;
  std::condition_variable ended_;
  // Guarded by mutex_.
  bool end_ = false;
  Status word_;
  CancelReason reason_ = CancelReason::kRoundOver;

  std::thread thread_;
};

}  // namespace fedmoe
