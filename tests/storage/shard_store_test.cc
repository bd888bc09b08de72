#include "storage/shard_store.h"

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "common/unsynced_file_system.h"
#include "storage/safetensors.h"
#include "tests/storage/storage_support.h"
#include "tests/support/fault_file_system.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class ShardStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<ShardStore> Open() {
    auto store = ShardStore::Open(disk_, path_, spec_);
    EXPECT_OK(store.status());
    return store.ok() ? std::move(store).value() : nullptr;
  }
  static Manifest Write(ShardStore& store, ModelVersion version, const Manifest* base,
                        const std::vector<ShardContent>& changed) {
    const auto staged = store.Stage(version, base, changed);
    EXPECT_OK(staged.status());
    EXPECT_OK(store.Commit(*staged));
    return *staged;
  }
  std::vector<std::string> Names() { return disk_.List(path_).value(); }
  // Changes one byte of a file.
  void Damage(const std::string& name, std::uint64_t offset) {
    std::string content = ReadAll(path_ + "/" + name);
    content[offset] = static_cast<char>(content[offset] ^ 1);
    WriteAll(path_ + "/" + name, content);
  }

  UnsyncedFileSystem disk_{PosixFileSystem()};
  FaultFileSystem files_{disk_};
  ModelSpec spec_ = SmallSpec();
  TempDir directory_;
  std::string path_ = directory_.File("checkpoints");
};

TEST_F(ShardStoreTest, KeepsAVersionAcrossOpening) {
  const Manifest written = Write(*Open(), 0, nullptr, AllShards(spec_, 0.0f));
  const auto store = Open();
  EXPECT_EQ(store->Versions(), std::vector<ModelVersion>{0});
  const Manifest read = store->Get(0).value();
  EXPECT_EQ(read, written);
  EXPECT_EQ(read.model_digest, ModelDigest(read.Digests()));
  for (int shard = 0; shard < spec_.ShardCount(); ++shard) {
    const Digest digest = read.Digests()[static_cast<std::size_t>(shard)];
    const std::vector<float> values =
        Ramp(spec_.ShardElements(shard), 100.0f * static_cast<float>(shard));
    EXPECT_EQ(ReadValues(*store, digest), values);
    EXPECT_EQ(digest, Sha256Of(std::as_bytes(std::span(values))));
    EXPECT_EQ(store->ShardBytes(digest).value(),
              static_cast<std::uint64_t>(spec_.ShardBytes(shard)));
  }
  EXPECT_EQ(Names(), (std::vector<std::string>{"000000.json", "000000.safetensors"}));
}

// A shard that is digested and written beside its making: in pieces, from a buffer that is used
// again.
class LargeShard : public ShardStoreTest {
 protected:
  LargeShard() {
    spec_.blocks[0].shape = {std::int64_t{3} << 19};
    for (const std::int64_t elements : {200'000, 1, 400'000}) pieces_.push_back(elements);
    pieces_.push_back(spec_.ShardElements(0) - 600'001);
  }
  std::vector<ShardContent> Shards() {
    std::vector<ShardContent> shards = AllShards(spec_, 0.0f);
    shards[0].write = [this](const ShardContent::Sinks& sinks) -> Status {
      std::vector<float> piece;
      float next = 0.0f;
      for (const std::int64_t elements : pieces_) {
        piece = Ramp(elements, next);
        next += static_cast<float>(elements);
        FEDMOE_RETURN_IF_ERROR(sinks.values(piece));
        std::fill(piece.begin(), piece.end(), -1.0f);
      }
      return Status::Ok();
    };
    return shards;
  }

  std::vector<std::int64_t> pieces_;
};

TEST_F(LargeShard, HasTheBytesAndTheDigestOfItsPieces) {
  const Manifest written = Write(*Open(), 0, nullptr, Shards());
  const std::vector<float> values = Ramp(spec_.ShardElements(0), 0.0f);
  EXPECT_EQ(written.shards[0].digest, Sha256Of(std::as_bytes(std::span(values))));
  const auto store = Open();
  EXPECT_TRUE(ReadValues(*store, written.shards[0].digest) == values);
  EXPECT_EQ(ReadValues(*store, written.shards[1].digest), Ramp(5, 100.0f));
}

TEST_F(LargeShard, TooManyElementsAreRefused) {
  pieces_.push_back(1);
  EXPECT_EQ(Open()->Stage(0, nullptr, Shards()).status().ToString(),
            "INTERNAL: shard trunk: too many elements are given");
}

TEST_F(LargeShard, WhicheverPieceCannotBeWrittenLeavesNothing) {
  const auto store = ShardStore::Open(files_, path_, spec_).value();
  for (std::int64_t index = 2; index < 6; ++index) {  // after the file and its header
    files_.FailAt(files_.operations() + index, FaultFileSystem::Fault::kNoSpace);
    const Status staged = store->Stage(0, nullptr, Shards()).status();
    EXPECT_EQ(staged.ToString(), "RESOURCE_EXHAUSTED: shard trunk: write " + path_ +
                                     "/000000.safetensors.tmp: No space left on device");
    EXPECT_EQ(Names(), std::vector<std::string>{});
  }
  files_.Clear();
  EXPECT_OK(store->Stage(0, nullptr, Shards()).status());
}

TEST_F(ShardStoreTest, WritesOnlyWhatChanged) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  const Manifest next =
      Write(*store, 1, &base, {RampContent(spec_, 3, 7.0f), RampContent(spec_, 0, 9.0f)});
  EXPECT_EQ(next.shards[1], base.shards[1]);
  EXPECT_EQ(next.shards[2], base.shards[2]);
  EXPECT_NE(next.model_digest, base.model_digest);
  EXPECT_EQ(ReadValues(*store, next.shards[0].digest), Ramp(8, 9.0f));
  EXPECT_EQ(ReadValues(*store, next.shards[3].digest), Ramp(5, 7.0f));
  EXPECT_EQ(ReadValues(*store, next.shards[1].digest), Ramp(5, 100.0f));

  const auto file = OpenFile(path_ + "/000001.safetensors");
  const SafetensorsFile header = ReadSafetensorsHeader(*file, "x").value();
  std::vector<std::string> names;
  for (const TensorInfo& tensor : header.tensors) names.push_back(tensor.name);
  EXPECT_EQ(names, (std::vector<std::string>{"trunk.weight", "head.bias", "experts.2.weight",
                                             "experts.2.bias"}));
  EXPECT_EQ(header.metadata.at("version"), "1");
}

TEST_F(ShardStoreTest, KeepsMomentsBesideTheValues) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  EXPECT_EQ(base.shards[1].moment_count, 0);
  const Manifest next =
      Write(*store, 1, &base, {RampContent(spec_, 1, 7.0f, 2), RampContent(spec_, 2, 9.0f, 2)});
  // The third version changes one of the two and takes the other's moments over.
  Write(*store, 2, &next, {RampContent(spec_, 1, 11.0f, 2)});
  const auto again = Open();
  const Manifest last = again->Get(2).value();
  const auto moments = [&](int shard, int index) {
    const auto region = again->ReadMoments(last.shards[static_cast<std::size_t>(shard)], index);
    return region.ok() ? FloatsOf((*region)->bytes()) : std::vector<float>{};
  };
  EXPECT_EQ(moments(1, 0), Ramp(5, 1011.0f));
  EXPECT_EQ(moments(1, 1), Ramp(5, 2011.0f));
  EXPECT_EQ(moments(2, 0), Ramp(5, 1009.0f));
  EXPECT_EQ(moments(2, 1), Ramp(5, 2009.0f));
  EXPECT_EQ(last.shards[1].steps, 1);
  EXPECT_EQ(again->ReadMoments(last.shards[1], 2).status().ToString(),
            "INVALID_ARGUMENT: shard expert.0 has 2 moments, not moment 2");
  EXPECT_EQ(again->ReadMoments(last.shards[0], 0).status().ToString(),
            "INVALID_ARGUMENT: shard trunk has 0 moments, not moment 0");

  const auto file = OpenFile(path_ + "/000001.moments.safetensors");
  std::vector<std::string> names;
  const SafetensorsFile header = ReadSafetensorsHeader(*file, "x").value();
  for (const TensorInfo& tensor : header.tensors) {
    names.push_back(tensor.name);
  }
  EXPECT_EQ(names, (std::vector<std::string>{"first.experts.0.weight", "first.experts.0.bias",
                                             "second.experts.0.weight", "second.experts.0.bias",
                                             "first.experts.1.weight", "first.experts.1.bias",
                                             "second.experts.1.weight", "second.experts.1.bias"}));
}

TEST_F(ShardStoreTest, KeepsOneMomentWhereThereIsOne) {
  const auto store = Open();
  const Manifest manifest = Write(*store, 0, nullptr, AllShards(spec_, 0.0f, 1));
  for (const StoredShard& shard : manifest.shards) {
    const auto region = store->ReadMoments(shard, 0);
    ASSERT_OK(region.status());
    EXPECT_EQ(
        FloatsOf((*region)->bytes()),
        Ramp(spec_.ShardElements(shard.shard), 1000.0f + 100.0f * static_cast<float>(shard.shard)));
  }
}

TEST_F(ShardStoreTest, StagesNothingThatShows) {
  const auto store = Open();
  const Manifest staged = store->Stage(0, nullptr, AllShards(spec_, 0.0f, 2)).value();
  EXPECT_EQ(store->Versions(), std::vector<ModelVersion>{});
  EXPECT_EQ(store->Get(0).status().ToString(), "NOT_FOUND: " + path_ + ": no version 0");
  EXPECT_EQ(store->ReadShard(staged.shards[0].digest).status().ToString(),
            "NOT_FOUND: " + path_ + ": no shard " + staged.shards[0].digest);
  store->Discard(staged);
  EXPECT_EQ(Names(), std::vector<std::string>{});
  EXPECT_EQ(store->Commit(staged).ToString(),
            "FAILED_PRECONDITION: " + path_ + "/000000.json: version 0 is not staged");
}

TEST_F(ShardStoreTest, StagesAgainInsteadOfWhatWasStaged) {
  const auto store = Open();
  ASSERT_OK(store->Stage(0, nullptr, AllShards(spec_, 0.0f, 2)).status());
  const Manifest second = store->Stage(0, nullptr, AllShards(spec_, 50.0f)).value();
  ASSERT_OK(store->Commit(second));
  ASSERT_OK(store->Commit(second));
  EXPECT_EQ(ReadValues(*store, second.shards[0].digest), Ramp(8, 50.0f));
  EXPECT_EQ(Names(), (std::vector<std::string>{"000000.json", "000000.safetensors"}));
}

TEST_F(ShardStoreTest, ReplacesTheNewestVersionOnly) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  Write(*store, 1, &base, {RampContent(spec_, 1, 7.0f)});
  const Manifest other = Write(*store, 1, &base, {RampContent(spec_, 1, 8.0f)});
  EXPECT_EQ(ReadValues(*Open(), other.shards[1].digest), Ramp(5, 8.0f));
  const Manifest old = store->Stage(0, nullptr, AllShards(spec_, 1.0f)).value();
  EXPECT_EQ(store->Commit(old).ToString(),
            "FAILED_PRECONDITION: " + path_ +
                "/000000.json: another version 0 is committed, and later ones stand on it");
  store->Discard(old);
  EXPECT_EQ(ReadValues(*Open(), base.shards[0].digest), Ramp(8, 0.0f));
}

TEST_F(ShardStoreTest, RefusesContentOfTheWrongSize) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  const auto stage = [&](int moment_count, int values, int first, int second) {
    const auto write = [=](const ShardContent::Sinks& sinks) -> Status {
      FEDMOE_RETURN_IF_ERROR(sinks.values(Ramp(values, 0.0f)));
      FEDMOE_RETURN_IF_ERROR(sinks.first(Ramp(first, 0.0f)));
      return sinks.second(Ramp(second, 0.0f));
    };
    const Status status =
        store->Stage(1, &base, {{.shard = 3, .moment_count = moment_count, .write = write}})
            .status();
    EXPECT_EQ(Names(), (std::vector<std::string>{"000000.json", "000000.safetensors"}));
    return status.ToString();
  };
  EXPECT_EQ(stage(2, 4, 5, 5), "INTERNAL: shard expert.2: values: 4 of 5 elements are given");
  EXPECT_EQ(stage(2, 5, 4, 5),
            "INTERNAL: shard expert.2: first moments: 4 of 5 elements are given");
  EXPECT_EQ(stage(2, 5, 5, 0),
            "INTERNAL: shard expert.2: second moments: 0 of 5 elements are given");
  EXPECT_EQ(stage(2, 6, 5, 5), "INTERNAL: shard expert.2: too many elements are given");
  EXPECT_EQ(stage(0, 5, 1, 0), "INTERNAL: shard expert.2: too many elements are given");
}

TEST_F(ShardStoreTest, RefusesAStagingThatMakesNoSense) {
  const auto store = Open();
  const auto refusal = [&](const Manifest* base, const std::vector<ShardContent>& changed) {
    return store->Stage(1, base, changed).status().ToString();
  };
  const Manifest empty;
  EXPECT_EQ(refusal(nullptr, {RampContent(spec_, 0, 0.0f)}),
            "INVALID_ARGUMENT: version 1: has no base and not every shard");
  EXPECT_EQ(refusal(&empty, {}), "INVALID_ARGUMENT: version 1: its base has 0 of 4 shards");
  EXPECT_EQ(refusal(nullptr, {{.shard = 4}}), "INVALID_ARGUMENT: version 1: no shard 4");
  EXPECT_EQ(refusal(nullptr, {{.shard = 1}, {.shard = 1}}),
            "INVALID_ARGUMENT: version 1: shard expert.0 stands twice");
  EXPECT_EQ(refusal(nullptr, {{.shard = 1, .moment_count = 3}}),
            "INVALID_ARGUMENT: version 1: 3 moments");
}

TEST_F(ShardStoreTest, AVersionMayChangeNothing) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  const Manifest same = Write(*store, 1, &base, {});
  EXPECT_EQ(same.model_digest, base.model_digest);
  EXPECT_EQ(Names(),
            (std::vector<std::string>{"000000.json", "000000.safetensors", "000001.json"}));
}

TEST_F(ShardStoreTest, VerifiesADigestOnTheFirstRead) {
  const Manifest manifest = Write(*Open(), 3, nullptr, AllShards(spec_, 0.0f));
  const StoredShard& shard = manifest.shards[3];
  const std::string expected =
      "DATA_LOSS: " + path_ + "/000003.safetensors: shard expert.2 does not have its digest";
  const auto before = Open();
  EXPECT_EQ(ReadValues(*before, shard.digest), Ramp(5, 300.0f));
  Damage("000003.safetensors", shard.offset + 4);
  const auto after = Open();
  EXPECT_EQ(after->ReadShard(shard.digest).status().ToString(), expected);
  std::byte byte;
  EXPECT_EQ(after->ReadShardAt(shard.digest, 0, std::span(&byte, 1)).ToString(), expected);
  EXPECT_OK(after->ReadShard(manifest.shards[2].digest).status());
  // Read before the damage: not hashed again.
  EXPECT_OK(before->ReadShard(shard.digest).status());
}

TEST_F(ShardStoreTest, ReadsPartsOfAShard) {
  const auto store = Open();
  const Manifest manifest = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  std::vector<float> part(3);
  const auto out = std::as_writable_bytes(std::span(part));
  ASSERT_OK(store->ReadShardAt(manifest.shards[1].digest, 8, out));
  EXPECT_EQ(part, Ramp(3, 102.0f));
  EXPECT_EQ(store->ReadShardAt(manifest.shards[1].digest, 9, out).ToString(),
            "OUT_OF_RANGE: shard expert.0: 12 bytes at offset 9 end past its 20 bytes");
  std::vector<std::byte> large((64u << 20) + 1);
  EXPECT_EQ(store->ReadShardAt(manifest.shards[1].digest, 0, large).ToString(),
            "INVALID_ARGUMENT: read of 67108865 bytes, over the 67108864 of a window");
}

TEST_F(ShardStoreTest, FindsShardsThatAreAlike) {
  const auto store = Open();
  const Manifest manifest = Write(*store, 0, nullptr,
                                  {RampContent(spec_, 0, 0.0f), RampContent(spec_, 1, 5.0f),
                                   RampContent(spec_, 2, 5.0f), RampContent(spec_, 3, 5.0f)});
  EXPECT_EQ(manifest.shards[1].digest, manifest.shards[3].digest);
  EXPECT_NE(manifest.shards[1].offset, manifest.shards[3].offset);
  EXPECT_EQ(ReadValues(*store, manifest.shards[3].digest), Ramp(5, 5.0f));
}

TEST_F(ShardStoreTest, PrunesWhatNoKeptVersionNeeds) {
  const auto store = Open();
  std::vector<Manifest> versions = {Write(*store, 0, nullptr, AllShards(spec_, 0.0f, 1))};
  for (int version = 1; version <= 4; ++version) {
    // Expert 2 stays as version 0 has it, expert 1 as version 1 has it.
    std::vector<ShardContent> changed = {
        RampContent(spec_, 0, 10.0f * static_cast<float>(version), 1)};
    if (version == 1) changed.push_back(RampContent(spec_, 2, 77.0f, 1));
    versions.push_back(Write(*store, version, &versions.back(), changed));
  }
  ASSERT_OK(store->Prune(0, {}));
  EXPECT_EQ(store->Versions(), (std::vector<ModelVersion>{0, 1, 2, 3, 4}));
  ASSERT_OK(store->Prune(1, {2}, 2));
  EXPECT_EQ(store->Versions(), (std::vector<ModelVersion>{2, 3, 4})) << "later ones stay";
  ASSERT_OK(store->Prune(1, {2}));
  EXPECT_EQ(store->Versions(), (std::vector<ModelVersion>{2, 4}));
  std::vector<std::string> tensors;
  for (const std::string& name : Names()) {
    if (!name.ends_with(".moments.safetensors")) tensors.push_back(name);
  }
  EXPECT_EQ(tensors,
            (std::vector<std::string>{"000000.safetensors", "000001.safetensors", "000002.json",
                                      "000002.safetensors", "000004.json", "000004.safetensors"}));
  const auto opened = Open();
  for (const ModelVersion version : {2, 4}) {
    const Manifest manifest = opened->Get(version).value();
    EXPECT_EQ(manifest, versions[static_cast<std::size_t>(version)]);
    for (const StoredShard& shard : manifest.shards) {
      EXPECT_OK(opened->ReadShard(shard.digest).status());
      EXPECT_OK(opened->ReadMoments(shard, 0).status());
    }
  }
  EXPECT_EQ(store->ReadShard(versions[3].shards[0].digest).status().code(), StatusCode::kNotFound);
}

TEST_F(ShardStoreTest, TellsTheFilesOfAVersionThatIsSyncedLater) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  const std::vector<ShardContent> changed = {AllShards(spec_, 50.0f, 2)[1]};
  const Manifest staged = store->Stage(1, &base, changed, Syncing::kLater).value();
  std::map<std::string, std::string> contents;
  const std::vector<KeptFile> files = store->StagedFiles(staged).value();
  for (const KeptFile& file : files) contents[file.name] = file.bytes;
  ASSERT_OK(store->Commit(staged, Syncing::kLater));
  ASSERT_EQ(contents.size(), 3u);
  for (const auto& [name, content] : contents) EXPECT_EQ(ReadAll(path_ + "/" + name), content);
  EXPECT_EQ(store->StagedBytes({1}, 2), 3 * static_cast<std::uint64_t>(spec_.ShardBytes(1)));
  // As after a power cut, and put back.
  for (const auto& [name, content] : contents) WriteAll(path_ + "/" + name, "");
  for (const auto& [name, content] : contents) WriteAll(path_ + "/" + name, content);
  EXPECT_EQ(Open()->Get(1).value(), staged);
}

TEST_F(ShardStoreTest, ForgetsVersionsThatNobodyWasToldOf) {
  const Manifest base = Write(*Open(), 0, nullptr, AllShards(spec_, 0.0f));
  Write(*Open(), 1, &base, {AllShards(spec_, 50.0f)[1]});
  WriteAll(path_ + "/000001.safetensors", "torn");
  WriteAll(path_ + "/000002.json", "torn");
  const auto store = ShardStore::Open(disk_, path_, spec_, {.newest = 0, .restored = {}});
  ASSERT_OK(store.status());
  EXPECT_EQ((*store)->Versions(), std::vector<ModelVersion>{0});
  EXPECT_EQ(Names(), (std::vector<std::string>{"000000.json", "000000.safetensors"}));
}

TEST_F(ShardStoreTest, ForgetsARestoredVersionThatHadBeenPruned) {
  const auto store = Open();
  const Manifest base = Write(*store, 0, nullptr, AllShards(spec_, 0.0f));
  const Manifest first = Write(*store, 1, &base, {AllShards(spec_, 50.0f)[1]});
  const std::string manifest = ReadAll(path_ + "/000001.json");
  Write(*store, 2, &first, AllShards(spec_, 70.0f));
  ASSERT_OK(store->Prune(1, {}));
  WriteAll(path_ + "/000001.json", manifest);
  EXPECT_EQ(ShardStore::Open(disk_, path_, spec_).status().code(), StatusCode::kDataLoss)
      << "as a rule it is a loss";
  const auto opened =
      ShardStore::Open(disk_, path_, spec_, {.newest = 2, .restored = {"000001.json"}});
  ASSERT_OK(opened.status());
  EXPECT_EQ((*opened)->Versions(), std::vector<ModelVersion>{2});
}

TEST_F(ShardStoreTest, RemovesLeftoversAndLeavesOtherFilesAlone) {
  Write(*Open(), 0, nullptr, AllShards(spec_, 0.0f));
  for (const std::string name :
       {"000001.safetensors", "000001.moments.safetensors", "000002.safetensors.tmp",
        "000002.json.tmp", "000002.moments.safetensors.second.tmp"}) {
    WriteAll(path_ + "/" + name, "half");
  }
  WriteAll(path_ + "/merged.safetensors", "mine");
  WriteAll(path_ + "/notes.tmp", "mine");
  Open();
  EXPECT_EQ(Names(), (std::vector<std::string>{"000000.json", "000000.safetensors",
                                               "merged.safetensors", "notes.tmp"}));
}

class DamagedManifest : public ShardStoreTest {
 protected:
  void SetUp() override {
    Write(*Open(), 0, nullptr, AllShards(spec_, 0.0f, 1));
    text_ = ReadAll(path_ + "/000000.json");
  }
  // Opens with the first `from` in the manifest replaced; the error without the path.
  std::string Refusal(const std::string& from, const std::string& to) {
    std::string changed = text_;
    EXPECT_NE(changed.find(from), std::string::npos) << from;
    changed.replace(changed.find(from), from.size(), to);
    WriteAll(path_ + "/000000.json", changed);
    const Status status = ShardStore::Open(disk_, path_, spec_).status();
    WriteAll(path_ + "/000000.json", text_);
    const std::string prefix = path_ + "/000000.json: ";
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_TRUE(status.message().starts_with(prefix)) << status.message();
    return status.message().substr(std::min(prefix.size(), status.message().size()));
  }
  std::string text_;
};

TEST_F(DamagedManifest, IsNamedWithWhatIsWrong) {
  const Manifest manifest = Open()->Get(0).value();
  EXPECT_EQ(Refusal("{", "["), "is not a JSON object");
  EXPECT_EQ(Refusal("manifest.v1", "manifest.v9"), "is not a fedmoe manifest");
  EXPECT_EQ(Refusal("\"version\": 0", "\"version\": 1"), "is of version 1");
  EXPECT_EQ(Refusal("\"version\": 0", "\"version\": \"0\""), "manifest: expected a whole number");
  EXPECT_EQ(Refusal("\"shard\": 2", "\"shard\": 1"), "shard expert.1 is out of order");
  EXPECT_EQ(Refusal("\"bytes\": 20", "\"bytes\": 24"),
            "shard expert.0 has 24 bytes, the model needs 20");
  EXPECT_EQ(Refusal("\"file\": \"000000", "\"file\": \"../000000"),
            "shard trunk names file \"../000000.safetensors\"");
  EXPECT_EQ(Refusal("\"moment_count\": 1", "\"moment_count\": 3"),
            "shard trunk has a wrong moment count");
  EXPECT_EQ(Refusal("\"moment_count\": 1", "\"moment_count\": 0"),
            "shard trunk names moments file \"000000.moments.safetensors\"");
  EXPECT_EQ(Refusal("\"digest\": \"" + manifest.shards[0].digest, "\"digest\": \"xy"),
            "shard trunk has no digest");
  EXPECT_EQ(Refusal("\"digest\": \"" + manifest.shards[0].digest,
                    "\"digest\": \"" + manifest.shards[1].digest),
            "the shards' digests do not give the model's digest");
  EXPECT_EQ(Refusal("\"steps\": 1", "\"stops\": 1"), "manifest[0]: field steps is missing");
}

TEST_F(DamagedManifest, NamesTensorFilesThatAreGoneOrShort) {
  const auto refusal = [&] { return ShardStore::Open(disk_, path_, spec_).status().ToString(); };
  const std::string file = path_ + "/000000.safetensors";
  const auto size = std::filesystem::file_size(file);
  std::filesystem::resize_file(file, size - 1);
  EXPECT_EQ(refusal(), "DATA_LOSS: " + path_ + "/000000.json: 000000.safetensors is " +
                           std::to_string(size - 1) + " bytes, " + std::to_string(size) +
                           " are needed");
  std::filesystem::remove(file);
  EXPECT_EQ(refusal(), "DATA_LOSS: " + path_ + "/000000.json: 000000.safetensors is missing");
  EXPECT_TRUE(std::filesystem::exists(path_ + "/000000.moments.safetensors"));
}

TEST_F(DamagedManifest, OfAnotherModelIsRefused) {
  const Digest written = SpecDigest(spec_);
  spec_.blocks[0].scale = 0.5;
  EXPECT_EQ(ShardStore::Open(disk_, path_, spec_).status().ToString(),
            "FAILED_PRECONDITION: " + path_ + "/000000.json: is of another model: spec " + written +
                ", this run has " + SpecDigest(spec_));
}

}  // namespace
}  // namespace fedmoe
