// The model and the task that the update target's inputs are for.
#pragma once

#include "federation/update.h"

namespace fedmoe {

inline constexpr TaskId kFuzzTask = 7;

// A trunk, an expert with one whole unit of 64 values and a part, one of more than one compressed
// chunk, one that the task does not hold, and client state.
inline ModelSpec UpdateSpec() {
  ModelSpec spec;
  spec.preset = "fuzz";
  spec.experts = 3;
  spec.top_k = 1;
  spec.blocks = {
      {.name = "trunk.weight", .shape = {2, 3}},
      {.name = "trunk.bias", .shape = {3}},
      {.name = "experts.0.up", .shape = {70}, .owner = BlockOwner::kExpert, .expert = 0},
      {.name = "experts.1.up", .shape = {70'000}, .owner = BlockOwner::kExpert, .expert = 1},
      {.name = "experts.2.up", .shape = {4}, .owner = BlockOwner::kExpert, .expert = 2},
      {.name = "gate.bias", .shape = {3}, .owner = BlockOwner::kClient},
  };
  return spec;
}

inline TaskAssignment UpdateTask(Encoding encoding) {
  TaskAssignment task;
  task.task = kFuzzTask;
  task.client = "alice";
  task.round = 3;
  task.experts = {0, 1};
  task.training.upload.encoding = encoding;
  return task;
}

// Expert 0 was trained, expert 1 was not: its blocks may be there or not.
inline UpdateHeader UpdateHeaderOf(std::uint64_t total_bytes) {
  return {.task = kFuzzTask,
          .client = "alice",
          .round = 3,
          .total_bytes = total_bytes,
          .feedback = {.examples = 10,
                       .steps = 5,
                       .train_loss = 0.5,
                       .train_accuracy = 0.5,
                       .tokens = {10, 0, 0},
                       .expert_loss = {0.5, 0, 0},
                       .expert_accuracy = {0.5, 0, 0},
                       .affinity = {},
                       .train_s = 1}};
}

}  // namespace fedmoe
