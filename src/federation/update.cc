#include "federation/update.h"

#include <algorithm>

namespace fedmoe {
namespace {

// Header with feedback, and the frame of each block.
constexpr std::uint64_t kHeaderBytes = 64 * 1024;
constexpr std::uint64_t kBlockFrameBytes = 256;
constexpr std::uint64_t kFloat32Bytes = 4;

bool Holds(const TaskAssignment& task, ExpertIndex expert) {
  return std::find(task.experts.begin(), task.experts.end(), expert) != task.experts.end();
}

std::string ListOf(const std::vector<ExpertIndex>& experts) {
  if (experts.empty()) return "none";
  std::string text;
  for (const ExpertIndex expert : experts) {
    if (!text.empty()) text += ", ";
    text += std::to_string(expert);
  }
  return text;
}

std::string ShapeOf(const ParameterBlock& block) {
  std::string text;
  for (const std::int64_t extent : block.shape) {
    if (!text.empty()) text += ", ";
    text += std::to_string(extent);
  }
  return "[" + text + "]";
}

std::string Named(const ParameterBlock& block) { return "block '" + block.name + "'"; }

Verdict CheckHeader(const UpdateHeader& header, const TaskAssignment& task, const ModelSpec& spec) {
  const std::string named = "task " + std::to_string(task.task);
  if (task.kind != TaskKind::kTrain) {
    return {RejectReason::kUnknownTask, named + " is an evaluation, it takes no update"};
  }
  if (header.task != task.task) {
    return {RejectReason::kUnknownTask,
            "the update names task " + std::to_string(header.task) + ", not " + named};
  }
  if (header.client != task.client) {
    return {RejectReason::kNotYourTask, named + " belongs to client '" + task.client +
                                            "', the update comes from '" + header.client + "'"};
  }
  if (header.round != task.round) {
    return {RejectReason::kStaleRound, named + " is of round " + std::to_string(task.round) +
                                           ", the update names round " +
                                           std::to_string(header.round)};
  }
  const std::uint64_t most = MaxUpdateBytes(spec, task);
  if (header.total_bytes > most) {
    return {RejectReason::kOverSize, "the update is " + std::to_string(header.total_bytes) +
                                         " bytes, " + named + " needs at most " +
                                         std::to_string(most)};
  }
  const Status feedback = ValidateFeedback(header.feedback, spec, task.experts);
  if (!feedback.ok()) return {RejectReason::kBadFeedback, feedback.message()};
  return {};
}

// Whether the block may be in the task's update at all.
Verdict CheckPlace(const UpdateBlock& update, const TaskAssignment& task, const ModelSpec& spec) {
  if (update.parameter < 0 || update.parameter >= static_cast<int>(spec.blocks.size())) {
    return {RejectReason::kUnknownParameter,
            "the update names parameter " + std::to_string(update.parameter) + ", the model has " +
                std::to_string(spec.blocks.size()) + " blocks"};
  }
  const ParameterBlock& block = spec.blocks[static_cast<std::size_t>(update.parameter)];
  if (block.owner == BlockOwner::kClient) {
    return {RejectReason::kUnknownParameter,
            Named(block) + " is the client's own, it belongs in no update"};
  }
  if (block.owner == BlockOwner::kExpert && !Holds(task, block.expert)) {
    return {RejectReason::kUnassignedExpert, Named(block) + " belongs to expert " +
                                                 std::to_string(block.expert) +
                                                 ", the task holds " + ListOf(task.experts)};
  }
  return {};
}

// What a payload of so many values is, before compression; of top-k the most that it can be.
std::string LengthOf(Encoding encoding, std::uint64_t elements) {
  const bool top_k = encoding == Encoding::kTopK;
  return std::to_string(elements) + " " + EncodingName(encoding) + " values need " +
         (top_k ? "at most " : "") + std::to_string(EncodedBytes(encoding, elements, elements));
}

// Whether its encoding and lengths are right. Without overflow for any numbers of a client.
Verdict CheckContent(const UpdateBlock& update, const ParameterBlock& block,
                     const UploadOptions& upload, std::uint64_t total_bytes) {
  if (static_cast<std::uint32_t>(update.encoding) >= kEncodings) {
    return {RejectReason::kUnknownEncoding,
            Named(block) + " has encoding " +
                std::to_string(static_cast<std::uint32_t>(update.encoding)) +
                ", known are 0 (f32) to " + std::to_string(kEncodings - 1) + " (topk)"};
  }
  const auto elements = static_cast<std::uint64_t>(block.ElementCount());
  if (update.elements != elements) {
    return {RejectReason::kWrongShape, Named(block) + " has " + std::to_string(update.elements) +
                                           " elements, its shape " + ShapeOf(block) + " has " +
                                           std::to_string(elements)};
  }
  if (update.encoding != Encoding::kFloat32 && update.encoding != upload.encoding) {
    return {RejectReason::kUnknownEncoding,
            Named(block) + " is sent as " + EncodingName(update.encoding) + ", the task asks for " +
                EncodingName(upload.encoding)};
  }
  const std::uint64_t most = EncodedBytes(update.encoding, elements, elements);
  const bool right = update.encoding == Encoding::kTopK
                         ? update.raw_bytes <= most && update.raw_bytes % kTopKUnitBytes == 0
                         : update.raw_bytes == most;
  if (!right) {
    return {RejectReason::kMalformed, Named(block) + " has " + std::to_string(update.raw_bytes) +
                                          " payload bytes, " + LengthOf(update.encoding, elements)};
  }
  const bool compressed = update.compression == Compression::kZstd;
  if (compressed ? update.payload_bytes >= update.raw_bytes
                 : update.payload_bytes != update.raw_bytes) {
    return {RejectReason::kMalformed,
            Named(block) + " lies in " + std::to_string(update.payload_bytes) + " bytes, " +
                (compressed ? "compressed from " : "not compressed, of ") +
                std::to_string(update.raw_bytes)};
  }
  if (update.payload_offset > total_bytes ||
      update.payload_bytes > total_bytes - update.payload_offset) {
    return {RejectReason::kMalformed,
            Named(block) + " ends past the update's " + std::to_string(total_bytes) + " bytes"};
  }
  return {};
}

Verdict CheckComplete(const std::vector<bool>& present, const UpdateHeader& header,
                      const TaskAssignment& task, const ModelSpec& spec) {
  for (std::size_t index = 0; index < spec.blocks.size(); ++index) {
    if (present[index]) continue;
    const ParameterBlock& block = spec.blocks[index];
    if (block.owner == BlockOwner::kTrunk) {
      return {RejectReason::kMissingBlock, Named(block) + " of the trunk is missing"};
    }
    if (block.owner != BlockOwner::kExpert || !Holds(task, block.expert)) continue;
    if (header.feedback.tokens[static_cast<std::size_t>(block.expert)] > 0.0) {
      return {RejectReason::kMissingBlock, Named(block) + " is missing, though expert " +
                                               std::to_string(block.expert) + " was trained"};
    }
  }
  return {};
}

}  // namespace

const char* RejectReasonName(RejectReason reason) {
  switch (reason) {
    case RejectReason::kNone:
      return "none";
    case RejectReason::kUnknownTask:
      return "unknown_task";
    case RejectReason::kNotYourTask:
      return "not_your_task";
    case RejectReason::kStaleRound:
      return "stale_round";
    case RejectReason::kTaskCancelled:
      return "task_cancelled";
    case RejectReason::kAlreadyRejected:
      return "already_rejected";
    case RejectReason::kOverSize:
      return "over_size";
    case RejectReason::kMalformed:
      return "malformed";
    case RejectReason::kBadChecksum:
      return "bad_checksum";
    case RejectReason::kUnknownParameter:
      return "unknown_parameter";
    case RejectReason::kUnassignedExpert:
      return "unassigned_expert";
    case RejectReason::kDuplicateBlock:
      return "duplicate_block";
    case RejectReason::kMissingBlock:
      return "missing_block";
    case RejectReason::kWrongShape:
      return "wrong_shape";
    case RejectReason::kUnknownEncoding:
      return "unknown_encoding";
    case RejectReason::kNotFinite:
      return "not_finite";
    case RejectReason::kBadFeedback:
      return "bad_feedback";
  }
  return "unknown";
}

std::uint64_t MaxUpdateBytes(const ModelSpec& spec, const TaskAssignment& task) {
  std::uint64_t bytes = kHeaderBytes;
  for (const ParameterBlock& block : spec.blocks) {
    if (block.owner == BlockOwner::kClient) continue;
    if (block.owner == BlockOwner::kExpert && !Holds(task, block.expert)) continue;
    bytes += static_cast<std::uint64_t>(block.ElementCount()) * kFloat32Bytes + kBlockFrameBytes;
  }
  return bytes;
}

Verdict ValidateUpdate(const UpdateHeader& header, const std::vector<UpdateBlock>& blocks,
                       const TaskAssignment& task, const ModelSpec& spec) {
  if (Verdict verdict = CheckHeader(header, task, spec); !verdict.accepted()) return verdict;
  std::vector<bool> present(spec.blocks.size(), false);
  for (const UpdateBlock& update : blocks) {
    if (Verdict verdict = CheckPlace(update, task, spec); !verdict.accepted()) return verdict;
    const auto index = static_cast<std::size_t>(update.parameter);
    const ParameterBlock& block = spec.blocks[index];
    if (present[index]) {
      return {RejectReason::kDuplicateBlock, Named(block) + " appears twice"};
    }
    present[index] = true;
    if (Verdict verdict = CheckContent(update, block, task.training.upload, header.total_bytes);
        !verdict.accepted()) {
      return verdict;
    }
  }
  return CheckComplete(present, header, task, spec);
}

}  // namespace fedmoe
