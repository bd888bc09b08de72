// The services themselves: each call is parsed, handed to the core, and answered from its callback.
// No policy, no lock, no disk.
#pragma once

#include <memory>

#include "coordinator/core.h"

namespace grpc {
class Service;
}

namespace fedmoe {

// The core must outlive the services.
std::unique_ptr<grpc::Service> MakeCoordinatorService(CoordinatorCore& core);
std::unique_ptr<grpc::Service> MakeAdminService(CoordinatorCore& core);

}  // namespace fedmoe
