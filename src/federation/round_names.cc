#include "federation/round_report.h"
#include "federation/round_state.h"

namespace fedmoe {

const char* CellStateName(CellState state) {
  switch (state) {
    case CellState::kOpen:
      return "open";
    case CellState::kUnassigned:
      return "unassigned";
    case CellState::kComplete:
      return "complete";
    case CellState::kGrace:
      return "grace";
    case CellState::kDeadline:
      return "deadline";
    case CellState::kAbandoned:
      return "abandoned";
  }
  return "unknown";
}

const char* AbortReasonName(AbortReason reason) {
  switch (reason) {
    case AbortReason::kTooFewUpdates:
      return "too_few_updates";
    case AbortReason::kIncomplete:
      return "incomplete";
    case AbortReason::kAggregationFailed:
      return "aggregation_failed";
    case AbortReason::kCheckpointFailed:
      return "checkpoint_failed";
    case AbortReason::kRunStopped:
      return "run_stopped";
  }
  return "unknown";
}

const char* PhaseName(Phase phase) {
  switch (phase) {
    case Phase::kSelection:
      return "selection";
    case Phase::kReporting:
      return "reporting";
    case Phase::kAggregating:
      return "aggregating";
    case Phase::kCheckpointing:
      return "checkpointing";
    case Phase::kDraining:
      return "draining";
    case Phase::kFinished:
      return "finished";
  }
  return "unknown";
}

const char* RunStatusName(RunStatus status) {
  switch (status) {
    case RunStatus::kRunning:
      return "running";
    case RunStatus::kCompleted:
      return "completed";
    case RunStatus::kStopped:
      return "stopped";
    case RunStatus::kFailed:
      return "failed";
  }
  return "unknown";
}

}  // namespace fedmoe
