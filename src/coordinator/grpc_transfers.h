// The two streaming calls: reactors that move one chunk at a time, so that a slow disk or a slow
// peer stops the other side.
#pragma once

#include <grpcpp/grpcpp.h>

#include "coordinator/core.h"
#include "coordinator/gatekeeper.h"
#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// The other end of a call.
Caller CallerOf(const grpc::CallbackServerContext& context);

// What an upload needs beside its messages.
struct UploadCall {
  CoordinatorCore& core;
  const Gatekeeper& gate;
  Caller caller;
  v1::SubmitUpdateReply* reply;
};

// Each deletes itself when its call is over. The core and the gatekeeper must outlive them.
grpc::ServerWriteReactor<v1::ShardChunk>* StartFetch(CoordinatorCore& core, const Gatekeeper& gate,
                                                     const Caller& caller,
                                                     const v1::FetchShardsRequest& request);
grpc::ServerReadReactor<v1::UpdateChunk>* StartUpload(UploadCall call);

}  // namespace fedmoe
