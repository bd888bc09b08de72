// The transport of a real fleet: gRPC, without encryption for now.
#pragma once

#include <memory>
#include <string>

#include "client/transport.h"

namespace fedmoe {

// `address` is "HOST:PORT". Does not connect yet: a coordinator that is not there shows as
// UNAVAILABLE of the first call, at once or after a second. Unary calls but NextTask end after 30
// s.
std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address);

}  // namespace fedmoe
