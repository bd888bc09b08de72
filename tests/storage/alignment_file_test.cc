#include "storage/alignment_file.h"

#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/storage/storage_support.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

constexpr char kSmall[] = R"({"clients": ["b", "a"], "capacity": [2, 1],
  "fitness": [[0.5, 0.25, 0.125], [0.1, 0.2, 0.3]], "deficit": [1, 0, -0.5],
  "assignments": [4, 5, 6], "seed": 7, "round": 3})";

std::string JsonError(const std::string& text) {
  return ParseAlignmentJson(text, "p.json").status().message();
}

std::string CsvError(const std::string& text) {
  return ParseAlignmentCsv(text, "p.csv").status().message();
}

TEST(AlignmentFile, SortsTheClientsWithWhatBelongsToEach) {
  const auto problem = ParseAlignmentJson(kSmall, "p.json");
  ASSERT_EQ(problem.status().ToString(), "OK");
  EXPECT_EQ(problem->clients, (std::vector<ClientId>{"a", "b"}));
  EXPECT_EQ(problem->capacity, (std::vector<int>{1, 2}));
  EXPECT_EQ(problem->fitness(0, 2), 0.3);
  EXPECT_EQ(problem->fitness(1, 0), 0.5);
  EXPECT_EQ(problem->load.deficit, (std::vector<double>{1.0, 0.0, -0.5}));
  EXPECT_EQ(problem->load.assignments, (std::vector<std::int64_t>{4, 5, 6}));
  EXPECT_EQ(problem->layers, 1);
  EXPECT_EQ(problem->seed, 7u);
  EXPECT_EQ(problem->round, 3);
}

TEST(AlignmentFile, TakesOneCapacityForAllAndWeightsAndSizes) {
  const auto problem = ParseAlignmentJson(
      R"({"clients": ["b", "a"], "capacity": 1, "fitness": [[1, 2], [3, 4]], "weight": [2, 1],
          "room_bytes": [20, 10], "expert_bytes": [5, 6], "layers": 2})",
      "p.json");
  ASSERT_EQ(problem.status().ToString(), "OK");
  EXPECT_EQ(problem->capacity, (std::vector<int>{1, 1}));
  EXPECT_EQ(problem->weight, (std::vector<double>{1, 2}));
  EXPECT_EQ(problem->room_bytes, (std::vector<double>{10, 20}));
  EXPECT_EQ(problem->expert_bytes, (std::vector<double>{5, 6}));
  EXPECT_EQ(problem->layers, 2);
}

TEST(AlignmentFile, IsReadBackToTheSameProblem) {
  for (const char* text :
       {kSmall, R"({"clients": ["b", "a"], "capacity": 1, "fitness": [[0.1, 1e-300], [3, 4]],
                    "weight": [2, 1], "room_bytes": [20, 10], "expert_bytes": [5, 6]})"}) {
    const AlignmentProblem first = ParseAlignmentJson(text, "p.json").value();
    const auto second = ParseAlignmentJson(AlignmentProblemToJson(first), "q.json");
    ASSERT_EQ(second.status().ToString(), "OK");
    EXPECT_EQ(second->clients, first.clients);
    EXPECT_EQ(second->capacity, first.capacity);
    EXPECT_EQ(second->fitness, first.fitness);
    EXPECT_EQ(second->load.deficit, first.load.deficit);
    EXPECT_EQ(second->load.assignments, first.load.assignments);
    EXPECT_EQ(second->weight, first.weight);
    EXPECT_EQ(second->room_bytes, first.room_bytes);
    EXPECT_EQ(second->expert_bytes, first.expert_bytes);
    EXPECT_EQ(second->seed, first.seed);
    EXPECT_EQ(second->round, first.round);
  }
}

TEST(AlignmentFile, JsonErrorsNameTheField) {
  EXPECT_EQ(JsonError("{\"clients\": [\n  \"a\",]}"), "p.json: not valid JSON at line 2, column 7");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[1e999]]})"),
            "p.json: not valid JSON: a number is too large");
  EXPECT_EQ(JsonError("[1]"), "p.json: expected an object");
  EXPECT_EQ(JsonError(R"({"capacity": [1], "fitness": [[1]]})"), "p.json: clients is missing");
  EXPECT_EQ(JsonError(R"({"clients": [], "capacity": [], "fitness": []})"),
            "p.json: clients is empty");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": [1], "fitness": [[1]], "slack": 1})"),
            "p.json: unknown field 'slack', known are clients, capacity, fitness, weight, "
            "room_bytes, expert_bytes, deficit, assignments, layers, seed, round");
  EXPECT_EQ(JsonError(R"({"clients": ["a", "b"], "capacity": [1], "fitness": [[1], [1]]})"),
            "p.json: capacity has 1 numbers, must have one for each of 2 clients, or be one "
            "number for all");
  EXPECT_EQ(JsonError(R"({"clients": ["a", "b"], "capacity": 1, "fitness": [[1]]})"),
            "p.json: fitness has 1 rows, must have one for each of 2 clients");
  EXPECT_EQ(JsonError(R"({"clients": ["a", "b"], "capacity": 1, "fitness": [[1, 2], [1]]})"),
            "p.json: fitness[1] has 1 numbers, fitness[0] has 2");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[]]})"),
            "p.json: fitness[0] is empty");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[1, "x"]]})"),
            "p.json: fitness[0][1]: expected a number");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 2, "fitness": [[1]]})"),
            "p.json: clients[0] ('a') has capacity 2, must be 0 to its 1 experts");
  EXPECT_EQ(JsonError(R"({"clients": ["a", "a"], "capacity": 1, "fitness": [[1], [2]]})"),
            "p.json: clients[1] is 'a', which stands there already");
  EXPECT_EQ(JsonError(R"({"clients": ["a b"], "capacity": 1, "fitness": [[1]]})"),
            "p.json: clients[0] is 'a b', must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' "
            "and '-'");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[1]], "deficit": [1, 2]})"),
            "p.json: deficit has 2 numbers, must have one for each of 1 experts");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[1]], "weight": [1, 2]})"),
            "p.json: weight has 2 numbers, must have one for each of 1 clients");
  EXPECT_EQ(JsonError(R"({"clients": ["a"], "capacity": 1, "fitness": [[1]], "seed": -1})"),
            "p.json: seed: number out of range");
}

TEST(AlignmentFile, ReadsAFitnessMatrixFromCsv) {
  const auto problem = ParseAlignmentCsv(
      "client, capacity, left, right\r\nb,2,0.5,-1e-3\n\n a , 1 , 3 , 4 \n", "p.csv");
  ASSERT_EQ(problem.status().ToString(), "OK");
  EXPECT_EQ(problem->clients, (std::vector<ClientId>{"a", "b"}));
  EXPECT_EQ(problem->capacity, (std::vector<int>{1, 2}));
  EXPECT_EQ(problem->fitness(0, 1), 4.0);
  EXPECT_EQ(problem->fitness(1, 1), -1e-3);
}

TEST(AlignmentFile, CsvErrorsNameTheLine) {
  EXPECT_EQ(CsvError(""), "p.csv has no clients");
  EXPECT_EQ(CsvError("client,capacity,f0\n"), "p.csv has no clients");
  EXPECT_EQ(CsvError("\nname,capacity,f0\n"),
            "p.csv:2: the header must be client,capacity and one column an expert");
  EXPECT_EQ(CsvError("client,capacity\n"),
            "p.csv:1: the header must be client,capacity and one column an expert");
  EXPECT_EQ(CsvError("client,capacity,f0\na,1,2,3\n"), "p.csv:2 has 4 columns, the header has 3");
  EXPECT_EQ(CsvError("client,capacity,f0\na,1.5,2\n"),
            "p.csv:2: capacity is '1.5', must be a whole number");
  EXPECT_EQ(CsvError("client,capacity,f0\n\na,1,nan\n"),
            "p.csv:3: f0 is 'nan', must be a finite number");
  EXPECT_EQ(CsvError("client,capacity,f0\na,1,\n"), "p.csv:2: f0 is '', must be a finite number");
  EXPECT_EQ(CsvError("client,capacity,f0\na,2,1\n"),
            "p.csv:2: client ('a') has capacity 2, must be 0 to its 1 experts");
  EXPECT_EQ(CsvError("client,capacity,f0\na,1,1\nb,1,1\na,1,1\n"),
            "p.csv:4: client is 'a', which stands there already");
}

TEST(AlignmentFile, IsReadByItsEnding) {
  TempDir directory;
  WriteAll(directory.File("p.csv"), "client,capacity,f0\na,1,1\n");
  WriteAll(directory.File("p.json"), kSmall);
  EXPECT_EQ(ReadAlignmentProblem(PosixFileSystem(), directory.File("p.csv"))->clients.size(), 1u);
  EXPECT_EQ(ReadAlignmentProblem(PosixFileSystem(), directory.File("p.json"))->clients.size(), 2u);
  EXPECT_EQ(ReadAlignmentProblem(PosixFileSystem(), "p.txt").status().message(),
            "p.txt: a problem's file name must end in .json or .csv");
  EXPECT_EQ(ReadAlignmentProblem(PosixFileSystem(), directory.File("q.csv")).status().code(),
            StatusCode::kNotFound);
}

TEST(AlignmentFile, APlanIsWrittenWithEveryPairAndItsReason) {
  const AlignmentProblem problem = ParseAlignmentJson(kSmall, "p.json").value();
  AlignmentOptions options;
  options.strategy = AlignmentStrategy::kGreedy;
  AlignmentMemory memory;
  const AlignmentPlan plan = Align(problem, options, memory).value();
  EXPECT_EQ(AlignmentPlanToCsv(problem, plan),
            "client,expert,fitness,reason\na,2,0.3,fitness\nb,0,0.5,fitness\nb,1,0.25,fitness\n");
  const auto json = nlohmann::json::parse(AlignmentPlanToJson(problem, plan, 0.5));
  EXPECT_EQ(json["strategy"], "greedy");
  EXPECT_EQ(json["seconds"], 0.5);
  EXPECT_EQ(json["clients"][1]["experts"], (std::vector<int>{0, 1}));
  EXPECT_EQ(json["clients"][1]["reasons"], (std::vector<std::string>{"fitness", "fitness"}));
}

}  // namespace
}  // namespace fedmoe
