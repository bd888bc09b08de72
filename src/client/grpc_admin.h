// An operator's calls to a running coordinator.
#pragma once

#include <string>

#include "common/result.h"

namespace fedmoe {

// `command` is status (answers one JSON object, docs/status.md), drain or stop (answer nothing).
// Blocks for at most 10 s. UNAVAILABLE: no coordinator at `address` ("HOST:PORT").
Result<std::string> CallAdmin(const std::string& address, const std::string& command);

}  // namespace fedmoe
