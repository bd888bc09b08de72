#include "federation/task.h"

namespace fedmoe {

const char* CancelReasonName(CancelReason reason) {
  switch (reason) {
    case CancelReason::kRoundOver:
      return "round_over";
    case CancelReason::kRoundAborted:
      return "round_aborted";
    case CancelReason::kSuperseded:
      return "superseded";
    case CancelReason::kRunOver:
      return "run_over";
    case CancelReason::kTimedOut:
      return "timed_out";
  }
  return "unknown";
}

}  // namespace fedmoe
