// The model as the coordinator knows it: a list of named, shaped parameter blocks. No tensor
// library.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

enum class GateMode {
  kSharedAll,   // "shared_all": all rows with every client, averaged over all clients by examples;
                // held-mass loss
  kSharedRows,  // "shared_rows": each row merged over the clients that trained its expert (FedMoE)
  kLocal,       // "local": the gate never leaves the client (FLEX-MoE)
};

// Who a block belongs to, and so which shard carries it.
enum class BlockOwner {
  kTrunk,   // the shard that every client holds: trunk, head, and the gate unless it is local
  kExpert,  // the shard of ParameterBlock::expert
  kClient,  // client state: in no shard, initialised by the client from the run's seed
};

// How the clients' deltas of a block are weighted.
enum class MergeRule {
  kByExamples,    // by the client's number of examples
  kByTokens,      // by the tokens routed to the block's expert
  kRowsByTokens,  // row r by the tokens routed to expert `expert` + r; rows beyond the layer's
                  // experts (of zero-computation experts) by examples
};

enum class Initializer {
  kZeros,
  kOnes,
  kUniform,  // U(-scale, scale)
  kNormal,   // N(0, scale^2)
};

struct ParameterBlock {
  std::string name;                 // unique, e.g. "experts.3.up.weight"; the name in checkpoints
  std::vector<std::int64_t> shape;  // row-major; every extent at least 1
  BlockOwner owner = BlockOwner::kTrunk;
  // For kExpert: its owner. For MergeRule::kRowsByTokens: the expert of row 0.
  ExpertIndex expert = -1;
  MergeRule merge = MergeRule::kByExamples;
  Initializer initializer = Initializer::kZeros;
  double scale = 0.0;
  // Names the random stream: blocks with one key start alike (experts from one initialisation).
  std::string init_key;

  std::int64_t ElementCount() const;
};

// Shard 0 is the trunk, shard 1 + e is expert e. A shard's bytes are its blocks' little-endian
// float32 values, one after another in the order of `blocks`.
struct ModelSpec {
  std::string preset;  // "moe_mlp"
  // The preset's own options by configuration key ("width" -> "64"): enough to build the same spec
  // again, which is how a client checks that its build means the same model.
  std::map<std::string, std::string> options;
  std::vector<ParameterBlock> blocks;
  // Of all MoE layers together: expert e belongs to layer e / ExpertsPerLayer(). Each is a shard of
  // its own. 0 for a dense model, which may have 0 layers or 1.
  int experts = 0;
  int layers = 1;  // MoE layers; divides `experts`
  int top_k = 0;   // in each layer
  GateMode gate_mode = GateMode::kSharedAll;
  // Tokens of one example that each layer routes: 1 for a feature vector, the positions of an image
  // or a text.
  std::int64_t tokens_per_example = 1;
  // Forward floating-point operations and activation floats of one example, for capacity; an
  // expert's hold for one token routed to it.
  double trunk_flops = 0.0;
  double expert_flops = 0.0;
  double trunk_activations = 0.0;
  double expert_activations = 0.0;

  int ShardCount() const { return 1 + experts; }
  int ExpertsPerLayer() const { return layers > 0 ? experts / layers : 0; }
  // Of a model with experts.
  int LayerOf(ExpertIndex index) const { return index / ExpertsPerLayer(); }
  // Index of the shard that carries block `index`, or -1 for client state.
  int ShardOf(int index) const;
  // Indices of the blocks in a shard, in order.
  std::vector<int> BlocksOf(int shard) const;
  std::int64_t ShardElements(int shard) const;
  std::int64_t ShardBytes(int shard) const { return 4 * ShardElements(shard); }
  // "trunk" or "expert.3".
  std::string ShardName(int shard) const;
  // Index of the block of that name, or -1.
  int Find(const std::string& name) const;
};

inline constexpr int kTrunkShard = 0;
inline int ShardOfExpert(ExpertIndex expert) { return 1 + expert; }

// INVALID_ARGUMENT naming the block: duplicate names, extents, experts out of range, an expert
// without blocks, rows that do not begin with a layer's first expert; or the model's number that is
// wrong: experts that the layers do not divide, a top_k beyond a layer's experts, no token.
Status ValidateModelSpec(const ModelSpec& spec);

// SHA-256 over every field: two parties with one digest mean the same model.
Digest SpecDigest(const ModelSpec& spec);

// Fills `out` (ElementCount() floats) with the block's initial values: a pure function of (seed,
// init_key, initializer, scale).
void InitializeBlock(const ParameterBlock& block, std::uint64_t seed, std::span<float> out);

// The run's fingerprint: SHA-256 over the shard digests in shard order.
Digest ModelDigest(std::span<const Digest> shard_digests);

}  // namespace fedmoe
