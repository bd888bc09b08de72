#include "common/signals.h"

#include <utility>

#include <pthread.h>
#include <signal.h>

namespace fedmoe {
namespace {

sigset_t Watched() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGUSR1);  // wakes the thread at the end
  return set;
}

}  // namespace

TerminationSignals::TerminationSignals(std::function<void(int)> on_signal)
    : on_signal_(std::move(on_signal)) {
  signal(SIGPIPE, SIG_IGN);
  const sigset_t set = Watched();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this, set] {
    int count = 0;
    while (!done_) {
      int received = 0;
      if (sigwait(&set, &received) == 0 && received != SIGUSR1) on_signal_(++count);
    }
  });
}

TerminationSignals::~TerminationSignals() {
  done_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

}  // namespace fedmoe
