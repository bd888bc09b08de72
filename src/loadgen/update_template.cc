#include "loadgen/update_template.h"

#include <algorithm>
#include <cstring>

#include "storage/update_format.h"

namespace fedmoe {
namespace {

constexpr float kStep = 1e-5f;

std::vector<float> DeltaOf(std::int64_t elements) {
  std::vector<float> delta(static_cast<std::size_t>(elements));
  for (std::size_t i = 0; i < delta.size(); ++i) {
    delta[i] = kStep * (static_cast<float>(i % 17) - 8.0f);
  }
  return delta;
}

}  // namespace

std::size_t TemplateUpdate::Take(std::span<std::byte> out) {
  std::size_t taken = 0;
  while (taken < out.size() && piece_ < pieces_.size()) {
    const std::span<const std::byte> rest = pieces_[piece_].subspan(offset_);
    const std::size_t count = std::min(rest.size(), out.size() - taken);
    if (count > 0) std::memcpy(out.data() + taken, rest.data(), count);
    taken += count;
    offset_ += count;
    if (offset_ < pieces_[piece_].size()) continue;
    ++piece_;
    offset_ = 0;
  }
  return taken;
}

UpdateTemplate::UpdateTemplate(const ModelSpec& spec) : spec_(spec), blocks_(spec.blocks.size()) {
  for (std::size_t i = 0; i < spec.blocks.size(); ++i) {
    const ParameterBlock& block = spec.blocks[i];
    if (block.owner == BlockOwner::kClient) continue;
    const std::vector<float> delta = DeltaOf(block.ElementCount());
    const OutgoingBlock outgoing{.parameter = static_cast<int>(i), .delta = delta};
    static_cast<void>(EncodeUpdateBlock(outgoing, [&](std::span<const std::byte> bytes) {
      blocks_[i].insert(blocks_[i].end(), bytes.begin(), bytes.end());
      return Status::Ok();
    }));
  }
}

TemplateUpdate UpdateTemplate::Make(const TaskAssignment& task) const {
  TemplateUpdate update;
  std::uint32_t count = 0;
  update.pieces_.emplace_back();  // the preamble's place
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const ParameterBlock& block = spec_.blocks[i];
    const bool held = block.owner != BlockOwner::kExpert ||
                      std::binary_search(task.experts.begin(), task.experts.end(), block.expert);
    if (blocks_[i].empty() || !held) continue;
    update.pieces_.emplace_back(blocks_[i]);
    update.total_bytes_ += blocks_[i].size();
    ++count;
  }
  update.total_bytes_ += kUpdateAlignment;
  update.preamble_ = EncodeUpdatePreamble(task.task, count, update.total_bytes_);
  update.pieces_.front() = update.preamble_;
  return update;
}

TrainingFeedback UpdateTemplate::Feedback(const TaskAssignment& task, std::int64_t examples,
                                          const std::vector<double>& affinity) const {
  const auto experts = static_cast<std::size_t>(spec_.experts);
  TrainingFeedback feedback{.examples = examples,
                            .steps = 1,
                            .train_loss = 1.0,
                            .train_accuracy = 0.5,
                            .tokens = std::vector<double>(experts, 0.0),
                            .expert_loss = std::vector<double>(experts, 0.0),
                            .expert_accuracy = std::vector<double>(experts, 0.0),
                            .affinity = affinity};
  for (const ExpertIndex expert : task.experts) {
    const auto e = static_cast<std::size_t>(expert);
    feedback.tokens[e] = static_cast<double>(examples);
    feedback.expert_loss[e] = 1.0;
    feedback.expert_accuracy[e] = 0.5;
  }
  return feedback;
}

}  // namespace fedmoe
