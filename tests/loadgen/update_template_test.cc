// What a thin client sends is a whole update, by the same code that the coordinator reads it with.
#include "loadgen/update_template.h"

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

TaskAssignment TaskOf(std::vector<ExpertIndex> experts) {
  TaskAssignment task;
  task.task = 42;
  task.round = 7;
  task.client = "thin-1";
  task.kind = TaskKind::kTrain;
  task.experts = std::move(experts);
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

TEST(UpdateTemplateTest, TheCoordinatorTakesItsUpdates) {
  const UpdateTemplate update_template(SmallSpec());
  const ModelSpec& spec = update_template.spec();
  const std::vector<std::vector<ExpertIndex>> held = {{}, {2}, {0, 3}, {0, 1, 2, 3}};
  const TempDir directory;
  for (const std::vector<ExpertIndex>& experts : held) {
    SCOPED_TRACE(std::to_string(experts.size()) + " experts");
    const TaskAssignment task = TaskOf(experts);
    const std::string bytes = Bytes(update_template.Make(task), 4'096);
    EXPECT_EQ(bytes.size(), update_template.Make(task).total_bytes());
    ASSERT_OK(WriteFileAtomically(PosixFileSystem(), directory.File("update"), bytes));
    const auto file = PosixFileSystem().Open(directory.File("update")).value();
    const ParsedUpdate parsed = ParseUpdate(*file, task.task, spec.blocks.size()).value();
    ASSERT_TRUE(parsed.verdict.accepted()) << parsed.verdict.detail;
    const std::vector<double> affinity(4, 0.25);
    const UpdateHeader header{.task = task.task,
                              .client = task.client,
                              .round = task.round,
                              .total_bytes = bytes.size(),
                              .feedback = update_template.Feedback(task, 50, affinity)};
    const Verdict valid = ValidateUpdate(header, parsed.blocks, task, spec);
    EXPECT_TRUE(valid.accepted()) << valid.detail;
    const Verdict payloads = VerifyPayloads(*file, parsed.blocks, spec).value();
    EXPECT_TRUE(payloads.accepted()) << payloads.detail;
  }
}

TEST(UpdateTemplateTest, PiecesOfAnySizeAreTheSameBytes) {
  const UpdateTemplate update_template(SmallSpec());
  const TaskAssignment task = TaskOf({1, 2});
  const std::string whole = Bytes(update_template.Make(task), 1 << 20);
  for (const std::size_t piece : {1, 63, 64, 65, 1'000}) {
    EXPECT_EQ(Bytes(update_template.Make(task), piece), whole) << piece;
  }
}

TEST(UpdateTemplateTest, UpdatesDifferInTheirTaskAlone) {
  const UpdateTemplate update_template(SmallSpec());
  TaskAssignment task = TaskOf({1});
  const std::string first = Bytes(update_template.Make(task), 4'096);
  ++task.task;
  const std::string second = Bytes(update_template.Make(task), 4'096);
  EXPECT_NE(first.substr(0, kUpdateAlignment), second.substr(0, kUpdateAlignment));
  EXPECT_EQ(first.substr(kUpdateAlignment), second.substr(kUpdateAlignment));
}

}  // namespace
}  // namespace fedmoe
