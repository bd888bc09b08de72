// The update that every thin client sends: encoded once, whoever sends it and however often.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "federation/update.h"

namespace fedmoe {

// The bytes of one task's update: a preamble of its own, then the template's blocks. Pieces are
// taken one after another. Not thread-safe.
class TemplateUpdate {
 public:
  std::uint64_t total_bytes() const { return total_bytes_; }
  // Copies the next bytes to the front of `out`: as many as fit, or are left; 0 at the end.
  std::size_t Take(std::span<std::byte> out);

 private:
  friend class UpdateTemplate;
  std::vector<std::byte> preamble_;
  std::vector<std::span<const std::byte>> pieces_;
  std::uint64_t total_bytes_ = 0;
  std::size_t piece_ = 0;
  std::size_t offset_ = 0;
};

// Deltas of a model's blocks, encoded as f32. Small numbers of either sign, the same for each task:
// what they are is of no account to who moves them. Immutable, so thread-safe; holds one model.
class UpdateTemplate {
 public:
  explicit UpdateTemplate(const ModelSpec& spec);

  // Every trunk block and the blocks of the task's experts. The template must outlive it.
  TemplateUpdate Make(const TaskAssignment& task) const;
  // What a client could claim about its training of the task: every expert had tokens; `affinity`
  // of each expert, summing to 1 in each layer.
  TrainingFeedback Feedback(const TaskAssignment& task, std::int64_t examples,
                            const std::vector<double>& affinity) const;
  const ModelSpec& spec() const { return spec_; }

 private:
  const ModelSpec spec_;
  std::vector<std::vector<std::byte>> blocks_;  // by parameter; empty: is not sent
};

}  // namespace fedmoe
