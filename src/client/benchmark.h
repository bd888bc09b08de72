// What this node can do, measured at start-up. This header includes no libtorch.
#pragma once

#include <cstdint>
#include <string>

namespace fedmoe {

// Floating-point operations per second of an expert FFN's forward and backward pass, [64 tokens,
// width] -> expert_width -> width, with libtorch's current threads; the forward pass counts once
// and the backward pass twice, as PredictRoundSeconds does. Processor time is measured, not wall
// time, so that other processes on the node do not count: runs for about `budget_s` of it, at least
// three passes. 0 if libtorch fails. On another device than "cpu" wall time is what there is.
double MeasureExpertFlops(int width, int expert_width, double budget_s,
                          const std::string& device = "cpu");

// Half of the memory available: of MemAvailable, or of what is left under the cgroup's limit where
// that is less. Bytes; 0 if neither can be read.
std::uint64_t MeasureMemoryBudget();

// What is left under a cgroup's limit, bytes: page cache that can be dropped counts as free. At
// least 1, for 0 would say that there is no limit.
std::uint64_t MemoryLeft(std::uint64_t limit, std::uint64_t used, std::uint64_t droppable);

// A number of the text of a cgroup's memory.stat; 0 if it is not there.
std::uint64_t ParseMemoryStat(const std::string& stat, const std::string& name);

// MemAvailable of the text of /proc/meminfo, bytes; 0 if it is not there.
std::uint64_t ParseMemAvailable(const std::string& meminfo);

}  // namespace fedmoe
