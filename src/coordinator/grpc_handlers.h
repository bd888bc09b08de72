// The services themselves: each call is parsed, handed to the core, and answered from its callback.
// No disk but for an administrator's commands; the policy of who may call is the gatekeeper's.
#pragma once

#include <memory>

#include "coordinator/core.h"
#include "coordinator/gatekeeper.h"
#include "coordinator/transfer_lanes.h"

namespace grpc {
class Service;
}

namespace fedmoe {

// The core, the gatekeeper and the bounds must outlive the services.
std::unique_ptr<grpc::Service> MakeCoordinatorService(CoordinatorCore& core, Gatekeeper& gate,
                                                      TransferBounds& bounds);
std::unique_ptr<grpc::Service> MakeAdminService(CoordinatorCore& core, Gatekeeper& gate);

}  // namespace fedmoe
