// An operator's calls to a running coordinator.
#pragma once

#include <string>

#include "common/result.h"
#include "common/tls_options.h"

namespace fedmoe {

struct AdminCall {
  std::string address;  // "HOST:PORT"
  ClientTlsOptions tls;
  std::string command;  // status, drain, stop, revoke or restore
  std::string client;   // whom to revoke or restore
};

// status answers one JSON object (docs/status.md), the others nothing. Blocks for at most 10 s.
// UNAVAILABLE: no coordinator at the address. PERMISSION_DENIED: not with this certificate, or not
// from this machine. INVALID_ARGUMENT: no such command; or as MakeChannelCredentials.
Result<std::string> CallAdmin(const AdminCall& call);

}  // namespace fedmoe
