// What the programs' exit codes mean; documented for users in docs/programs.md.
#pragma once

#include "common/result.h"

namespace fedmoe {

enum ExitCode : int {
  kExitCompleted =
      0,  // coordinator: all rounds done; client: the run is over, or it was asked to stop
  kExitFailed = 1,         // the run or the program failed; the log says why
  kExitConfiguration = 2,  // usage or configuration; nothing was touched
  kExitDirectory = 3,  // run or state directory: locked, holds a run already, or holds another run
  kExitAddress = 4,    // coordinator: cannot listen
  kExitData = 4,       // client: its data cannot be read; align: the problem cannot
  kExitGaveUp = 5,     // client: no coordinator within retry.limit_s
  kExitRefused = 6,    // client: the coordinator turned it away
  kExitStopped = 7,    // coordinator: stopped on request before all rounds were done
};

// Of a run or state directory that could not be opened. What may pass, such as a full disk, is a
// failure, after which a service manager tries again; what needs a person is not.
inline int ExitOfDirectory(const Status& status) {
  const bool may_pass = status.code() == StatusCode::kResourceExhausted ||
                        status.code() == StatusCode::kInternal ||
                        status.code() == StatusCode::kUnavailable;
  return may_pass ? kExitFailed : kExitDirectory;
}

}  // namespace fedmoe
