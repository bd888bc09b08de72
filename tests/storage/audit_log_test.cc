#include "storage/audit_log.h"

#include <algorithm>
#include <filesystem>
#include <sstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

AuditEvent Rejected(const std::string& client, const std::string& peer = "ipv4:10.0.0.1:5") {
  return {.event = "rejected", .client = client, .certificate = "c", .peer = peer, .detail = "no"};
}

class AuditLogTest : public ::testing::Test {
 protected:
  std::unique_ptr<AuditLog> Open(FileSystem& files = PosixFileSystem(), std::size_t limit = 4096) {
    return AuditLog::Open(files, directory_.File("audit.jsonl"), limit).value();
  }
  std::vector<nlohmann::json> Lines() {
    std::istringstream text(
        ReadFile(PosixFileSystem(), directory_.File("audit.jsonl"), 1 << 20).value());
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(text, line);) {
      if (!line.empty()) lines.push_back(nlohmann::json::parse(line));
    }
    return lines;
  }

  TempDir directory_;
};

TEST_F(AuditLogTest, KeepsTheOrderAndGoesOnWhereItWas) {
  Open()->Record(
      {.event = "admitted", .client = "a", .certificate = "a", .peer = "p", .detail = ""});
  const auto log = Open();
  log->Record(
      {.event = "revoked", .client = "a", .certificate = "admin", .peer = "q", .detail = ""});
  log->Record(Rejected("a"));
  log->Flush();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_EQ(lines[0]["event"], "admitted");
  EXPECT_EQ(lines[1]["event"], "revoked");
  EXPECT_EQ(lines[1]["certificate"], "admin");
  EXPECT_EQ(lines[2]["detail"], "no");
  EXPECT_LE(lines[0]["time"], lines[2]["time"]);
}

// Whoever asks again and again does not fill the disk.
TEST_F(AuditLogTest, EqualRejectionsAreOneLine) {
  auto log = Open();
  for (int i = 0; i < 1000; ++i) log->Record(Rejected("a", "ipv4:10.0.0.1:" + std::to_string(i)));
  log->Record(Rejected("a", "ipv4:10.0.0.2:5"));
  log->Record(Rejected("b"));
  for (int i = 0; i < 2; ++i) {
    log->Record({.event = "admitted", .client = "a", .certificate = "", .peer = "p", .detail = ""});
    log->Record({.event = "revoked", .client = "a", .certificate = "", .peer = "p", .detail = ""});
  }
  log->Flush();
  EXPECT_EQ(Lines().size(), 6U);
  log.reset();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 8U);
  EXPECT_EQ(lines[6]["client"], "a");
  EXPECT_EQ(lines[6]["repeated"], 999);
  EXPECT_EQ(lines[7]["event"], "admitted");
  EXPECT_EQ(lines[7]["repeated"], 1);
}

TEST_F(AuditLogTest, WhatIsDroppedIsCountedThoughNothingFollows) {
  Open(PosixFileSystem(), /*limit=*/0)->Record(Rejected("a"));
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0]["event"], "dropped");
  EXPECT_EQ(lines[0]["dropped"], 1);
}

TEST_F(AuditLogTest, OnlyRejectionsAreDropped) {
  const auto log = Open(PosixFileSystem(), /*limit=*/0);
  for (const char* event : {"admitted", "revoked", "restored", "commanded"})
    log->Record({.event = event, .client = "a", .certificate = "", .peer = "p", .detail = ""});
  log->Flush();
  EXPECT_EQ(Lines().size(), 4U);
}

// Nor does whoever asks under a thousand names, or under long ones.
TEST_F(AuditLogTest, AFloodOfRejectionsIsCutOff) {
  const auto log = Open();
  for (int i = 0; i < 1000; ++i) log->Record(Rejected("a" + std::to_string(i)));
  log->Record(Rejected(std::string(1 << 20, 'x'), "ipv4:10.0.0.2:5"));
  log->Flush();
  const auto lines = Lines();
  ASSERT_EQ(lines.size(), 51U);
  EXPECT_EQ(lines.back()["client"], std::string(256, 'x'));
  EXPECT_EQ(lines.back()["dropped"], 950);
}

TEST_F(AuditLogTest, ALineThatWasTornDoesNotTakeTheNextWithIt) {
  FaultFileSystem files(PosixFileSystem());
  {
    const auto log = Open(files);
    files.FailAt(files.operations(), FaultFileSystem::Fault::kShortWrite);
    log->Record(Rejected("a"));
    log->Flush();
    log->Record(Rejected("b"));
    log->Flush();
    files.FailAt(files.operations(), FaultFileSystem::Fault::kShortWrite);
    log->Record(Rejected("c"));
  }
  Open()->Record(Rejected("d"));
  std::istringstream text(
      ReadFile(PosixFileSystem(), directory_.File("audit.jsonl"), 1 << 20).value());
  std::vector<std::string> whole;
  for (std::string line; std::getline(text, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_discarded()) whole.push_back(json["client"]);
  }
  EXPECT_EQ(whole, (std::vector<std::string>{"b", "d"}));
}

TEST_F(AuditLogTest, WhatIsNoTextIsWrittenAllTheSame) {
  const auto log = Open();
  log->Record(Rejected("\xff\n\"x"));
  log->Flush();
  ASSERT_EQ(Lines().size(), 1U);
  EXPECT_EQ(Lines()[0]["client"], "\xEF\xBF\xBD\n\"x");
}

TEST_F(AuditLogTest, AFullDiskLosesEventsAndNothingElse) {
  FaultFileSystem files(PosixFileSystem());
  {
    const auto log = Open(files);
    files.FailFrom(files.operations(), FaultFileSystem::Fault::kNoSpace);
    log->Record(Rejected("a"));
    log->Flush();
    files.Clear();
    log->Record(Rejected("b"));
    log->Flush();
  }
  ASSERT_EQ(Lines().size(), 1U);
  EXPECT_EQ(Lines()[0]["client"], "b");
}

TEST_F(AuditLogTest, NeverHoldsMoreThanItsLimit) {
  const auto log = Open(PosixFileSystem(), /*limit=*/0);
  log->Record(Rejected("a"));
  log->Flush();
  EXPECT_TRUE(Lines().empty());
}

// One failed operation loses what it was to write, and no line before or after it.
TEST_F(AuditLogTest, AFaultAtAnyOperationLosesNoOtherLine) {
  using Fault = FaultFileSystem::Fault;
  const std::vector<std::string> clients = {"a", "b", "c", "d"};
  for (const Fault fault :
       {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      std::filesystem::remove(directory_.File("audit.jsonl"));
      FaultFileSystem files(PosixFileSystem());
      files.FailAt(index, fault);
      {
        auto log = AuditLog::Open(files, directory_.File("audit.jsonl"));
        if (!log.ok()) log = AuditLog::Open(files, directory_.File("audit.jsonl"));
        ASSERT_TRUE(log.ok()) << "the fault was to be the only one";
        for (const std::string& client : clients) {
          (*log)->Record(Rejected(client));
          (*log)->Flush();
        }
      }
      Open()->Record(Rejected("e"));
      std::istringstream text(
          ReadFile(PosixFileSystem(), directory_.File("audit.jsonl"), 1 << 20).value());
      std::vector<std::string> whole;
      for (std::string line; std::getline(text, line);) {
        const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
        if (!json.is_discarded()) whole.push_back(json["client"]);
      }
      ASSERT_FALSE(whole.empty());
      EXPECT_EQ(whole.back(), "e");
      EXPECT_GE(whole.size(), clients.size() + (files.faults() == 0 ? 1 : 0));
      EXPECT_TRUE(std::is_sorted(whole.begin(), whole.end()));
      if (files.operations() <= index) break;
    }
  }
}

}  // namespace
}  // namespace fedmoe
