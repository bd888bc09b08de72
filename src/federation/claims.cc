#include "federation/claims.h"

#include <cstdio>

namespace fedmoe {

std::string NumberText(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

Status CheckAmount(const std::string& field, double value, double most) {
  if (value >= 0.0 && value <= most) return Status::Ok();
  return InvalidArgument(field + " is " + NumberText(value) + ", must be 0 to " + NumberText(most));
}

Status CheckRate(const std::string& field, double value, double most) {
  if (value == 0.0 || (value >= 1.0 && value <= most)) return Status::Ok();
  return InvalidArgument(field + " is " + NumberText(value) + ", must be 0 (not known) or 1 to " +
                         NumberText(most));
}

Status CheckCount(const std::string& field, std::int64_t value) {
  if (value >= 0 && value <= kMaxClaimedCount) return Status::Ok();
  return InvalidArgument(field + " is " + std::to_string(value) + ", must be 0 to " +
                         std::to_string(kMaxClaimedCount));
}

}  // namespace fedmoe
