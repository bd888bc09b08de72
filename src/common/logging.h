// Log set-up for the programs: one line an event on standard error, as "2026-01-31 12:00:00.123 I
// coordinator: message". Modules log through spdlog's default logger; the pure floors (kernels,
// federation) do not log.
#pragma once

#include <string>

#include "common/result.h"

namespace fedmoe {

// `level` is trace, debug, info, warning, error or off; `program` names the process in each line.
Status SetUpLogging(const std::string& program, const std::string& level);

}  // namespace fedmoe
