// The real texts, where they are there.
#include <cstdlib>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/dataset.h"

namespace fedmoe {
namespace {

std::string Folder(const std::string& name) {
  const char* folder = std::getenv("FEDMOE_DATA_DIR");
  const std::string data = folder != nullptr ? folder : FEDMOE_SOURCE_DIR "/../shared/data";
  return data + "/" + name;
}

#define SKIP_WITHOUT(name)                                                                     \
  if (!std::filesystem::exists(Folder(name))) {                                                \
    GTEST_SKIP() << "no " << Folder(name) << "; scripts/fetch_data " << (name) << " gets it, " \
                 << "FEDMOE_DATA_DIR names its parent";                                        \
  }

DataOptions Options(const std::string& name, PartitionKind kind, int clients) {
  DataOptions options;
  options.dataset = DatasetKind::kText;
  options.path = Folder(name);
  options.partition = {.kind = kind, .clients = clients};
  options.text.alphabet = TextAlphabet::kLatin;
  return options;
}

TEST(RealTextTest, ShakespearesTestPartIsItsLastTenth) {
  SKIP_WITHOUT("shakespeare");
  const auto test = LoadTestData(Options("shakespeare", PartitionKind::kNone, 1));
  ASSERT_TRUE(test.ok()) << test.status().message();
  EXPECT_EQ(test->tokens.size(), 111540u);  // of 1,115,394 characters
  EXPECT_EQ(test->size(), 1742);
}

TEST(RealTextTest, ShakespearesGreatSpeakersComeFirst) {
  SKIP_WITHOUT("shakespeare");
  DataOptions options = Options("shakespeare", PartitionKind::kSpeakers, 16);
  std::size_t before = 1'000'000;
  for (options.client_index = 0; options.client_index < 16; ++options.client_index) {
    const auto data = LoadLocalData(options);
    ASSERT_TRUE(data.ok()) << data.status().message();
    EXPECT_EQ(data->train.documents.size(), 1u);
    EXPECT_LE(data->train.tokens.size(), before + 64);
    before = data->train.tokens.size();
  }
  EXPECT_GT(before, 10'000u);
}

TEST(RealTextTest, EachOfEightClientsHasALanguage) {
  SKIP_WITHOUT("languages");
  DataOptions options = Options("languages", PartitionKind::kFiles, 8);
  for (options.client_index = 0; options.client_index < 8; ++options.client_index) {
    const auto data = LoadLocalData(options);
    ASSERT_TRUE(data.ok()) << data.status().message();
    EXPECT_GT(data->train.size(), 3000);
  }
  const auto test = LoadTestData(options);
  ASSERT_TRUE(test.ok()) << test.status().message();
  EXPECT_EQ(test->documents.size(), 8u);
}

}  // namespace
}  // namespace fedmoe
