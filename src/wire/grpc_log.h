// gRPC's own log.
#pragma once

namespace fedmoe {

// Sends gRPC's log to ours, at debug level: what matters of it reaches people as a Status.
// Idempotent and thread-safe.
void RouteGrpcLog();

}  // namespace fedmoe
