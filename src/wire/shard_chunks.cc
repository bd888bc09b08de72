#include "wire/shard_chunks.h"

#include <cstdint>
#include <string>
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

using Owner = std::shared_ptr<const void>;

grpc::Slice Lend(std::string_view data, Owner owner) {
  auto held = std::make_unique<Owner>(std::move(owner));
  // gRPC reads it only.
  return grpc::Slice(
      const_cast<char*>(data.data()), data.size(),
      [](void* let_go) { delete static_cast<Owner*>(let_go); }, held.release());
}

}  // namespace

grpc::ByteBuffer SerializeChunks(const std::vector<OutgoingChunk>& chunks) {
  std::vector<grpc::Slice> slices;
  for (std::size_t i = 0; i < chunks.size(); ++i) {
    const OutgoingChunk& chunk = chunks[i];
    std::string before = Before(chunk);
    if (i > 0) {
      std::string more(1, kMoreTag);
      AppendLength(more, before.size() + chunk.data.size());
      before.insert(0, more);
    }
    slices.emplace_back(before);
    if (!chunk.data.empty()) slices.push_back(Lend(chunk.data, chunk.owner));
  }
  return {slices.data(), slices.size()};
}

}  // namespace fedmoe
