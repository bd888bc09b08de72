// Messages that are put together by hand are those that Protocol Buffers would write.
#include "wire/shard_chunks.h"

#include <random>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

// The bytes as gRPC passes them on, after which it is through with the message.
std::string BytesOf(grpc::ByteBuffer message) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(message.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

OutgoingChunk ChunkOf(int index, std::uint64_t offset, std::string data) {
  OutgoingChunk chunk;
  chunk.head.set_index(index);
  chunk.head.set_offset(offset);
  chunk.head.set_crc32c(static_cast<std::uint32_t>(offset * 2'654'435'761U));
  const auto owner = std::make_shared<const std::string>(std::move(data));
  chunk.data = *owner;
  chunk.owner = owner;
  return chunk;
}

TEST(ShardChunksTest, AreReadAsTheMessageThatWasMeant) {
  std::mt19937_64 random(1);
  const std::vector<std::size_t> lengths = {0, 1, 127, 128, 129, 16'383, 16'384, 70'000, 1 << 20};
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    std::vector<OutgoingChunk> chunks;
    v1::ShardChunk expected;
    const int count = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < count; ++i) {
      std::string data(lengths[random() % lengths.size()], '\0');
      for (std::size_t at = 0; at < data.size(); at += 97) data[at] = static_cast<char>(random());
      chunks.push_back(ChunkOf(i, random() >> (random() % 64), data));
      if (i == 0 && random() % 2 == 0) chunks[0].head.set_total_bytes(random());
      v1::ShardChunk& whole = i == 0 ? expected : *expected.add_more();
      const v1::ShardChunk& head = chunks.back().head;
      whole.set_index(head.index());
      whole.set_offset(head.offset());
      whole.set_crc32c(head.crc32c());
      whole.set_total_bytes(head.total_bytes());
      whole.set_data(data);
    }
    v1::ShardChunk parsed;
    ASSERT_TRUE(parsed.ParseFromString(BytesOf(SerializeChunks(chunks))));
    EXPECT_EQ(parsed.SerializeAsString(), expected.SerializeAsString());
  }
}

TEST(ShardChunksTest, OwnersAreLetGoOfWithTheMessage) {
  std::vector<OutgoingChunk> chunks = {ChunkOf(0, 0, std::string(100'000, 'x')),
                                       ChunkOf(1, 0, std::string(10, 'y'))};
  const std::vector<std::weak_ptr<const void>> owners = {chunks[0].owner, chunks[1].owner};
  grpc::ByteBuffer message = SerializeChunks(chunks);
  chunks.clear();
  for (const auto& owner : owners) EXPECT_FALSE(owner.expired());
  message.Clear();
  for (const auto& owner : owners) EXPECT_TRUE(owner.expired());
}

}  // namespace
}  // namespace fedmoe
