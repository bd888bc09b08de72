// One piece of work on a thread of its own, while the client's loop keeps in touch with the
// coordinator.
#pragma once

#include <atomic>
#include <functional>
#include <thread>

#include "client/trainer.h"
#include "common/result.h"

namespace fedmoe {

// Used by one thread; the work itself runs on another. Destruction cancels the work and waits for
// it.
class TaskWorker {
 public:
  // Starts `work` at once. `finished` is called on the worker thread after `work` returned, when
  // done() is true already; both must outlive the worker.
  TaskWorker(std::function<Status(const TrainContext&)> work, std::function<void()> finished);
  ~TaskWorker();
  TaskWorker(const TaskWorker&) = delete;
  TaskWorker& operator=(const TaskWorker&) = delete;

  bool done() const { return done_; }
  double progress() const { return progress_; }  // 0 to 1
  void Cancel() { cancelled_ = true; }
  // Waits for the end; what the work returned.
  Status Join();

 private:
  std::atomic<bool> done_{false};
  std::atomic<bool> cancelled_{false};
  std::atomic<double> progress_{0.0};
  Status result_;
  std::thread thread_;
};

}  // namespace fedmoe
