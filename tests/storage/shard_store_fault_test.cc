// Whatever fails, and wherever: the store opens again with the old version whole, and the new one
// whole or absent.
#include <filesystem>

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "storage/shard_store.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using Fault = FaultFileSystem::Fault;

constexpr Fault kFaults[] = {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite,
                             Fault::kSyncFails, Fault::kTornRename};

class ShardStoreFaults : public ::testing::Test {
 protected:
  // A fresh store with versions 0 and 1, through a file system without faults.
  void Reset() {
    std::filesystem::remove_all(path_);
    auto store = ShardStore::Open(disk_, path_, spec_).value();
    first_ = store->Stage(0, nullptr, AllShards(spec_, 0.0f, 2)).value();
    ASSERT_OK(store->Commit(first_));
    second_ = store->Stage(1, &first_, {RampContent(spec_, 1, 50.0f, 2)}).value();
    ASSERT_OK(store->Commit(second_));
  }

  void ExpectWhole(const ShardStore& store, const Manifest& manifest) {
    const auto read = store.Get(manifest.version);
    ASSERT_OK(read.status());
    ASSERT_EQ(*read, manifest);
    for (const StoredShard& shard : manifest.shards) {
      ASSERT_OK(store.ReadShard(shard.digest).status());
      for (int index = 0; index < shard.moment_count; ++index) {
        ASSERT_OK(store.ReadMoments(shard, index).status());
      }
    }
  }

  std::vector<ShardContent> Change() {
    return {RampContent(spec_, 0, 60.0f, 2), RampContent(spec_, 2, 70.0f, 2)};
  }
  // What version 2 has when all goes well.
  Manifest Third() {
    Reset();
    auto store = ShardStore::Open(disk_, path_, spec_).value();
    return store->Stage(2, &second_, Change()).value();
  }

  // Stage and commit version 2 with the fault. The first error, or OK.
  Status Attempt(ShardStore& store) {
    FEDMOE_ASSIGN_OR_RETURN(const Manifest staged, store.Stage(2, &second_, Change()));
    return store.Commit(staged);
  }

  void CheckAfter(const Manifest& third, const Status& status) {
    const auto opened = ShardStore::Open(disk_, path_, spec_);
    ASSERT_OK(opened.status());
    ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, first_));
    ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, second_));
    if (status.ok() || (*opened)->Versions().size() == 3) {
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, third));
    }
    // And it goes on from there.
    ASSERT_OK(Attempt(**opened));
    ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, third));
  }

  UnsyncedFileSystem disk_{PosixFileSystem()};
  ModelSpec spec_ = SmallSpec();
  TempDir directory_;
  std::string path_ = directory_.File("checkpoints");
  Manifest first_, second_;
};

TEST_F(ShardStoreFaults, LeaveTheOldVersionsWholeAndTheNewOneWholeOrAbsent) {
  const Manifest third = Third();
  int failures = 0;
  for (const Fault fault : kFaults) {
    for (const bool lasting : {false, true}) {
      for (std::int64_t index = 0;; ++index) {
        SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) +
                     (lasting ? " from " : " at ") + std::to_string(index));
        Reset();
        FaultFileSystem files(disk_);
        auto store = ShardStore::Open(files, path_, spec_).value();
        const std::int64_t begin = files.operations();
        lasting ? files.FailFrom(begin + index, fault) : files.FailAt(begin + index, fault);
        const Status status = Attempt(*store);
        const bool past_the_end = files.operations() <= begin + index;
        ASSERT_EQ(status.ok(), files.faults() == 0) << status.ToString();
        failures += status.ok() ? 0 : 1;
        // Also without opening again: the version is there if and only if that was said.
        ASSERT_EQ(store->Get(2).ok(), status.ok());
        store.reset();
        ASSERT_NO_FATAL_FAILURE(CheckAfter(third, status));
        if (past_the_end) break;
      }
    }
  }
  EXPECT_GT(failures, 100);
}

// Both names become durable with one sync of the directory; a power cut before it may keep either.
TEST_F(ShardStoreFaults, DropACommitWhoseTensorsKeptTheirTemporaryName) {
  const Manifest third = Third();
  Reset();
  auto store = ShardStore::Open(disk_, path_, spec_).value();
  ASSERT_OK(Attempt(*store));
  store.reset();
  const std::string tensors = path_ + "/000002.safetensors";
  ASSERT_OK(disk_.Rename(tensors, tensors + ".tmp"));
  ASSERT_NO_FATAL_FAILURE(CheckAfter(third, Internal("was not committed")));
  // Without the temporary name it is a loss, and said so.
  ASSERT_OK(disk_.Remove(tensors));
  EXPECT_EQ(ShardStore::Open(disk_, path_, spec_).status().ToString(),
            "DATA_LOSS: " + path_ + "/000002.json: 000002.safetensors is missing");
}

// ENOSPC while checkpointing, then space again: the same store, the same staged version.
TEST_F(ShardStoreFaults, LetACommitBeTriedAgain) {
  const Manifest third = Third();
  for (const Fault fault :
       {Fault::kNoSpace, Fault::kIoError, Fault::kShortWrite, Fault::kSyncFails}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      Reset();
      FaultFileSystem files(disk_);
      auto store = ShardStore::Open(files, path_, spec_).value();
      const Manifest staged = store->Stage(2, &second_, Change()).value();
      const std::int64_t begin = files.operations();
      files.FailAt(begin + index, fault);
      const Status status = store->Commit(staged);
      const bool past_the_end = files.operations() <= begin + index;
      files.Clear();
      ASSERT_OK(store->Commit(staged));
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(*store, third));
      ASSERT_NO_FATAL_FAILURE(CheckAfter(third, Status::Ok()));
      if (past_the_end) break;
    }
  }
}

TEST_F(ShardStoreFaults, LetAFailedCommitBeDiscarded) {
  const Manifest third = Third();
  for (std::int64_t index = 0;; ++index) {
    SCOPED_TRACE("fault at " + std::to_string(index));
    Reset();
    const auto before = disk_.List(path_).value();
    FaultFileSystem files(disk_);
    auto store = ShardStore::Open(files, path_, spec_).value();
    const Manifest staged = store->Stage(2, &second_, Change()).value();
    const std::int64_t begin = files.operations();
    files.FailAt(begin + index, Fault::kIoError);
    const Status status = store->Commit(staged);
    if (files.operations() <= begin + index) break;
    ASSERT_FALSE(status.ok());
    store->Discard(staged);
    std::vector<std::string> after;
    const std::vector<std::string> names = disk_.List(path_).value();
    for (const std::string& name : names) {
      if (!name.ends_with(".json.tmp")) after.push_back(name);
    }
    ASSERT_EQ(after, before);
    ASSERT_NO_FATAL_FAILURE(CheckAfter(third, status));
  }
}

TEST_F(ShardStoreFaults, InPruningLoseNothingThatIsKept) {
  for (const Fault fault : {Fault::kIoError, Fault::kSyncFails}) {
    for (std::int64_t index = 0;; ++index) {
      SCOPED_TRACE("fault " + std::to_string(static_cast<int>(fault)) + " at " +
                   std::to_string(index));
      Reset();
      FaultFileSystem files(disk_);
      auto store = ShardStore::Open(files, path_, spec_).value();
      const std::int64_t begin = files.operations();
      files.FailAt(begin + index, fault);
      const Status status = store->Prune(1, {});
      const bool past_the_end = files.operations() <= begin + index;
      ASSERT_EQ(status.ok(), files.faults() == 0);
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(*store, second_));
      const auto opened = ShardStore::Open(disk_, path_, spec_);
      ASSERT_OK(opened.status());
      ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, second_));
      for (const ModelVersion version : (*opened)->Versions()) {
        ASSERT_NO_FATAL_FAILURE(ExpectWhole(**opened, (*opened)->Get(version).value()));
      }
      if (past_the_end) break;
    }
  }
}

}  // namespace
}  // namespace fedmoe
