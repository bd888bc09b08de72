// The two streaming calls: reactors that move one chunk at a time, so that a slow disk or a slow
// peer stops the other side.
#pragma once

#include <grpcpp/grpcpp.h>

#include "coordinator/core.h"
#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// Each deletes itself when its call is over. The core must outlive them.
grpc::ServerWriteReactor<v1::ShardChunk>* StartFetch(CoordinatorCore& core,
                                                     const v1::FetchShardsRequest& request);
grpc::ServerReadReactor<v1::UpdateChunk>* StartUpload(CoordinatorCore& core,
                                                      v1::SubmitUpdateReply* reply);

}  // namespace fedmoe
