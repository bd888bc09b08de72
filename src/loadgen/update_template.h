// The updates that thin clients send. A block is encoded once, whoever sends it and however often,
// but for blocks of topk whose size is asked for: each upload has its own of these.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/task.h"
#include "federation/transfer_options.h"
#include "federation/update.h"

namespace fedmoe {

// The bytes of one task's update: a preamble of its own, then blocks of the template's or its own.
// Pieces are taken one after another. Not thread-safe.
class TemplateUpdate {
 public:
  TemplateUpdate(TemplateUpdate&&) = default;
  TemplateUpdate& operator=(TemplateUpdate&&) = default;
  std::uint64_t total_bytes() const { return total_bytes_; }
  // Those whose blocks it has, ascending.
  const std::vector<ExpertIndex>& experts() const { return experts_; }
  // Copies the next bytes to the front of `out`: as many as fit, or are left; 0 at the end.
  std::size_t Take(std::span<std::byte> out);

 private:
  friend class UpdateTemplate;
  TemplateUpdate() = default;
  std::vector<std::byte> preamble_;
  std::map<std::size_t, std::vector<std::byte>> own_;  // by parameter
  std::vector<std::span<const std::byte>> pieces_;
  std::vector<ExpertIndex> experts_;
  std::uint64_t total_bytes_ = 0;
  std::size_t piece_ = 0;
  std::size_t offset_ = 0;
};

// Bytes of an update, preamble and frames included.
struct UpdateSizes {
  std::uint64_t least = 0;
  std::uint64_t most = 0;
};

// Deltas of a model's blocks, encoded as the tasks ask for them. Small numbers, the same for each
// task: what they are is of no account to who moves them. A block is made when it is first asked
// for, and stays: holds one model at the most. Thread-safe.
class UpdateTemplate {
 public:
  UpdateTemplate(const ModelSpec& spec, const UploadOptions& upload);

  // Every trunk block and the blocks of the task's experts, as a client sends whose every expert
  // had tokens. The template must outlive it; the task's experts are the model's.
  TemplateUpdate Make(const TaskAssignment& task) const;
  // One of `bytes` at most, and as near to that as the format allows; of the least size where that
  // is more. Of topk, all experts with fewer or more values of each block, not compressed: it falls
  // short by less than 64 bytes a block. Of any other encoding, the trunk and as many experts as
  // fit, for an expert without tokens is not sent; which come first changes from round to round.
  TemplateUpdate Make(const TaskAssignment& task, std::uint64_t bytes) const;
  // What Make(task, bytes) can come to.
  UpdateSizes Sizes(const TaskAssignment& task) const;

 private:
  struct LazyBlock {
    std::once_flag made;
    std::vector<std::byte> bytes;  // header, payload, padding
  };
  std::uint64_t ElementsOf(std::size_t parameter) const;
  std::span<const std::byte> BlockAt(std::size_t parameter) const;
  std::vector<std::byte> MakeBlock(std::size_t parameter) const;
  // Whether topk may send fewer of its values.
  bool Thins(std::size_t parameter) const;
  bool Sends(std::size_t parameter, const std::vector<ExpertIndex>& experts) const;
  using OwnBlocks = std::map<std::size_t, std::vector<std::byte>>;
  // `own` in place of the template's.
  TemplateUpdate Assemble(const TaskAssignment& task, std::vector<ExpertIndex> experts,
                          OwnBlocks own) const;
  TemplateUpdate Thinned(const TaskAssignment& task, std::uint64_t bytes) const;
  std::vector<ExpertIndex> ThatFit(const TaskAssignment& task, std::uint64_t bytes) const;

  const ModelSpec spec_;
  const UploadOptions upload_;
  const std::vector<float> period_;  // of the deltas of every block
  // By parameter.
  const std::unique_ptr<LazyBlock[]> blocks_;
};

// What a client could claim about its training of a task of which `trained` experts had tokens;
// `affinity` of each expert, summing to 1 in each layer.
TrainingFeedback FeedbackOf(const ModelSpec& spec, const std::vector<ExpertIndex>& trained,
                            std::int64_t examples, const std::vector<double>& affinity);

}  // namespace fedmoe
