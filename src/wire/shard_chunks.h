// ShardChunk messages whose data are not copied: of a chunk that is read from disk, the bytes that
// were read are those that go to the socket.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

struct OutgoingChunk {
  v1::ShardChunk head;  // with neither `data` nor `more`
  std::string_view data;
  std::shared_ptr<const void> owner;  // of the data
};

// The first chunk as a message, with the others as its `more`. Each owner is let go of once gRPC
// has done with its data, on a thread of its own.
grpc::ByteBuffer SerializeChunks(const std::vector<OutgoingChunk>& chunks);

}  // namespace fedmoe
