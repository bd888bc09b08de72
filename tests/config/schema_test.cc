// The schema's own parts: distances, suggestions, lists, YAML text.
#include "config/schema.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

TEST(EditDistanceTest, CountsInsertionsDeletionsChangesAndSwaps) {
  EXPECT_EQ(EditDistance("", ""), 0u);
  EXPECT_EQ(EditDistance("", "abc"), 3u);
  EXPECT_EQ(EditDistance("abc", "abc"), 0u);
  EXPECT_EQ(EditDistance("mim", "min"), 1u);
  EXPECT_EQ(EditDistance("ballanced", "balanced"), 1u);
  EXPECT_EQ(EditDistance("rouds", "rounds"), 1u);
  EXPECT_EQ(EditDistance("ronuds", "rounds"), 1u);
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
}

TEST(NearestWordTest, SuggestsOnlyWhatCanBeMeant) {
  const std::vector<std::string> words = {"random", "static", "greedy"};
  EXPECT_EQ(NearestWord("ramdon", words), "random");
  EXPECT_EQ(NearestWord("statik", words), "static");
  EXPECT_EQ(NearestWord("fair", words), std::nullopt);
  EXPECT_EQ(NearestWord(std::string(100'000, 'a'), words), std::nullopt);
}

TEST(SchemaTest, WritesKeysNestedInOrder) {
  int a = 1;
  bool b = true;
  std::vector<int> c = {1, 2};
  std::uint64_t d = 3 << 10;
  Milliseconds e = 250;
  double f = 0.1;
  Schema schema;
  const SchemaSection root = schema.Root();
  root.Integer("a", a, {});
  root.In("s").Boolean("b", b);
  root.In("s").In("t").Integers("c", c, {});
  root.In("s").In("u").Bytes("d", d);
  root.In("s").Seconds("e", e, {0.0, 1.0});
  root.Number("f", f, {0.0, 1.0});
  EXPECT_EQ(schema.Write(),
            "a: 1\n"
            "s:\n"
            "  b: true\n"
            "  t:\n"
            "    c: [1, 2]\n"
            "  u:\n"
            "    d: 3KiB\n"
            "  e: 0.25\n"
            "f: 0.1\n");
}

TEST(SchemaTest, AValueThatIsRefusedLeavesItsFieldAlone) {
  int a = 5;
  std::vector<int> list = {5};
  Schema schema;
  schema.Root().Integer("a", a, {1, 9});
  schema.Root().Integers("list", list, {1, 9});
  ConfigDocument document;
  document.entries.push_back({"a", {ValueKind::kScalar, "10", {}}, {}});
  document.entries.push_back({"list", {ValueKind::kList, "", {"1", "10"}}, {}});
  const ReadKeys keys = schema.Read(document);
  EXPECT_EQ(keys.errors.size(), 2u);
  EXPECT_EQ(a, 5);
  EXPECT_EQ(list, std::vector<int>{5});
}

TEST(FlattenYamlTest, GivesEveryScalarAndListItsPath) {
  const auto flat = FlattenYaml("a: {b: {c: 1}}\nd: [x, 'y z']\ne: \"\"\n");
  ASSERT_TRUE(flat.ok()) << flat.status().message();
  const std::vector<std::pair<std::string, std::string>> expected = {
      {"a.b.c", "1"}, {"d", "[x, y z]"}, {"e", ""}};
  EXPECT_EQ(*flat, expected);
}

}  // namespace
}  // namespace fedmoe
