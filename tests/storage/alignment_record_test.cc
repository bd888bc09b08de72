#include "storage/alignment_record.h"

#include <functional>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/storage/alignment_support.h"

namespace fedmoe {
namespace {

// The lines of a small run's rounds.jsonl, to be changed and read back.
class AlignmentRecord : public ::testing::Test {
 protected:
  AlignmentRecord() : fleet_(RecordedOptions(AlignmentStrategy::kBalanced), 1) {
    EXPECT_EQ(fleet_.Record(3).status().ToString(), "OK");
    for (const RoundReport& report : fleet_.Reports()) lines_.push_back(ReportToJsonLine(report));
  }

  Result<std::vector<RecordedRound>> Read(const std::string& text) {
    WriteAll(fleet_.directory.File("rounds.jsonl"), text);
    return ReadRecordedRounds(PosixFileSystem(), fleet_.directory.path(), fleet_.driver.options);
  }

  // The error, without the directory, where `change` was done to the second line.
  std::string ErrorOf(const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json line = nlohmann::json::parse(lines_[1]);
    change(line);
    return Error(lines_[0] + "\n" + line.dump() + "\n");
  }
  std::string Error(const std::string& text) {
    const std::string message = Read(text).status().message();
    const std::string prefix = fleet_.directory.path() + "/";
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  }

  RecordedFleet fleet_;
  std::vector<std::string> lines_;
};

TEST_F(AlignmentRecord, HasTheRoundsInOrderWhateverTheOrderOfTheLines) {
  const auto rounds = Read(lines_[1] + "\n" + lines_[0] + "\n" + lines_[2] + "\n");
  ASSERT_EQ(rounds.status().ToString(), "OK");
  ASSERT_EQ(rounds->size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ((*rounds)[i].round, static_cast<RoundNumber>(i + 1));
  }
}

TEST_F(AlignmentRecord, LeavesATornLastLineOut) {
  const auto rounds = Read(lines_[0] + "\n" + lines_[1].substr(0, 50));
  ASSERT_EQ(rounds.status().ToString(), "OK");
  EXPECT_EQ(rounds->size(), 1u);
}

TEST_F(AlignmentRecord, NeedsEveryRound) {
  EXPECT_EQ(Error(lines_[0] + "\n" + lines_[2] + "\n"),
            "rounds.jsonl has round 3 but not round 2; what follows needs every round before");
  EXPECT_EQ(Error(lines_[0] + "\n" + lines_[0] + "\n"), "rounds.jsonl has round 1 twice");
  EXPECT_EQ(Error(""), "rounds.jsonl has no whole line: no round was reported yet");
}

TEST_F(AlignmentRecord, ErrorsNameLineAndField) {
  EXPECT_EQ(Error(lines_[0] + "\nnonsense\n"), "rounds.jsonl:2 is not valid JSON");
  EXPECT_EQ(ErrorOf([](auto& line) { line.erase("load"); }),
            "rounds.jsonl:2: load is missing; rounds that an older build wrote do not say all that "
            "a plan was made from");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][1].erase("bonus"); }),
            "rounds.jsonl:2: clients[1].bonus is missing; rounds that an older build wrote do not "
            "say all that a plan was made from");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][1]["fitness"].push_back(1.0); }),
            "rounds.jsonl:2: clients[1].fitness has 7 numbers, the model has 6 experts");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][0]["fitness"][3] = "x"; }),
            "rounds.jsonl:2: clients[0].fitness[3]: expected a number");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][0]["experts"] = {6}; }),
            "rounds.jsonl:2: clients[0].experts names expert 6, the model has experts 0 to 5");
  EXPECT_EQ(ErrorOf([](auto& line) {
              line["clients"][0]["held"] = {3, 3};
            }),
            "rounds.jsonl:2: clients[0].held must rise");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][0]["client"] = "z"; }),
            "rounds.jsonl:2: clients[1].client must come after 'z'");
  EXPECT_EQ(ErrorOf([](auto& line) { line["clients"][1]["bonus"] = std::vector<double>(6, 0.0); }),
            "rounds.jsonl:2: clients[1].bonus and movement must be there for all clients or none");
  EXPECT_EQ(ErrorOf([](auto& line) { line["load"]["deficit"].push_back(0.0); }),
            "rounds.jsonl:2: load.* has 7 numbers, the model has 6 experts");
  EXPECT_EQ(
      ErrorOf([](auto& line) { line["alignment"]["strategy"] = "best"; }),
      "rounds.jsonl:2: alignment.strategy: unknown alignment strategy 'best', known are none, "
      "full, random, static, round_robin, greedy, load_only, balanced");
}

TEST_F(AlignmentRecord, SaysWhatARunDirectoryIs) {
  const Status none =
      ReadRecordedRounds(PosixFileSystem(), fleet_.directory.File("nowhere"), fleet_.driver.options)
          .status();
  EXPECT_EQ(none.code(), StatusCode::kNotFound);
  EXPECT_EQ(none.message(), fleet_.directory.File("nowhere/rounds.jsonl") +
                                ": no such file; --run is a run directory, such as "
                                "runs/quickstart");
  const RunOptions dense = RecordedOptions(AlignmentStrategy::kBalanced, 0);
  EXPECT_EQ(ReadRecordedRounds(PosixFileSystem(), "d", dense).status().message(),
            "d: the model has no experts, so nothing was aligned");
}

}  // namespace
}  // namespace fedmoe
