// A sweep's file, its cells and their names.
#include "simulation/sweep_file.h"

#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/config/load_yaml.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Result<Sweep> Read(const std::string& yaml, std::string* directory = nullptr) {
  TempDir temporary;
  if (directory != nullptr) *directory = temporary.path();
  const std::string path = temporary.File("s.yaml");
  std::ofstream(path) << yaml;
  Result<Sweep> sweep = ReadSweep(path);
  if (sweep.ok()) return sweep;
  return Status(sweep.status().code(), ReplaceAll(sweep.status().message(), path, "s.yaml"));
}

TEST(SweepFileTest, HoldsABaseWhatIsSetWhatVariesAndSeeds) {
  std::string directory;
  const auto sweep = Read(
      "base: domains.yaml\n"
      "set:\n"
      "  run: {rounds: 20}\n"
      "  fleet: {capacity: {max_experts: [1, 2]}}\n"
      "vary:\n"
      "  alignment: {strategy: [balanced, random]}\n"
      "  training: {learning_rate: 0.1}\n"
      "seeds: [1, 2]\n",
      &directory);
  ASSERT_TRUE(sweep.ok()) << sweep.status().message();
  EXPECT_EQ(sweep->base, directory + "/domains.yaml");
  EXPECT_THAT(sweep->sets, ElementsAre("run.rounds=20", "fleet.capacity.max_experts=[1, 2]"));
  ASSERT_EQ(sweep->vary.size(), 2u);
  EXPECT_EQ(sweep->vary[0].key, "alignment.strategy");
  EXPECT_THAT(sweep->vary[0].values, ElementsAre("balanced", "random"));
  EXPECT_THAT(sweep->vary[1].values, ElementsAre("0.1"));
  EXPECT_THAT(sweep->seeds, ElementsAre("1", "2"));
}

TEST(SweepFileTest, AnAbsoluteBaseStaysAsItIs) {
  const auto sweep = Read("base: /etc/x.yaml\nseeds: 1\n");
  ASSERT_TRUE(sweep.ok());
  EXPECT_EQ(sweep->base, "/etc/x.yaml");
  EXPECT_THAT(sweep->vary, IsEmpty());
}

TEST(SweepFileTest, SaysAllThatIsWrong) {
  EXPECT_EQ(Read("vary: {run: {seed: [1, 2]}}\nsedes: 3\n").status().message(),
            "s.yaml: missing key base (the configuration)\n"
            "s.yaml: missing key seeds (values of run.seed)\n"
            "s.yaml:1: the values of run.seed stand in seeds\n"
            "s.yaml:2: 'sedes' must be one of base, set, vary, seeds, with a value");
  EXPECT_EQ(Read("base: b\nvary: {a: {b: [1, 1], c: }}\nseeds: [1]\n").status().message(),
            "s.yaml:2: vary.a.b holds a value twice\n"
            "s.yaml:2: vary.a.c must be a value or a list of values");
}

TEST(SweepFileTest, CellsAreTheProductTheSeedsFastest) {
  const Sweep sweep{.base = "b",
                    .sets = {"s=0"},
                    .vary = {{"x", {"1", "2"}}, {"y.z", {"a b"}}},
                    .seeds = {"7", "8"}};
  const auto cells = CellsOf(sweep, {"t=0"});
  ASSERT_TRUE(cells.ok());
  ASSERT_EQ(cells->size(), 4u);
  EXPECT_THAT(cells->at(0).overrides, ElementsAre("s=0", "t=0", "x=1", "y.z=a b", "run.seed=7"));
  EXPECT_THAT(cells->at(1).overrides, ElementsAre("s=0", "t=0", "x=1", "y.z=a b", "run.seed=8"));
  EXPECT_THAT(cells->at(2).overrides, ElementsAre("s=0", "t=0", "x=2", "y.z=a b", "run.seed=7"));
  EXPECT_THAT(cells->at(2).values, ElementsAre("2", "a b"));
  EXPECT_EQ(cells->at(2).seed, "7");
}

TEST(SweepFileTest, NamesAreThoseOfFoldersAndTellCellsApart) {
  const auto plain = CellsOf({.base = "b", .vary = {{"x", {"0.1"}}}, .seeds = {"1"}}, {});
  EXPECT_EQ(plain->at(0).name, "x=0.1,seed=1");
  const auto odd = CellsOf({.base = "b", .vary = {{"x", {"a/b", "a b"}}}, .seeds = {"1"}}, {});
  EXPECT_TRUE(odd->at(0).name.starts_with("x=a_b,seed=1-")) << odd->at(0).name;
  EXPECT_NE(odd->at(0).name, odd->at(1).name);
  const std::string tall(300, 'v');
  const auto large =
      CellsOf({.base = "b", .vary = {{"x", {tall, tall + "v"}}}, .seeds = {"1"}}, {});
  EXPECT_EQ(large->at(0).name.size(), 160u + 1u + 8u);
  EXPECT_NE(large->at(0).name, large->at(1).name);
}

TEST(SweepFileTest, TenThousandCellsAreTheMost) {
  Sweep sweep{.base = "b", .vary = {{"x", {}}}, .seeds = {}};
  for (int i = 0; i < 100; ++i) {
    sweep.vary[0].values.push_back(std::to_string(i));
    sweep.seeds.push_back(std::to_string(i));
  }
  ASSERT_TRUE(CellsOf(sweep, {}).ok());
  EXPECT_EQ(CellsOf(sweep, {})->size(), 10'000u);
  sweep.vary[0].values.push_back("more");
  EXPECT_EQ(CellsOf(sweep, {}).status().message(), "the sweep has more than 10000 cells");
}

}  // namespace
}  // namespace fedmoe
