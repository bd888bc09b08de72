// A client's update as the pure core sees it, headers only, and its validation.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "federation/feedback.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "kernels/codec.h"

namespace fedmoe {

// The numbers are those of the format.
enum class Compression : std::uint32_t { kNone = 0, kZstd = 1 };

// One encoded block of an update: the delta (new - received) of one parameter block. Offsets count
// from the start of the update's bytes.
struct UpdateBlock {
  int parameter = 0;  // index into ModelSpec::blocks
  Encoding encoding = Encoding::kFloat32;
  std::uint64_t elements = 0;
  std::uint64_t payload_offset = 0;
  std::uint64_t payload_bytes = 0;  // as they lie in the update
  Compression compression = Compression::kNone;
  std::uint64_t raw_bytes = 0;  // of the payload before compression
};

struct UpdateHeader {
  TaskId task = 0;
  ClientId client;
  RoundNumber round = 0;
  std::uint64_t total_bytes = 0;  // of the encoded update that follows
  TrainingFeedback feedback;
};

// A closed set: why an update did not enter the model. A client's fault is an ordinary outcome,
// never a coordinator error.
enum class RejectReason {
  kNone,         // accepted
  kUnknownTask,  // no such task in this run
  kNotYourTask,  // the task is another client's
  kStaleRound,   // its round is over
  kTaskCancelled,
  kAlreadyRejected,  // an earlier update of this task was rejected
  kOverSize,         // more bytes than the task's blocks can need
  kMalformed,        // magic, version, lengths, truncation
  kBadChecksum,
  kUnknownParameter,
  kUnassignedExpert,  // a block of an expert that the task does not hold
  kDuplicateBlock,
  kMissingBlock,  // a trunk block, or a block of an expert with tokens
  kWrongShape,    // element count other than the block's
  kUnknownEncoding,
  kNotFinite,  // NaN, Inf or a value beyond 1e18 in the payload
  kBadFeedback,
};
const char* RejectReasonName(RejectReason reason);  // "stale_round", ...

struct Verdict {
  RejectReason reason = RejectReason::kNone;
  std::string detail;  // names the block or field and the numbers
  bool accepted() const { return reason == RejectReason::kNone; }
};

// The most bytes that an honest update of the task can have, framing included.
std::uint64_t MaxUpdateBytes(const ModelSpec& spec, const TaskAssignment& task);

// Checks the block list and feedback against the task: every trunk block once, every block of each
// held expert with tokens once, nothing else but blocks of held experts, counts and encodings
// right. Any encoding is, that is no longer than float32 would be. Payload checks (checksum,
// finite, scales, indices) belong to the reader.
Verdict ValidateUpdate(const UpdateHeader& header, const std::vector<UpdateBlock>& blocks,
                       const TaskAssignment& task, const ModelSpec& spec);

}  // namespace fedmoe
