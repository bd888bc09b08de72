// The transport of a real fleet: gRPC, with TLS or without.
#pragma once

#include <memory>
#include <string>

#include "client/transport.h"
#include "common/tls_options.h"
#include "wire/keepalive.h"

namespace fedmoe {

// `address` is "HOST:PORT". Does not connect yet: a coordinator that is not there shows as
// UNAVAILABLE of the first call, at once or after a second. Unary calls but NextTask end after 30
// s.
// Errors as MakeChannelCredentials. A coordinator that is not who it should be shows as
// UNAVAILABLE, too.
Result<std::unique_ptr<Transport>> MakeGrpcTransport(const std::string& address,
                                                     const ClientTlsOptions& tls = {},
                                                     const KeepaliveOptions& keepalive = {});

}  // namespace fedmoe
