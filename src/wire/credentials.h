// The credentials of both ends, from PEM files.
#pragma once

#include <memory>

#include "common/result.h"
#include "common/tls_options.h"

namespace grpc {
class ChannelArguments;
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace fedmoe {

// Plain without TLS. Errors name the key and the file:
//   NOT_FOUND and others of ReadFile: "server.tls.key: open k.pem: No such file or directory"
//   INVALID_ARGUMENT "server.tls.certificate: c.pem holds no PEM certificate",
//     "server.tls.key: k.pem holds no PEM private key without a password", "server.tls.key: k.pem
//     is not the key of c.pem"
// Warns of a key file that others may read, and of a certificate that is not valid now or ends
// within 14 days.
Result<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const ServerTlsOptions& options);

// Likewise, with the keys `tls.ca`, `tls.certificate` and `tls.key`. Sets the name that is expected
// in `arguments`.
Result<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientTlsOptions& options, grpc::ChannelArguments& arguments);

}  // namespace fedmoe
