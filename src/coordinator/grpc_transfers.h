// The two streaming calls: reactors that move one chunk at a time, so that a slow disk or a slow
// peer stops the other side, and none without a permit, so that all of them together take no more
// than the lanes are wide.
#pragma once

#include <grpcpp/grpcpp.h>

#include "coordinator/core.h"
#include "coordinator/gatekeeper.h"
#include "coordinator/transfer_lanes.h"
#include "fedmoe/v1/coordinator.pb.h"

namespace fedmoe {

// The other end of a call.
Caller CallerOf(const grpc::CallbackServerContext& context);

// What a transfer needs beside its messages. All but the caller outlive the call.
struct TransferCall {
  CoordinatorCore& core;
  const Gatekeeper& gate;
  TransferLanes& lanes;
  grpc::CallbackServerContext& context;
  Caller caller;
};

// Each deletes itself when its call is over.
// What it writes are ShardChunk messages, whose data gRPC does not copy.
grpc::ServerWriteReactor<grpc::ByteBuffer>* StartFetch(TransferCall call,
                                                       const v1::FetchShardsRequest& request);
grpc::ServerReadReactor<v1::UpdateChunk>* StartUpload(TransferCall call,
                                                      v1::SubmitUpdateReply* reply);

}  // namespace fedmoe
