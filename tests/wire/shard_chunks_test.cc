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
  chunk.data = std::move(data);
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
    ASSERT_TRUE(parsed.ParseFromString(
        BytesOf(SerializeChunks(std::move(chunks), std::make_shared<ChunkBuffers>()))));
    EXPECT_EQ(parsed.SerializeAsString(), expected.SerializeAsString());
  }
}

TEST(ShardChunksTest, BuffersComeBackWhenTheMessageIsGone) {
  const auto buffers = std::make_shared<ChunkBuffers>();
  std::string data(100'000, 'x');
  const char* const memory = data.data();
  std::vector<OutgoingChunk> chunks;
  chunks.push_back(ChunkOf(0, 0, std::move(data)));
  grpc::ByteBuffer message = SerializeChunks(std::move(chunks), buffers);
  EXPECT_TRUE(buffers->Take().empty()) << "it is on its way";
  message.Clear();
  const std::string again = buffers->Take();
  EXPECT_EQ(again.data(), memory);
  EXPECT_EQ(buffers.use_count(), 1);
}

TEST(ShardChunksTest, BuffersThatAreNotToBeKeptGo) {
  ChunkBuffers buffers;
  buffers.Give(std::string(1'000, 'x'));
  buffers.Keep(false);
  EXPECT_LT(buffers.Take().capacity(), 1'000U);
  buffers.Give(std::string(1'000, 'x'));
  EXPECT_LT(buffers.Take().capacity(), 1'000U);
  buffers.Keep(true);
  for (int i = 0; i < 5; ++i) buffers.Give(std::string(1'000, 'x'));
  int kept = 0;
  while (buffers.Take().capacity() >= 1'000) ++kept;
  EXPECT_EQ(kept, 2);
}

}  // namespace
}  // namespace fedmoe
