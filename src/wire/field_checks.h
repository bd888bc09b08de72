// The checks that the conversions share. Each error names the field, its range and the value.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include <fmt/format.h>

#include "common/ids.h"
#include "common/result.h"
#include "federation/task.h"
#include "fedmoe/v1/coordinator.pb.h"
#include "wire/limits.h"

namespace fedmoe {

inline Status CheckRange(const char* field, std::int64_t value, std::int64_t least,
                         std::int64_t most) {
  if (value >= least && value <= most) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be {} to {} (got {})", field, least, most, value));
}

inline Status CheckAtLeast(const char* field, std::int64_t value, std::int64_t least) {
  if (value >= least) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be at least {} (got {})", field, least, value));
}

inline Status CheckId(const char* field, std::uint64_t value) {
  if (value != 0) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be at least 1 (got 0)", field));
}

inline Status CheckNumber(const char* field, double value) {
  if (std::isfinite(value) && value >= 0.0) return Status::Ok();
  return InvalidArgument(
      fmt::format("{} must be a finite number of at least 0 (got {})", field, value));
}

inline Status CheckShare(const char* field, double value) {
  if (value >= 0.0 && value <= 1.0) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be 0 to 1 (got {})", field, value));
}

inline Status CheckNumberUpTo(const char* field, double value, double most) {
  if (value >= 0.0 && value <= most) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be 0 to {} (got {})", field, most, value));
}

inline Status CheckLength(const char* field, std::size_t size, std::size_t least,
                          std::size_t most) {
  if (size >= least && size <= most) return Status::Ok();
  return InvalidArgument(
      fmt::format("{} must have {} to {} characters (got {})", field, least, most, size));
}

inline Status CheckCount(const char* field, std::size_t size, std::size_t most) {
  if (size <= most) return Status::Ok();
  return InvalidArgument(
      fmt::format("{} must have at most {} entries (got {})", field, most, size));
}

inline Status CheckClientId(const char* field, const std::string& name) {
  if (IsValidClientId(name)) return Status::Ok();
  return InvalidArgument(fmt::format("{} must be 1 to 64 characters of [A-Za-z0-9._-]", field));
}

// shards[i] of a request or a task; the name in errors is "shards.FIELD".
Result<ShardReference> FromProto(const v1::ShardReference& shard);

}  // namespace fedmoe
