// What a thin client sends is a whole update, by the same code that the coordinator reads it with.
#include "loadgen/update_template.h"

#include <array>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "moe/model_options.h"
#include "storage/update_format.h"
#include "tests/coordinator/fleet.h"

namespace fedmoe {
namespace {

ModelSpec SmallSpec() {
  ModelOptions options;
  options.inputs = 6;
  options.classes = 3;
  options.width = 8;
  options.expert_width = 8;
  options.experts = 4;
  return BuildModelSpec(options).value();
}

TaskAssignment TaskOf(std::vector<ExpertIndex> experts, const UploadOptions& upload = {}) {
  TaskAssignment task;
  task.task = 42;
  task.round = 7;
  task.client = "thin-1";
  task.kind = TaskKind::kTrain;
  task.experts = std::move(experts);
  task.training.upload = upload;
  return task;
}

// The update in pieces of `piece` bytes.
std::string Bytes(TemplateUpdate update, std::size_t piece) {
  std::string bytes;
  std::vector<std::byte> out(piece);
  while (const std::size_t count = update.Take(out)) {
    bytes.append(reinterpret_cast<const char*>(out.data()), count);
  }
  return bytes;
}

constexpr std::size_t kPiece = 4'096;

// What the coordinator says of the update.
Verdict Judge(TemplateUpdate update, const TaskAssignment& task, const ModelSpec& spec) {
  const TempDir directory;
  const std::uint64_t total = update.total_bytes();
  const std::vector<ExpertIndex> experts = update.experts();
  const std::string bytes = Bytes(std::move(update), kPiece);
  EXPECT_EQ(bytes.size(), total);
  EXPECT_OK(WriteFileAtomically(PosixFileSystem(), directory.File("update"), bytes));
  const auto file = PosixFileSystem().Open(directory.File("update")).value();
  const ParsedUpdate parsed = ParseUpdate(*file, task.task, spec.blocks.size()).value();
  if (!parsed.verdict.accepted()) return parsed.verdict;
  const UpdateHeader header{.task = task.task,
                            .client = task.client,
                            .round = task.round,
                            .total_bytes = bytes.size(),
                            .feedback = FeedbackOf(spec, experts, 50, {.25, .25, .25, .25})};
  const Verdict valid = ValidateUpdate(header, parsed.blocks, task, spec);
  return valid.accepted() ? VerifyPayloads(*file, parsed.blocks, spec).value() : valid;
}

constexpr std::array kEncodingsOfUploads = {Encoding::kFloat32, Encoding::kBfloat16,
                                            Encoding::kFloat16, Encoding::kInt8,
                                            Encoding::kInt4,    Encoding::kTopK};

TEST(UpdateTemplateTest, TheCoordinatorTakesItsUpdatesInAnyEncoding) {
  const ModelSpec spec = SmallSpec();
  const std::vector<std::vector<ExpertIndex>> held = {{}, {2}, {0, 3}, {0, 1, 2, 3}};
  for (const Encoding encoding : kEncodingsOfUploads) {
    for (const bool zstd : {false, true}) {
      const UploadOptions upload{.encoding = encoding, .top_k_fraction = 0.3, .zstd = zstd};
      const UpdateTemplate update_template(spec, upload);
      for (const std::vector<ExpertIndex>& experts : held) {
        SCOPED_TRACE(fmt::format("{}{}, {} experts", EncodingName(encoding), zstd ? " zstd" : "",
                                 experts.size()));
        const TaskAssignment task = TaskOf(experts, upload);
        TemplateUpdate update = update_template.Make(task);
        EXPECT_EQ(update.experts(), experts);
        const Verdict verdict = Judge(std::move(update), task, spec);
        EXPECT_TRUE(verdict.accepted()) << verdict.detail;
      }
    }
  }
}

TEST(UpdateTemplateTest, IsAsLongAsIsAskedFor) {
  const ModelSpec spec = SmallSpec();
  for (const Encoding encoding : kEncodingsOfUploads) {
    for (const bool zstd : {false, true}) {
      const UploadOptions upload{.encoding = encoding, .top_k_fraction = 0.3, .zstd = zstd};
      const UpdateTemplate update_template(spec, upload);
      const TaskAssignment task = TaskOf({0, 1, 2, 3}, upload);
      const UpdateSizes sizes = update_template.Sizes(task);
      // An expert, of which all are about as long.
      const std::uint64_t steps = encoding == Encoding::kTopK ? 64 * spec.blocks.size()
                                                              : (sizes.most - sizes.least) / 4 + 64;
      EXPECT_LT(sizes.least, sizes.most);
      EXPECT_EQ(update_template.Make(task, 1).total_bytes(), sizes.least);
      EXPECT_EQ(update_template.Make(task, 1 << 30).total_bytes(), sizes.most);
      for (std::uint64_t bytes = 1; bytes < sizes.most + 300; bytes += 97) {
        SCOPED_TRACE(
            fmt::format("{}{}, {} bytes", EncodingName(encoding), zstd ? " zstd" : "", bytes));
        TemplateUpdate update = update_template.Make(task, bytes);
        EXPECT_LE(update.total_bytes(), std::max(bytes, sizes.least));
        EXPECT_GT(update.total_bytes() + steps, std::min(bytes, sizes.most));
        const Verdict verdict = Judge(std::move(update), task, spec);
        EXPECT_TRUE(verdict.accepted()) << verdict.detail;
      }
    }
  }
}

// Or some experts would never be trained by anyone.
TEST(UpdateTemplateTest, EveryExpertThatTheTaskHoldsHasItsTurn) {
  const UpdateTemplate update_template(SmallSpec(), {});
  TaskAssignment task = TaskOf({0, 2, 3});
  const UpdateSizes sizes = update_template.Sizes(task);
  std::vector<ExpertIndex> sent;
  for (int i = 0; i < 3; ++i) {
    // As if three clients had a task a round.
    task.task += 3;
    ++task.round;
    const TemplateUpdate update =
        update_template.Make(task, sizes.least + (sizes.most - sizes.least) / 3);
    sent.insert(sent.end(), update.experts().begin(), update.experts().end());
  }
  EXPECT_THAT(sent, ::testing::UnorderedElementsAre(0, 2, 3));
}

TEST(UpdateTemplateTest, PiecesOfAnySizeAreTheSameBytes) {
  const UpdateTemplate update_template(SmallSpec(), {});
  const TaskAssignment task = TaskOf({1, 2});
  const std::string whole = Bytes(update_template.Make(task), 1 << 20);
  for (const std::size_t piece : {1, 63, 64, 65, 1'000}) {
    EXPECT_EQ(Bytes(update_template.Make(task), piece), whole) << piece;
  }
}

TEST(UpdateTemplateTest, UpdatesDifferInTheirTaskAlone) {
  const UpdateTemplate update_template(SmallSpec(), {});
  TaskAssignment task = TaskOf({1});
  const std::string first = Bytes(update_template.Make(task), 4'096);
  ++task.task;
  const std::string second = Bytes(update_template.Make(task), 4'096);
  EXPECT_NE(first.substr(0, kUpdateAlignment), second.substr(0, kUpdateAlignment));
  EXPECT_EQ(first.substr(kUpdateAlignment), second.substr(kUpdateAlignment));
}

}  // namespace
}  // namespace fedmoe
