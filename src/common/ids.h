// The identifiers that travel through the whole system.
#pragma once

#include <cstdint>
#include <string>

namespace fedmoe {

// A client's name, unique in a run; 1 to 64 characters of [A-Za-z0-9._-].
using ClientId = std::string;

// A task, unique in a run and rising; 0 means none.
using TaskId = std::uint64_t;

// A round counts from 1; it rises only when a round commits, so an aborted round is tried again
// under its number.
using RoundNumber = std::int64_t;

// The model version that round r publishes is r; version 0 is the initial model.
using ModelVersion = std::int64_t;

// An expert's index, 0 to experts - 1.
using ExpertIndex = int;

// Milliseconds on the coordinator's own clock, which stands still while no coordinator runs.
using Milliseconds = std::int64_t;

// True if `name` may be a ClientId.
bool IsValidClientId(const std::string& name);

}  // namespace fedmoe
