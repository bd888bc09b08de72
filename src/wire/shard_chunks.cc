#include "wire/shard_chunks.h"

#include <cstdint>
#include <utility>

#include <grpcpp/support/slice.h>

namespace fedmoe {
namespace {

// A field whose value is bytes: its number, and the wire type 2.
constexpr char Tag(int field) { return static_cast<char>(field << 3 | 2); }
constexpr char kDataTag = Tag(v1::ShardChunk::kDataFieldNumber);
constexpr char kMoreTag = Tag(v1::ShardChunk::kMoreFieldNumber);
static_assert(v1::ShardChunk::kDataFieldNumber < 16 && v1::ShardChunk::kMoreFieldNumber < 16,
              "a tag of one byte");

void AppendLength(std::string& out, std::uint64_t length) {
  while (length >= 0x80) {
    out += static_cast<char>(0x80 | (length & 0x7F));
    length >>= 7;
  }
  out += static_cast<char>(length);
}

// What stands before the data, down to their length.
std::string Before(const OutgoingChunk& chunk) {
  std::string bytes = chunk.head.SerializeAsString();
  bytes += kDataTag;
  AppendLength(bytes, chunk.data.size());
  return bytes;
}

struct Held {
  std::string data;
  std::shared_ptr<ChunkBuffers> buffers;
};

void Release(void* held) {
  const std::unique_ptr<Held> owned(static_cast<Held*>(held));
  owned->buffers->Give(std::move(owned->data));
}

grpc::Slice Lend(std::string data, std::shared_ptr<ChunkBuffers> buffers) {
  auto held = std::make_unique<Held>(Held{std::move(data), std::move(buffers)});
  char* const bytes = held->data.data();
  const std::size_t size = held->data.size();
  return grpc::Slice(bytes, size, Release, held.release());
}

}  // namespace

std::string ChunkBuffers::Take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) return {};
  std::string buffer = std::move(free_.back());
  free_.pop_back();
  return buffer;
}

void ChunkBuffers::Give(std::string buffer) {
  const std::lock_guard lock(mutex_);
  if (keeps_ && free_.size() < kMost) free_.push_back(std::move(buffer));
}

void ChunkBuffers::Keep(bool keeps) {
  const std::lock_guard lock(mutex_);
  keeps_ = keeps;
  if (!keeps) free_.clear();
}

grpc::ByteBuffer SerializeChunks(std::vector<OutgoingChunk> chunks,
                                 std::shared_ptr<ChunkBuffers> buffers) {
  std::vector<grpc::Slice> slices;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    OutgoingChunk& chunk = chunks[i];
    std::string before = Before(chunk);
    if (i > 0) {
      std::string more(1, kMoreTag);
      AppendLength(more, before.size() + chunk.data.size());
      before.insert(0, more);
    }
    slices.emplace_back(before);
    if (!chunk.data.empty()) slices.push_back(Lend(std::move(chunk.data), buffers));
  }
  return {slices.data(), slices.size()};
}

}  // namespace fedmoe
