// ShardChunk messages whose data are not copied: of a chunk that is read from disk, the bytes that
// were read are those that go to the socket.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/support/byte_buffer.h>

#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// Strings whose memory is used again, for who sends one chunk after another. Thread-safe.
class ChunkBuffers {
 public:
  // An empty string, with the memory of one that was given back, if there is one.
  std::string Take();
  void Give(std::string buffer);
  // Whether what is given back is kept; else it goes, and with it what is kept now.
  void Keep(bool keeps);

 private:
  // One is on its way while the next one is read.
  static constexpr std::size_t kMost = 2;
  std::mutex mutex_;
  std::vector<std::string> free_;
  bool keeps_ = true;
};

struct OutgoingChunk {
  v1::ShardChunk head;  // with neither `data` nor `more`
  std::string data;
};

// The first chunk as a message, with the others as its `more`. The data are given to `buffers` once
// gRPC has done with them, on a thread of its own.
grpc::ByteBuffer SerializeChunks(std::vector<OutgoingChunk> chunks,
                                 std::shared_ptr<ChunkBuffers> buffers);

}  // namespace fedmoe
