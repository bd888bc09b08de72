// The cache of encoded shards: made once, the same each time, whatever becomes of its files.
#include "storage/encoded_store.h"

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "storage/encoded_shard.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class EncodedStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    shards_ = ShardStore::Open(disk_, directory_.File("checkpoints"), spec_).value();
    base_ = shards_->Stage(0, nullptr, AllShards(spec_, 0.0f)).value();
    ASSERT_OK(shards_->Commit(base_));
  }
  std::unique_ptr<EncodedStore> Open(FileSystem& files) {
    auto store = EncodedStore::Open(files, path_, spec_, *shards_);
    EXPECT_OK(store.status());
    return store.ok() ? std::move(store).value() : nullptr;
  }
  std::unique_ptr<EncodedStore> Open() { return Open(disk_); }
  static ShardReference Reference(const Manifest& manifest, int shard) {
    return {.shard = shard,
            .digest = manifest.shards[static_cast<std::size_t>(shard)].digest,
            .encoding = Encoding::kInt8};
  }
  std::string FileOfTrunk() const { return path_ + "/" + ShardKey(trunk()); }
  ShardReference trunk() const { return Reference(base_, kTrunkShard); }
  std::vector<std::string> Names() { return disk_.List(path_).value(); }
  static std::string Read(const EncodedStore& store, const ShardReference& shard,
                          std::uint64_t size) {
    std::string bytes(size, '\0');
    EXPECT_OK(store.ReadAt(shard, 0, std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }

  UnsyncedFileSystem disk_{PosixFileSystem()};
  ModelSpec spec_ = SmallSpec();
  TempDir directory_;
  std::string path_ = directory_.File("encoded");
  std::unique_ptr<ShardStore> shards_;
  Manifest base_;
};

TEST_F(EncodedStoreTest, EncodesAShardOnce) {
  FaultFileSystem counted(disk_);
  const auto store = Open(counted);
  EXPECT_FALSE(store->Ready(trunk()));
  const std::uint64_t bytes = store->Prepare(trunk(), false).value();
  EXPECT_EQ(store->Ready(trunk()), bytes);
  EXPECT_EQ(Names(), std::vector<std::string>{ShardKey(trunk())});
  const std::string file = ReadAll(FileOfTrunk());
  EXPECT_EQ(Read(*store, trunk(), bytes), file);
  const std::int64_t operations = counted.operations();
  EXPECT_EQ(store->Prepare(trunk(), false).value(), bytes);
  EXPECT_EQ(store->Prepare(trunk(), true).value(), bytes) << "it is sound, whatever a client says";
  EXPECT_EQ(counted.operations(), operations);
  // Of the next process, too.
  EXPECT_EQ(Open(counted)->Prepare(trunk(), false).value(), bytes);
  EXPECT_EQ(ReadAll(FileOfTrunk()), file);
}

TEST_F(EncodedStoreTest, KnowsWhatItHasCheckedLately) {
  const auto store = Open();
  ASSERT_OK(store->Prepare(trunk(), false).status());
  EXPECT_FALSE(store->CheckedLately(trunk()));
  ASSERT_OK(store->Prepare(trunk(), true).status());
  EXPECT_TRUE(store->CheckedLately(trunk()));
  EXPECT_FALSE(store->CheckedLately(Reference(base_, 1)));
}

TEST_F(EncodedStoreTest, MakesADamagedFileAgain) {
  const std::uint64_t bytes = Open()->Prepare(trunk(), false).value();
  const std::string whole = ReadAll(FileOfTrunk());
  std::string flipped = whole;
  flipped[200] = static_cast<char>(flipped[200] ^ 1);
  for (const std::string& damaged : {flipped, whole.substr(0, 100), std::string(), whole + "x"}) {
    WriteAll(FileOfTrunk(), damaged);
    const auto store = Open();
    EXPECT_EQ(store->Prepare(trunk(), false).value(), bytes);
    EXPECT_EQ(ReadAll(FileOfTrunk()), whole);
    // While it runs, only a client's word makes it look.
    WriteAll(FileOfTrunk(), damaged);
    EXPECT_EQ(store->Prepare(trunk(), false).value(), bytes);
    EXPECT_EQ(ReadAll(FileOfTrunk()), damaged);
    EXPECT_EQ(store->Prepare(trunk(), true).value(), bytes);
    EXPECT_EQ(Read(*store, trunk(), bytes), whole);
  }
}

TEST_F(EncodedStoreTest, AnyFailedOperationLeavesNoFileOrAWholeOne) {
  FaultFileSystem counting(disk_);
  const std::uint64_t bytes = Open(counting)->Prepare(trunk(), false).value();
  const std::string whole = ReadAll(FileOfTrunk());
  const std::int64_t operations = counting.operations();
  ASSERT_GT(operations, 5);
  for (std::int64_t at = 0; at < operations; ++at) {
    SCOPED_TRACE("operation " + std::to_string(at));
    ASSERT_OK(disk_.Remove(FileOfTrunk()));
    FaultFileSystem files(disk_);
    files.FailFrom(at, FaultFileSystem::Fault::kWorst);
    auto store = EncodedStore::Open(files, path_, spec_, *shards_);
    if (store.ok()) {
      EXPECT_FALSE((*store)->Prepare(trunk(), false).ok());
    }
    // The next process finds what is left of it.
    EXPECT_EQ(Open()->Prepare(trunk(), false).value(), bytes);
    EXPECT_EQ(ReadAll(FileOfTrunk()), whole);
    EXPECT_EQ(Names(), std::vector<std::string>{ShardKey(trunk())});
  }
}

TEST_F(EncodedStoreTest, KeepsWhatTheNewestAndThePinnedVersionsHave) {
  const auto store = Open();
  const Manifest next = shards_->Stage(1, &base_, {RampContent(spec_, 0, 50.0f)}).value();
  ASSERT_OK(shards_->Commit(next));
  const Manifest last = shards_->Stage(2, &next, {RampContent(spec_, 1, 70.0f)}).value();
  ASSERT_OK(shards_->Commit(last));
  WriteAll(path_ + "/notes", "of somebody else");
  for (const ShardReference& shard :
       {trunk(), Reference(base_, 1), Reference(next, 0), Reference(last, 1)}) {
    ASSERT_OK(store->Prepare(shard, false).status());
  }
  EXPECT_EQ(Names().size(), 5U);
  ASSERT_OK(store->Prune(2, {1}));
  EXPECT_EQ(Names().size(), 4U) << "but for the first trunk";
  ASSERT_OK(store->Prune(2, {}));
  const std::set<std::string> expected = {"notes", ShardKey(Reference(next, 0)),
                                          ShardKey(Reference(last, 1))};
  const std::vector<std::string> names = Names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);
  std::byte byte;
  EXPECT_EQ(store->ReadAt(trunk(), 0, std::span(&byte, 1)).code(), StatusCode::kNotFound);
  EXPECT_FALSE(store->Ready(trunk()));
}

TEST_F(EncodedStoreTest, AShardThatTheCheckpointLacksIsNotFound) {
  ShardReference shard = trunk();
  shard.digest = std::string(64, 'a');
  EXPECT_EQ(Open()->Prepare(shard, false).status().code(), StatusCode::kNotFound);
  EXPECT_TRUE(Names().empty());
}

}  // namespace
}  // namespace fedmoe
