// What one changed shard becomes: the weighted sum of the updates' deltas and the server
// optimiser's step, window by window. Internal to the aggregator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "common/parallel.h"
#include "common/result.h"
#include "federation/aggregation.h"
#include "storage/block_codec.h"
#include "storage/shard_store.h"
#include "storage/spool.h"

namespace fedmoe {

// Elements of a shard that are worked on at once, at most.
inline constexpr std::int64_t kWindowElements = std::int64_t{1} << 18;

// An accepted update in the spool: its blocks, by parameter.
struct SpooledUpdate {
  TaskId task = 0;
  std::vector<UpdateBlock> blocks;
  // Kept open while there are not too many; else null.
  std::shared_ptr<const RandomAccessFile> file;

  const UpdateBlock* BlockOf(int parameter) const;  // null: it has none
};
// Of every update of the plan, in its order. DATA_LOSS names one that cannot be read.
Result<std::vector<SpooledUpdate>> FindUpdates(const Spool& spool, const AggregationPlan& plan,
                                               const ModelSpec& spec);

// What the merge of every shard reads; the parts must outlive it.
struct MergeInputs {
  const ModelSpec& spec;
  const AggregationOptions& options;
  const AggregationPlan& plan;
  const std::vector<SpooledUpdate>& updates;
  const Spool& spool;
  const ShardStore& store;
  const ParallelFor& parallel;
};

// Of one shard. Memory: a few windows, and as many again for each update that is looked at at once:
// a group of eight, or all of them where the rule is not mean or clip, which then have a file open
// each, too. Not thread-safe.
class ShardMerger {
 public:
  ShardMerger(const MergeInputs& inputs, const StoredShard& base) : inputs_(inputs), base_(base) {}

  // Measures the updates where the rule asks for it; first of all.
  Status Open();
  // Hands the new values and moments to the sinks, window by window. `consensus`: what is done to
  // the values of a window before that, given the offset of its first element in the shard; may be
  // empty.
  using Consensus = std::function<Status(std::int64_t offset, std::span<float> values)>;
  Status Write(const ShardContent::Sinks& sinks, const Consensus& consensus);
  // Values `at` to `at` + `count` of block `index`, which begins at element `offset` of the shard,
  // merged by the block's weights; valid until the next call. Not of blocks that are merged by
  // rows.
  Result<std::span<float>> MergeWindow(int index, std::int64_t offset, std::int64_t at,
                                       std::int64_t count);
  // How long windows are.
  std::int64_t WindowElements() const;
  // Lets go of what was mapped and merged last.
  void Release();

 private:
  const BlockPlan* PlanOf(int parameter) const;
  Status WriteBlock(int index, std::int64_t offset, const ShardContent::Sinks& sinks,
                    const Consensus& consensus);
  // Elements [begin, end) of block `index`, which starts at element `offset` of the shard.
  Status WriteRange(int index, std::int64_t offset, std::int64_t begin, std::int64_t end,
                    const std::vector<double>& weights, const ShardContent::Sinks& sinks,
                    const Consensus& consensus);
  Status Merge(int index, std::int64_t offset, std::int64_t at, std::int64_t count,
               const std::vector<double>& weights);
  Status LoadWindow(std::int64_t at, std::int64_t count);
  Status SumWindow(int index, std::int64_t at, std::int64_t count,
                   const std::vector<double>& weights);
  // delta_ by the rule's own arithmetic, of the updates `used`.
  Status PickWindow(const std::vector<std::size_t>& used, int index, std::int64_t at,
                    std::int64_t count);
  Status MeasureUpdates();
  Status MeasureKrum(const std::vector<std::size_t>& used);
  Status MeasureNorms(const std::vector<std::size_t>& used);
  // Calls `measure` for the windows of every block of the shard that the group is in.
  using Measure = std::function<Status(std::span<const EncodedValues> sources, std::int64_t at,
                                       std::int64_t count)>;
  Status ForEachWindow(const std::vector<std::size_t>& group, const Measure& measure);
  // What the rule makes of the weights.
  std::vector<double> Ruled(const std::vector<double>& weights) const;
  Result<std::vector<EncodedValues>> ReadGroup(const std::vector<std::size_t>& group, int index,
                                               std::int64_t at, std::int64_t count);
  Result<PayloadReader*> Reader(std::size_t slot, std::size_t update, int index);
  Status CheckFinite(int index) const;
  void Apply();

  // A block of an update that is open for reading.
  struct OpenBlock {
    std::size_t update = 0;
    int index = -1;
    std::shared_ptr<const RandomAccessFile> file;
    std::unique_ptr<PayloadReader> reader;
  };

  MergeInputs inputs_;
  StoredShard base_;
  // By update, from MeasureUpdates(): kClip's factor; 1 or 0 for what Krum chose. Empty: as it is.
  std::vector<double> factors_;
  std::vector<OpenBlock> open_;  // kept from window to window where one group is all
  std::vector<float> window_, window_first_, window_second_, delta_;
  std::vector<double> sums_;
};

}  // namespace fedmoe
