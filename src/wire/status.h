// Status on the wire: fedmoe's codes are gRPC's.
#pragma once

#include <grpcpp/support/status.h>

#include "common/result.h"

namespace fedmoe {

grpc::Status ToGrpc(const Status& status);
// Code and message unchanged.
Status FromGrpc(const grpc::Status& status);

}  // namespace fedmoe
