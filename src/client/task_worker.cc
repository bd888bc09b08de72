#include "client/task_worker.h"

#include <algorithm>
#include <utility>

namespace fedmoe {

TaskWorker::TaskWorker(std::function<Status(const TrainContext&)> work,
                       std::function<void()> finished)
    : thread_([this, work = std::move(work), finished = std::move(finished)] {
        const TrainContext context{
            .progress = [this](double part) { progress_ = std::clamp(part, 0.0, 1.0); },
            .cancelled = [this] { return cancelled_.load(); },
        };
        result_ = work(context);
        done_ = true;
        finished();
      }) {}

TaskWorker::~TaskWorker() {
  Cancel();
  if (thread_.joinable()) thread_.join();
}

Status TaskWorker::Join() {
  if (thread_.joinable()) thread_.join();
  return result_;
}

}  // namespace fedmoe
