#include "federation/update.h"

#include <utility>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// Blocks: 0 trunk (6 values), 1 to 3 experts 0 to 2 (4 values each), 4 the client's own gate.
ModelSpec Spec() {
  ModelSpec spec;
  spec.experts = 3;
  spec.top_k = 1;
  spec.blocks.push_back({.name = "trunk.weight", .shape = {2, 3}});
  for (int e = 0; e < 3; ++e) {
    spec.blocks.push_back({.name = "experts." + std::to_string(e) + ".weight",
                           .shape = {2, 2},
                           .owner = BlockOwner::kExpert,
                           .expert = e,
                           .merge = MergeRule::kByTokens});
  }
  spec.blocks.push_back({.name = "gate.weight", .shape = {3}, .owner = BlockOwner::kClient});
  return spec;
}

struct Submission {
  TaskAssignment task{.task = 7, .client = "ann", .round = 3, .experts = {1, 2}};
  UpdateHeader header;
  std::vector<UpdateBlock> blocks;

  // An honest update: trunk and expert 1 trained, expert 2 held without a token.
  Submission() {
    header.task = 7;
    header.client = "ann";
    header.round = 3;
    header.total_bytes = 200;
    header.feedback.examples = 10;
    header.feedback.tokens = {0.0, 10.0, 0.0};
    header.feedback.expert_loss = {0.0, 1.0, 0.0};
    header.feedback.expert_accuracy = {0.0, 0.5, 0.0};
    blocks = {{.parameter = 0,
               .elements = 6,
               .payload_offset = 100,
               .payload_bytes = 24,
               .raw_bytes = 24},
              {.parameter = 2,
               .elements = 4,
               .payload_offset = 184,
               .payload_bytes = 16,
               .raw_bytes = 16}};
  }
};

Verdict Validate(const Submission& s) { return ValidateUpdate(s.header, s.blocks, s.task, Spec()); }

TEST(ValidateUpdate, AcceptsTrunkAndTrainedExperts) {
  const Verdict verdict = Validate({});
  EXPECT_TRUE(verdict.accepted()) << verdict.detail;
  EXPECT_EQ(verdict.detail, "");
}

TEST(ValidateUpdate, AcceptsAHeldExpertWithoutTokensToo) {
  Submission submission;
  submission.blocks.push_back(
      {.parameter = 3, .elements = 4, .payload_offset = 128, .payload_bytes = 16, .raw_bytes = 16});
  EXPECT_TRUE(Validate(submission).accepted());
}

TEST(ValidateUpdate, AcceptsATrunkAloneWhereNothingElseWasTrained) {
  Submission submission;
  submission.task.experts.clear();
  submission.header.feedback.tokens = {0, 0, 0};
  submission.blocks.pop_back();
  EXPECT_TRUE(Validate(submission).accepted());
}

TEST(ValidateUpdate, AcceptsEveryEncodingThatTheTaskAsksFor) {
  for (std::uint32_t i = 0; i < kEncodings; ++i) {
    Submission submission;
    UpdateBlock& block = submission.blocks[0];
    block.encoding = static_cast<Encoding>(i);
    submission.task.training.upload.encoding = block.encoding;
    block.raw_bytes = EncodedBytes(block.encoding, 6, 2);
    block.payload_bytes = block.raw_bytes;
    EXPECT_TRUE(Validate(submission).accepted()) << Validate(submission).detail;
    block.compression = Compression::kZstd;
    --block.payload_bytes;
    EXPECT_TRUE(Validate(submission).accepted()) << Validate(submission).detail;
  }
}

struct Case {
  void (*change)(Submission&);
  RejectReason reason;
  const char* detail;
};

class BadUpdate : public testing::TestWithParam<Case> {};

TEST_P(BadUpdate, IsRejectedWithItsReasonAndNumbers) {
  Submission submission;
  GetParam().change(submission);
  const Verdict verdict = Validate(submission);
  EXPECT_STREQ(RejectReasonName(verdict.reason), RejectReasonName(GetParam().reason));
  EXPECT_EQ(verdict.detail, GetParam().detail);
}

using S = Submission;
using R = RejectReason;

INSTANTIATE_TEST_SUITE_P(
    Header, BadUpdate,
    testing::Values(Case{[](S& s) { s.task.kind = TaskKind::kEvaluate; }, R::kUnknownTask,
                         "task 7 is an evaluation, it takes no update"},
                    Case{[](S& s) { s.header.task = 8; }, R::kUnknownTask,
                         "the update names task 8, not task 7"},
                    Case{[](S& s) { s.header.client = "bob"; }, R::kNotYourTask,
                         "task 7 belongs to client 'ann', the update comes from 'bob'"},
                    Case{[](S& s) { s.header.round = 2; }, R::kStaleRound,
                         "task 7 is of round 3, the update names round 2"},
                    // 65,536 + (24 + 256) + 2 * (16 + 256).
                    Case{[](S& s) { s.header.total_bytes = 66'361; }, R::kOverSize,
                         "the update is 66361 bytes, task 7 needs at most 66360"},
                    Case{[](S& s) { s.header.feedback.train_loss = -1; }, R::kBadFeedback,
                         "feedback.train_loss is -1, must be 0 to 1e+06"},
                    Case{[](S& s) { s.header.feedback.tokens[0] = 1; }, R::kBadFeedback,
                         "feedback.tokens[0] is 1, but the task does not hold expert 0"}));

INSTANTIATE_TEST_SUITE_P(
    Blocks, BadUpdate,
    testing::Values(
        Case{[](S& s) { s.blocks[0].parameter = 5; }, R::kUnknownParameter,
             "the update names parameter 5, the model has 5 blocks"},
        Case{[](S& s) { s.blocks[0].parameter = -1; }, R::kUnknownParameter,
             "the update names parameter -1, the model has 5 blocks"},
        Case{[](S& s) { s.blocks[0].parameter = 4; }, R::kUnknownParameter,
             "block 'gate.weight' is the client's own, it belongs in no update"},
        Case{[](S& s) { s.blocks[1].parameter = 1; }, R::kUnassignedExpert,
             "block 'experts.0.weight' belongs to expert 0, the task holds 1, 2"},
        Case{[](S& s) {
               s.task.experts.clear();
               s.header.feedback.tokens = {0, 0, 0};
             },
             R::kUnassignedExpert,
             "block 'experts.1.weight' belongs to expert 1, the task holds none"},
        Case{[](S& s) { s.blocks.push_back(s.blocks[1]); }, R::kDuplicateBlock,
             "block 'experts.1.weight' appears twice"},
        Case{[](S& s) { s.blocks[0].encoding = static_cast<Encoding>(9); }, R::kUnknownEncoding,
             "block 'trunk.weight' has encoding 9, known are 0 (f32) to 5 (topk)"},
        Case{[](S& s) { s.blocks[0].elements = 5; }, R::kWrongShape,
             "block 'trunk.weight' has 5 elements, its shape [2, 3] has 6"},
        Case{[](S& s) { s.blocks[0].raw_bytes = 20; }, R::kMalformed,
             "block 'trunk.weight' has 20 payload bytes, 6 f32 values need 24"},
        Case{[](S& s) { s.blocks[0].encoding = Encoding::kInt8; }, R::kUnknownEncoding,
             "block 'trunk.weight' is sent as int8, the task asks for f32"},
        Case{[](S& s) {
               s.blocks[0].encoding = Encoding::kInt8;
               s.task.training.upload.encoding = Encoding::kInt8;
             },
             R::kMalformed, "block 'trunk.weight' has 24 payload bytes, 6 int8 values need 10"},
        Case{[](S& s) {
               s.blocks[0].encoding = Encoding::kTopK;
               s.task.training.upload.encoding = Encoding::kTopK;
               s.blocks[0].raw_bytes = 56;
             },
             R::kMalformed,
             "block 'trunk.weight' has 56 payload bytes, 6 topk values need at most 48"},
        Case{[](S& s) {
               s.blocks[0].encoding = Encoding::kTopK;
               s.task.training.upload.encoding = Encoding::kTopK;
               s.blocks[0].raw_bytes = 20;
             },
             R::kMalformed,
             "block 'trunk.weight' has 20 payload bytes, 6 topk values need at most 48"},
        Case{[](S& s) { s.blocks[0].payload_bytes = 20; }, R::kMalformed,
             "block 'trunk.weight' lies in 20 bytes, not compressed, of 24"},
        Case{[](S& s) { s.blocks[0].compression = Compression::kZstd; }, R::kMalformed,
             "block 'trunk.weight' lies in 24 bytes, compressed from 24"},
        Case{[](S& s) { s.blocks[1].payload_offset = 185; }, R::kMalformed,
             "block 'experts.1.weight' ends past the update's 200 bytes"},
        Case{[](S& s) { s.blocks[1].payload_offset = ~std::uint64_t{0} - 7; }, R::kMalformed,
             "block 'experts.1.weight' ends past the update's 200 bytes"},
        Case{[](S& s) { s.blocks.erase(s.blocks.begin()); }, R::kMissingBlock,
             "block 'trunk.weight' of the trunk is missing"},
        Case{[](S& s) { s.blocks.pop_back(); }, R::kMissingBlock,
             "block 'experts.1.weight' is missing, though expert 1 was trained"}));

TEST(MaxUpdateBytes, CoversTheTasksBlocksAndTheirFrames) {
  TaskAssignment task{.experts = {0, 2}};
  EXPECT_EQ(MaxUpdateBytes(Spec(), task), 65'536U + (24 + 256) + 2 * (16 + 256));
  task.experts.clear();
  EXPECT_EQ(MaxUpdateBytes(Spec(), task), 65'536U + (24 + 256));
}

TEST(RejectReasons, HaveNames) {
  const std::pair<RejectReason, const char*> names[] = {
      {R::kNone, "none"},
      {R::kUnknownTask, "unknown_task"},
      {R::kNotYourTask, "not_your_task"},
      {R::kStaleRound, "stale_round"},
      {R::kTaskCancelled, "task_cancelled"},
      {R::kAlreadyRejected, "already_rejected"},
      {R::kOverSize, "over_size"},
      {R::kMalformed, "malformed"},
      {R::kBadChecksum, "bad_checksum"},
      {R::kUnknownParameter, "unknown_parameter"},
      {R::kUnassignedExpert, "unassigned_expert"},
      {R::kDuplicateBlock, "duplicate_block"},
      {R::kMissingBlock, "missing_block"},
      {R::kWrongShape, "wrong_shape"},
      {R::kUnknownEncoding, "unknown_encoding"},
      {R::kNotFinite, "not_finite"},
      {R::kBadFeedback, "bad_feedback"},
  };
  for (const auto& [reason, name] : names) EXPECT_STREQ(RejectReasonName(reason), name);
}

}  // namespace
}  // namespace fedmoe
