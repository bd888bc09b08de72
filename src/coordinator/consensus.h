// Consensus: experts trained in a round move towards their mean. Internal to the aggregator.
#pragma once

#include <map>
#include <memory>
#include <span>

#include "common/result.h"
#include "coordinator/shard_merger.h"

namespace fedmoe {

// The means of the plan's groups, in a file of the spool that goes with this object, so that memory
// does not grow with the experts. Not thread-safe.
class ConsensusMeans {
 public:
  // Merges every shard of every group, window by window.
  static Result<ConsensusMeans> Compute(const MergeInputs& inputs, const Manifest& base,
                                        Spool& spool);

  // What ShardMerger::Write is to do to the values of `shard`; empty where it is in no group.
  // Refers to this object.
  ShardMerger::Consensus Of(int shard) const;

 private:
  Status Append(const MergeInputs& inputs, const ConsensusGroup& group, const Manifest& base);
  Status Move(std::int64_t offset, std::span<float> values) const;

  double share_ = 0.0;
  std::map<int, std::int64_t> offsets_;  // by shard: where its group's mean begins, elements
  std::int64_t elements_ = 0;            // written so far
  std::unique_ptr<IncomingUpdate> scratch_;
  std::unique_ptr<RandomAccessFile> means_;
};

}  // namespace fedmoe
