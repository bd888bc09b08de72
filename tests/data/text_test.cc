// Text: ids, windows, speakers, files, and what is kept back.
#include <algorithm>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/batch.h"
#include "data/dataset.h"
#include "data/text_codec.h"
#include "tests/data/image_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;

Result<std::vector<std::uint16_t>> Ids(const std::string& text, TextAlphabet alphabet) {
  std::vector<std::uint16_t> ids;
  FEDMOE_RETURN_IF_ERROR(AppendIds(text, alphabet, "a.txt", 100, ids));
  return ids;
}

TEST(TextCodecTest, AnIdIsTheCodePointOrTheSubstitute) {
  const std::string text = "a\xc3\xa9\xc5\x82\xe2\x82\xac\xf0\x9f\x98\x80\n";  // a é ł € smiley
  EXPECT_THAT(*Ids(text, TextAlphabet::kAscii), ElementsAre(97, 26, 26, 26, 26, 10));
  EXPECT_THAT(*Ids(text, TextAlphabet::kLatin), ElementsAre(97, 233, 322, 26, 26, 10));
  EXPECT_THAT(*Ids("a\xc3\xff", TextAlphabet::kBytes), ElementsAre(97, 195, 255));
}

TEST(TextCodecTest, InvalidUtf8IsNamedByItsByte) {
  const std::vector<std::string> invalid = {
      "\x80",              // a continuation without a lead
      "\xc3",              // cut
      "\xc3(",             // no continuation
      "\xc0\x80",          // longer than needed
      "\xe0\x80\x80",      // longer than needed
      "\xed\xa0\x80",      // a surrogate
      "\xf4\x90\x80\x80",  // above U+10FFFF
      "\xff",
  };
  for (const std::string& bytes : invalid) {
    EXPECT_EQ(Ids("ab" + bytes, TextAlphabet::kLatin).status(),
              InvalidArgument("a.txt: invalid UTF-8 at byte 102; set data.text.alphabet to bytes "
                              "to read it as it is"));
    EXPECT_TRUE(Ids(bytes, TextAlphabet::kBytes).ok());
  }
}

TEST(TextCodecTest, SpeakersComeByTheLengthOfTheirText) {
  const std::string text =
      "Prologue without a name\n\nBEN:\nHi.\n\nANN:\nLong speech\nof two lines: "
      "see?\n\nBEN:\nBye\n\n"
      "goes on.\n\nCY:\nHi.\n\nAL:\nHi.\n\n";
  const auto speakers = FindSpeakers(text);
  ASSERT_EQ(speakers.size(), 4u);
  EXPECT_EQ(speakers[0].name, "ANN");
  EXPECT_EQ(speakers[1].name, "BEN");
  EXPECT_EQ(speakers[2].name, "AL");  // as much as CY, so the name decides
  EXPECT_EQ(speakers[3].name, "CY");
  ASSERT_EQ(speakers[1].blocks.size(), 2u);
  const auto& block = speakers[1].blocks[1];
  EXPECT_EQ(text.substr(block.begin, block.end - block.begin), "BEN:\nBye\n\ngoes on.\n\n");
  EXPECT_TRUE(FindSpeakers("no names\n\nat all\n").empty());
}

class TextTest : public ::testing::Test {
 protected:
  TextTest() {
    options_.dataset = DatasetKind::kText;
    options_.path = folder_.path();
    options_.holdout_fraction = 0.0;
    options_.text.context = 4;
    options_.text.test_fraction = 0.25;
  }
  std::string File(const std::string& name) const { return folder_.File(name); }
  void Write(const std::string& name, const std::string& text) const {
    WriteBytes(File(name), text);
  }
  Status LocalError() const { return LoadLocalData(options_).status(); }

  TempDir folder_;
  DataOptions options_;
};

// Input and targets of each example, as "abcd>bcde".
std::vector<std::string> Examples(const Dataset& data, const AugmentOptions& augment = {},
                                  std::uint64_t key = 0) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(data.size()));
  std::iota(all.begin(), all.end(), 0);
  ExampleBatch batch;
  const Status status = MakeBatch(data, all, augment, key, batch);
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_TRUE(batch.features.empty());
  std::vector<std::string> examples;
  const auto context = static_cast<std::size_t>(data.shape[0]);
  for (std::size_t i = 0; i < all.size() * context; i += context) {
    std::string example;
    for (std::size_t j = 0; j < context; ++j) example += static_cast<char>(batch.tokens[i + j]);
    example += '>';
    for (std::size_t j = 0; j < context; ++j) example += static_cast<char>(batch.labels[i + j]);
    examples.push_back(example);
  }
  return examples;
}

TEST_F(TextTest, AnExampleIsAWindowAndAsksForEachNextCharacter) {
  Write("input.txt", "abcdefghijklmnopqrstuvwx");  // 24: 18 for training, 6 for the test
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_THAT(data->train.shape, ElementsAre(4));
  EXPECT_EQ(data->train.classes, 128);
  EXPECT_EQ(data->train.ExampleElements(), 4);
  EXPECT_THAT(Examples(data->train),
              ElementsAre("abcd>bcde", "efgh>fghi", "ijkl>jklm", "mnop>nopq"));
  EXPECT_EQ(data->holdout.size(), 0);
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(Examples(*test), ElementsAre("stuv>tuvw"));
  options_.path = File("input.txt");
  EXPECT_EQ(Examples(LoadLocalData(options_)->train), Examples(data->train));
}

TEST_F(TextTest, TheTestPartBeginsAtACharacter) {
  std::string text = "abcdefghijklmnopq";
  text += "\xc3\xa9wxyz!";  // the cut at byte 18 falls inside the é
  Write("input.txt", text);
  const auto test = LoadTestData(options_);
  ASSERT_TRUE(test.ok()) << test.status().ToString();
  EXPECT_THAT(Examples(*test), ElementsAre("wxyz>xyz!"));
}

TEST_F(TextTest, WhatIsKeptBackIsTheEndOfEachDocument) {
  Write("a.train.txt", "abcdefghijklmnopqrstu");  // 5 windows
  Write("b.train.txt", "ABCDEFGHIJKLMNOPQRSTU");
  options_.holdout_fraction = 0.4;
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_THAT(Examples(data->train), ElementsAre("abcd>bcde", "efgh>fghi", "ijkl>jklm", "ABCD>BCDE",
                                                 "EFGH>FGHI", "IJKL>JKLM"));
  EXPECT_THAT(Examples(data->holdout),
              ElementsAre("mnop>nopq", "qrst>rstu", "MNOP>NOPQ", "QRST>RSTU"));
  // However far a window is shifted, it asks for nothing that was kept back.
  for (std::uint64_t key = 0; key < 200; ++key) {
    for (const std::string& example : Examples(data->train, {.random_shift = true}, key)) {
      EXPECT_LE(example.back() & ~0x20, 'M') << example;
    }
  }
}

TEST_F(TextTest, ManyShortDocumentsGiveTheirShareTogether) {
  for (const char* name : {"a", "b", "c", "d", "e"}) {
    Write(std::string(name) + ".train.txt", std::string("12345"));
  }
  options_.holdout_fraction = 0.2;
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.size(), 4);
  EXPECT_EQ(data->holdout.size(), 1);
  options_.partition = {.kind = PartitionKind::kFiles, .clients = 5};
  options_.holdout_fraction = 0.6;
  EXPECT_EQ(LocalError(), InvalidArgument("data.holdout_fraction 0.6 leaves none of client 0's 1 "
                                          "examples to train on"));
}

TEST_F(TextTest, AShiftedWindowStaysInItsDocumentAndReachesAllPlaces) {
  Write("a.train.txt", "abcdefghi");  // two windows
  Write("b.train.txt", "ABCDE");      // one, which cannot move
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  std::set<std::string> first, second;
  for (std::uint64_t key = 0; key < 200; ++key) {
    const auto examples = Examples(data->train, {.random_shift = true}, key);
    EXPECT_EQ(examples, Examples(data->train, {.random_shift = true}, key));
    first.insert(examples[0]);
    second.insert(examples[1]);
    EXPECT_EQ(examples[2], "ABCD>BCDE");
  }
  EXPECT_THAT(first, ElementsAre("abcd>bcde", "bcde>cdef", "cdef>defg", "defg>efgh"));
  EXPECT_THAT(second, ElementsAre("bcde>cdef", "cdef>defg", "defg>efgh", "efgh>fghi"));
}

TEST_F(TextTest, OneFileAClientAndEqualPartsWhereClientsShare) {
  Write("a.train.txt", "abcdefghijklmnopqrstu");
  Write("b.train.txt", "ABCDEFGHI");
  Write("b.test.txt", "UVWXYZ");
  Write("a.test.txt", "12345");
  options_.partition = {.kind = PartitionKind::kFiles, .clients = 3};
  const auto examples = [&](int client) {
    options_.client_index = client;
    const auto data = LoadLocalData(options_);
    EXPECT_TRUE(data.ok()) << data.status().ToString();
    return Examples(data->train);
  };
  EXPECT_THAT(examples(0), ElementsAre("abcd>bcde", "efgh>fghi"));
  EXPECT_THAT(examples(1), ElementsAre("ABCD>BCDE", "EFGH>FGHI"));
  EXPECT_THAT(examples(2), ElementsAre("ijkl>jklm", "mnop>nopq", "qrst>rstu"));
  EXPECT_THAT(Examples(*LoadTestData(options_)), ElementsAre("1234>2345", "UVWX>VWXY"));
  options_.partition.clients = 7;
  options_.client_index = 1;
  EXPECT_EQ(LocalError(), InvalidArgument(File("b.train.txt") +
                                          ": 2 windows of 4 characters are too few for the 3 "
                                          "clients that share it"));
}

TEST_F(TextTest, RunsOfTheTextAreDealtToClients) {
  std::string text;
  for (int i = 0; i < 160; ++i) text += static_cast<char>('0' + i % 64);
  Write("input.txt", text + std::string(54, 'z'));
  options_.partition = {.kind = PartitionKind::kIid, .clients = 4};
  std::size_t windows = 0;
  for (options_.client_index = 0; options_.client_index < 4; ++options_.client_index) {
    const auto data = LoadLocalData(options_);
    ASSERT_TRUE(data.ok()) << data.status().ToString();
    EXPECT_GE(data->train.size(), 9);
    EXPECT_LE(data->train.size(), 11);
    windows += Examples(data->train).size();
  }
  EXPECT_EQ(windows, 39u);  // (160 - 1) / 4
  options_.client_index = 0;
  options_.partition.clients = 100;
  EXPECT_EQ(LocalError(),
            InvalidArgument("data.partition: 39 windows of 4 characters are too few for 100 "
                            "clients; lower data.partition.clients or data.text.context"));
}

TEST_F(TextTest, OneSpeakerAClient) {
  options_.text.test_fraction = 0.0;
  Write("input.txt", "B:\n12345\n\nA:\n1\n\nB:\nxyz\n\n");
  options_.partition = {.kind = PartitionKind::kSpeakers, .clients = 2};
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_THAT(Examples(data->train),
              ElementsAre("B:\n1>:\n12", "2345>345\n", "\n\nB:>\nB:\n", "\nxyz>xyz\n"));
  options_.client_index = 1;
  EXPECT_EQ(Examples(LoadLocalData(options_)->train), (std::vector<std::string>{"A:\n1>:\n1\n"}));
  options_.text.context = 8;
  EXPECT_EQ(LocalError(), InvalidArgument(File("input.txt") +
                                          ": speaker A: 6 characters are fewer than an example's 9 "
                                          "(data.text.context + 1)"));
  options_.partition.clients = 3;
  EXPECT_EQ(LocalError(),
            InvalidArgument(File("input.txt") +
                            ": 2 speakers (blocks that begin with a line \"NAME:\") are fewer than "
                            "data.partition.clients (3)"));
}

TEST_F(TextTest, MaxExamplesCountsTrainingAndHoldoutTogether) {
  Write("input.txt", std::string(1000, 'x'));
  options_.holdout_fraction = 0.2;
  options_.max_examples = 50;
  const auto data = LoadLocalData(options_);
  ASSERT_TRUE(data.ok()) << data.status().ToString();
  EXPECT_EQ(data->train.size(), 40);
  EXPECT_EQ(data->holdout.size(), 10);
  EXPECT_EQ(LoadTestData(options_)->size(), 50);
  options_.max_test_examples = 60;
  EXPECT_EQ(LoadTestData(options_)->size(), 60);
  EXPECT_EQ(LoadLocalData(options_)->train.size(), 40);
}

TEST_F(TextTest, RefusesFilesThatAreMissingEmptyOrTooShort) {
  EXPECT_EQ(LocalError(), NotFound(folder_.path() +
                                   ": neither input.txt nor files named <name>.train.txt in this "
                                   "folder"));
  EXPECT_EQ(LoadTestData(options_).status(),
            NotFound(folder_.path() +
                     ": neither input.txt nor files named <name>.test.txt in this folder"));
  Write("a.train.txt", "");
  EXPECT_EQ(LocalError(), InvalidArgument(File("a.train.txt") + ": empty"));
  Write("a.train.txt", "abcd");
  EXPECT_EQ(LocalError(),
            InvalidArgument(File("a.train.txt") + ": 4 characters are fewer than an example's 5 "
                                                  "(data.text.context + 1)"));
  Write("a.train.txt", "abcdef\xff");
  EXPECT_EQ(LocalError(), InvalidArgument(File("a.train.txt") +
                                          ": invalid UTF-8 at byte 6; set data.text.alphabet to "
                                          "bytes to read it as it is"));
  options_.text.alphabet = TextAlphabet::kBytes;
  EXPECT_EQ(LoadLocalData(options_)->train.classes, 256);
  options_.partition = {.kind = PartitionKind::kSpeakers, .clients = 1};
  EXPECT_EQ(LocalError(),
            InvalidArgument(folder_.path() + ": data.partition.kind speakers needs a single file, "
                                             "input.txt; for this folder use files"));
  Write("input.txt", "abcdefgh");
  EXPECT_EQ(LoadTestData(options_).status(),
            InvalidArgument(File("input.txt") +
                            ": the test part: 2 characters are fewer than an example's 5 "
                            "(data.text.context + 1)"));
  options_.path = File("none");
  EXPECT_EQ(LocalError(), NotFound(File("none") +
                                   ": no such file or folder; fetch text with ./scripts/fetch_data "
                                   "shakespeare or ./scripts/fetch_data languages, or set "
                                   "data.path"));
}

TEST_F(TextTest, RefusesOptionsThatDoNotFit) {
  options_.partition.kind = PartitionKind::kDirichlet;
  EXPECT_EQ(LocalError(),
            InvalidArgument("data.partition.kind must be none, iid, files or speakers for dataset "
                            "text, which has no labels to split by"));
  options_.dataset = DatasetKind::kCsv;
  options_.partition.kind = PartitionKind::kFiles;
  EXPECT_EQ(LocalError(),
            InvalidArgument("data.partition.kind files and speakers are for dataset text alone"));
  options_.dataset = DatasetKind::kText;
  options_.partition.kind = PartitionKind::kNone;
  options_.text.context = 0;
  EXPECT_EQ(LocalError(), InvalidArgument("data.text.context must be in 1 to 65536 (got 0)"));
  options_.text.context = 4;
  options_.text.test_fraction = 1.0;
  EXPECT_EQ(LocalError(), InvalidArgument("data.text.test_fraction must be in 0 to 0.9 (got 1)"));
  options_.path = "";
  EXPECT_EQ(LocalError(), InvalidArgument("data.path must name a text file or a folder for dataset "
                                          "text (got \"\")"));
  options_.max_examples = -1;
  EXPECT_EQ(LocalError(), InvalidArgument("data.max_examples must be at least 0 (got -1)"));
  options_.max_test_examples = -2;
  EXPECT_EQ(LocalError(), InvalidArgument("data.max_test_examples must be at least 0 (got -2)"));
}

}  // namespace
}  // namespace fedmoe
