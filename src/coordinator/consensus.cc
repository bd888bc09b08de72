#include "coordinator/consensus.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/server_step.h"
#include "kernels/weighted_sum.h"

namespace fedmoe {

Result<ConsensusMeans> ConsensusMeans::Compute(const MergeInputs& inputs, const Manifest& base,
                                               Spool& spool) {
  ConsensusMeans means;
  means.share_ = inputs.plan.consensus_share;
  if (inputs.plan.consensus.empty()) return means;
  std::uint64_t bytes = 0;
  for (const ConsensusGroup& group : inputs.plan.consensus) {
    bytes += static_cast<std::uint64_t>(inputs.spec.ShardBytes(group.shards.front()));
  }
  // Never kept: the task's number is in its temporary name only.
  means.scratch_ = spool.Begin(0, bytes);
  for (const ConsensusGroup& group : inputs.plan.consensus) {
    FEDMOE_RETURN_IF_ERROR(means.Append(inputs, group, base));
  }
  FEDMOE_ASSIGN_OR_RETURN(means.means_, means.scratch_->Read());
  return means;
}

Status ConsensusMeans::Append(const MergeInputs& inputs, const ConsensusGroup& group,
                              const Manifest& base) {
  std::vector<std::unique_ptr<ShardMerger>> members;
  std::vector<std::vector<int>> blocks;
  for (const int shard : group.shards) {
    offsets_[shard] = elements_;
    blocks.push_back(inputs.spec.BlocksOf(shard));
    members.push_back(
        std::make_unique<ShardMerger>(inputs, base.shards.at(static_cast<std::size_t>(shard))));
    FEDMOE_RETURN_IF_ERROR(members.back()->Open());
  }
  std::vector<double> sums;
  std::vector<float> mean;
  std::int64_t offset = 0;
  for (std::size_t b = 0; b < blocks.front().size(); ++b) {
    const std::int64_t elements =
        inputs.spec.blocks[static_cast<std::size_t>(blocks.front()[b])].ElementCount();
    const std::int64_t window = members.front()->WindowElements();
    for (std::int64_t at = 0; at < elements; at += window) {
      const std::int64_t count = std::min(window, elements - at);
      sums.assign(static_cast<std::size_t>(count), 0.0);
      mean.resize(sums.size());
      for (std::size_t i = 0; i < members.size(); ++i) {
        FEDMOE_ASSIGN_OR_RETURN(const std::span<float> merged,
                                members[i]->MergeWindow(blocks[i][b], offset, at, count));
        const float* source = merged.data();
        AccumulateWeighted({&source, 1}, {&group.weights[i], 1}, sums);
        members[i]->Release();
      }
      RoundSums(sums, mean);
      FEDMOE_RETURN_IF_ERROR(scratch_->Append(AsBytes(std::span<const float>(mean))));
    }
    offset += elements;
  }
  elements_ += offset;
  return Status::Ok();
}

ShardMerger::Consensus ConsensusMeans::Of(int shard) const {
  const auto found = offsets_.find(shard);
  if (found == offsets_.end()) return {};
  return [this, begin = found->second](std::int64_t offset, std::span<float> values) {
    return Move(begin + offset, values);
  };
}

Status ConsensusMeans::Move(std::int64_t offset, std::span<float> values) const {
  FEDMOE_ASSIGN_OR_RETURN(const auto region,
                          means_->Map(offset * sizeof(float), values.size_bytes()));
  const auto* mean = reinterpret_cast<const float*>(region->bytes().data());
  ConsensusStep(values, {mean, values.size()}, share_);
  return Status::Ok();
}

}  // namespace fedmoe
