// Lets a failed comparison of Status show its text.
#pragma once

#include <ostream>

#include "common/result.h"

namespace fedmoe {

inline void PrintTo(const Status& status, std::ostream* out) { *out << status.ToString(); }

}  // namespace fedmoe
