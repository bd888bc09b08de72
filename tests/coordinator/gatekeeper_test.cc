// Who may speak for whom, who may command, and what outlasts a restart.
#include "coordinator/gatekeeper.h"

#include <sstream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const Caller kAdmin = {.name = "admin", .peer = "ipv4:192.0.2.1:50000"};
const Caller kNorth = {.name = "north", .peer = "ipv4:192.0.2.2:50000"};
const Caller kLocal = {.name = "", .peer = "ipv4:127.0.0.1:50000"};

Status Denied(const std::string& why) { return {StatusCode::kPermissionDenied, why}; }

class GatekeeperTest : public ::testing::Test {
 protected:
  std::unique_ptr<Gatekeeper> Open(bool mutual, FileSystem& files = PosixFileSystem()) {
    const ServerTlsOptions options = {
        .certificate = "c", .key = "k", .client_ca = mutual ? "ca" : ""};
    return Gatekeeper::Open(files, directory_.path(), options).value();
  }

  TempDir directory_;
};

TEST_F(GatekeeperTest, WithMutualTlsACertificateIsTheName) {
  const auto gate = Open(true);
  EXPECT_TRUE(gate->CheckClient(kNorth, "north").ok());
  EXPECT_EQ(
      gate->CheckClient(kNorth, "south"),
      Denied("the certificate is of 'north', the client calls itself 'south'; set its name to "
             "'north'"));
  EXPECT_FALSE(gate->CheckClient({.name = "", .peer = "x"}, "south").ok());
}

TEST_F(GatekeeperTest, EveryRefusalIsInTheAuditLog) {
  {
    const auto gate = Open(true);
    EXPECT_FALSE(gate->CheckClient(kNorth, "south").ok());  // of any call
    EXPECT_FALSE(gate->Judge(kNorth, "east").ok());
    EXPECT_TRUE(gate->CheckClient(kNorth, "north").ok());
  }
  std::istringstream lines(
      ReadFile(PosixFileSystem(), directory_.File("audit.jsonl"), 1 << 20).value());
  std::vector<nlohmann::json> events;
  for (std::string line; std::getline(lines, line);) events.push_back(nlohmann::json::parse(line));
  ASSERT_EQ(events.size(), 1U);
  EXPECT_EQ(events[0]["event"], "rejected");
  EXPECT_EQ(events[0]["client"], "south");
  EXPECT_EQ(events[0]["certificate"], "north");
}

TEST_F(GatekeeperTest, WithoutAClientSaysWhoItIs) {
  const auto gate = Open(false);
  EXPECT_TRUE(gate->CheckClient(kLocal, "north").ok());
  EXPECT_TRUE(gate->CheckClient({.name = "", .peer = "ipv4:192.0.2.9:1"}, "south").ok());
}

TEST_F(GatekeeperTest, CommandsNeedTheAdministratorsCertificate) {
  const auto gate = Open(true);
  EXPECT_TRUE(gate->CheckAdmin(kAdmin, "stop").ok());
  EXPECT_EQ(gate->CheckAdmin(kNorth, "stop"),
            Denied("fedmoe-admin needs a certificate of 'admin' (server.tls.admin); this one is of "
                   "'north'"));
  EXPECT_FALSE(gate->CheckAdmin(kLocal, "status").ok());
}

TEST_F(GatekeeperTest, WithoutMutualTlsCommandsComeFromThisMachineAlone) {
  const auto gate = Open(false);
  for (const char* peer : {"ipv4:127.0.0.1:5", "ipv4:127.9.9.9:5", "ipv6:[::1]:5",
                           "ipv6:%5B::1%5D:5", "unix:/run/x"}) {
    EXPECT_TRUE(gate->CheckAdmin({.name = "", .peer = peer}, "stop").ok()) << peer;
  }
  for (const char* peer : {"ipv4:192.0.2.1:5", "ipv6:[2001:db8::1]:5", "ipv4:1270.0.0.1:5", ""}) {
    EXPECT_EQ(
        gate->CheckAdmin({.name = "", .peer = peer}, "stop"),
        Denied("without mutual TLS, fedmoe-admin works on the coordinator's own machine alone"))
        << peer;
  }
}

TEST_F(GatekeeperTest, WhoIsRevokedStaysSo) {
  {
    const auto gate = Open(true);
    EXPECT_TRUE(gate->Revoke(kAdmin, "north").ok());
    EXPECT_TRUE(gate->Revoke(kAdmin, "north").ok());
    EXPECT_TRUE(gate->Revoke(kAdmin, "east").ok());
    EXPECT_EQ(gate->CheckClient(kNorth, "north"), Denied("client 'north' has been revoked"));
  }
  const auto gate = Open(true);
  EXPECT_THAT(gate->Revoked(), ElementsAre("east", "north"));
  EXPECT_FALSE(gate->CheckClient(kNorth, "north").ok());
  EXPECT_TRUE(gate->Restore(kAdmin, "north").ok());
  EXPECT_TRUE(gate->CheckClient(kNorth, "north").ok());
  EXPECT_THAT(Open(true)->Revoked(), ElementsAre("east"));
}

TEST_F(GatekeeperTest, TheNamesAreReadAsAnEditorLeavesThemOrNotAtAll) {
  const std::string path = directory_.File("revoked.txt");
  ASSERT_TRUE(
      WriteFileAtomically(PosixFileSystem(), path, std::string_view("a\r\n\nb \t\nc")).ok());
  EXPECT_THAT(Open(true)->Revoked(), ElementsAre("a", "b", "c"));
  ASSERT_TRUE(WriteFileAtomically(PosixFileSystem(), path, std::string_view("a\n# gone\n")).ok());
  EXPECT_EQ(Gatekeeper::Open(PosixFileSystem(), directory_.path(), {}).status(),
            InvalidArgument(path + ":2: '# gone' is no client's name"));
}

TEST_F(GatekeeperTest, WhatIsNoNameIsNotRevoked) {
  const auto gate = Open(true);
  EXPECT_EQ(gate->CheckAdmin(kAdmin, "revoke", std::string(100, 'x')),
            InvalidArgument("client name must be 1 to 64 characters of [A-Za-z0-9._-] (got '" +
                            std::string(80, 'x') + "')"));
  EXPECT_EQ(gate->CheckAdmin(kNorth, "revoke", "a\nb").code(), StatusCode::kPermissionDenied)
      << "first of all, who asks";
  EXPECT_EQ(
      gate->Revoke(kAdmin, "a\nb"),
      InvalidArgument("client name must be 1 to 64 characters of [A-Za-z0-9._-] (got 'a\nb')"));
  EXPECT_THAT(gate->Revoked(), IsEmpty());
}

// Nobody is told of a revocation that a restart would forget, and no other is forgotten.
TEST_F(GatekeeperTest, ARevocationThatCannotBeKeptIsNone) {
  using Fault = FaultFileSystem::Fault;
  FaultFileSystem files(PosixFileSystem());
  const auto gate = Open(true, files);
  const auto operations = [&] {
    gate->audit().Flush();
    return files.operations();
  };
  ASSERT_TRUE(gate->Revoke(kAdmin, "west").ok());
  const std::int64_t before = operations();
  ASSERT_TRUE(gate->Revoke(kAdmin, "east").ok());
  // The last two are the audit log's.
  const std::int64_t count = operations() - before - 2;
  ASSERT_TRUE(gate->Restore(kAdmin, "east").ok());
  for (const Fault fault : {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails,
                            Fault::kTornRename}) {
    for (std::int64_t i = 0; i < count; ++i) {
      SCOPED_TRACE(std::to_string(static_cast<int>(fault)) + " at " + std::to_string(i));
      const std::int64_t faults = files.faults();
      files.FailAt(operations() + i, fault);
      const Status revoked = gate->Revoke(kAdmin, "north");
      EXPECT_EQ(revoked.ok(), files.faults() == faults) << revoked.ToString();
      files.Clear();
      EXPECT_EQ(gate->CheckClient(kNorth, "north").ok(), !revoked.ok());
      EXPECT_EQ(Open(true)->Revoked(), gate->Revoked());
      ASSERT_TRUE(gate->Restore(kAdmin, "north").ok());
      EXPECT_THAT(Open(true)->Revoked(), ElementsAre("west"));
    }
  }
}

}  // namespace
}  // namespace fedmoe
