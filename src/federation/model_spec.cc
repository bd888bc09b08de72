#include "federation/model_spec.h"

#include <bit>
#include <cmath>
#include <set>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

// No block of a model that fits a machine has more; keeps products of extents from overflowing.
constexpr std::int64_t kMaxBlockElements = std::int64_t{1} << 40;

std::string Named(const ParameterBlock& block) { return "block '" + block.name + "'"; }

Status ValidateShape(const ParameterBlock& block) {
  std::int64_t elements = 1;
  for (std::size_t axis = 0; axis < block.shape.size(); ++axis) {
    const std::int64_t extent = block.shape[axis];
    if (extent < 1) {
      return InvalidArgument(Named(block) + ": extent " + std::to_string(axis) + " is " +
                             std::to_string(extent) + ", must be at least 1");
    }
    if (extent > kMaxBlockElements / elements) {
      return InvalidArgument(Named(block) + " has more than " + std::to_string(kMaxBlockElements) +
                             " elements");
    }
    elements *= extent;
  }
  return Status::Ok();
}

Status ValidateMerge(const ModelSpec& spec, const ParameterBlock& block) {
  if (block.merge == MergeRule::kByTokens && block.owner != BlockOwner::kExpert) {
    return InvalidArgument(Named(block) + " merges by tokens but belongs to no expert");
  }
  if (block.merge != MergeRule::kRowsByTokens) return Status::Ok();
  if (spec.experts == 0) {
    return InvalidArgument(Named(block) + " merges row by row but the model has no experts");
  }
  const int per_layer = spec.ExpertsPerLayer();
  if (block.expert < 0 || block.expert >= spec.experts || block.expert % per_layer != 0) {
    return InvalidArgument(Named(block) + " merges row by row from expert " +
                           std::to_string(block.expert) +
                           ", must be the first expert of a layer: a multiple of " +
                           std::to_string(per_layer) + " below " + std::to_string(spec.experts));
  }
  const std::int64_t rows = block.shape.empty() ? 0 : block.shape[0];
  if (rows < per_layer) {
    return InvalidArgument(Named(block) + " merges row by row but has " + std::to_string(rows) +
                           " rows for " + std::to_string(per_layer) + " experts");
  }
  return Status::Ok();
}

Status ValidateBlock(const ModelSpec& spec, const ParameterBlock& block) {
  FEDMOE_RETURN_IF_ERROR(ValidateShape(block));
  if (block.owner == BlockOwner::kExpert && (block.expert < 0 || block.expert >= spec.experts)) {
    return InvalidArgument(Named(block) + " belongs to expert " + std::to_string(block.expert) +
                           ", the model has " + std::to_string(spec.experts) + " experts");
  }
  FEDMOE_RETURN_IF_ERROR(ValidateMerge(spec, block));
  if (!std::isfinite(block.scale) || block.scale < 0.0) {
    return InvalidArgument(Named(block) + ": the initialiser's scale is " +
                           std::to_string(block.scale) + ", must be finite and at least 0");
  }
  return Status::Ok();
}

Status ValidateExperts(const ModelSpec& spec) {
  if (spec.experts < 0) {
    return InvalidArgument("the model has " + std::to_string(spec.experts) +
                           " experts, must be at least 0");
  }
  if (spec.experts == 0 && (spec.layers < 0 || spec.layers > 1)) {
    return InvalidArgument("the model has " + std::to_string(spec.layers) +
                           " MoE layers, must be 0 or 1 without experts");
  }
  if (spec.experts > 0 && spec.layers < 1) {
    return InvalidArgument("the model has " + std::to_string(spec.layers) +
                           " MoE layers, must be at least 1");
  }
  if (spec.experts > 0 && spec.experts % spec.layers != 0) {
    return InvalidArgument("the model has " + std::to_string(spec.experts) +
                           " experts, must be a multiple of its " + std::to_string(spec.layers) +
                           " MoE layers");
  }
  const int least = spec.experts > 0 ? 1 : 0;
  if (spec.top_k < least || spec.top_k > spec.ExpertsPerLayer()) {
    return InvalidArgument("the model's top_k is " + std::to_string(spec.top_k) + ", must be " +
                           std::to_string(least) + " to " + std::to_string(spec.ExpertsPerLayer()));
  }
  if (spec.tokens_per_example < 1) {
    return InvalidArgument("the model's tokens_per_example is " +
                           std::to_string(spec.tokens_per_example) + ", must be at least 1");
  }
  return Status::Ok();
}

// Text in which every field has one spelling: strings with their length, numbers by their bits.
class CanonicalText {
 public:
  void Add(const char* field, const std::string& value) {
    text_ += std::string(field) + " " + std::to_string(value.size()) + ":" + value + "\n";
  }
  void Add(const char* field, std::int64_t value) {
    text_ += std::string(field) + " " + std::to_string(value) + "\n";
  }
  void AddBits(const char* field, double value) {
    text_ += std::string(field) + " " + std::to_string(std::bit_cast<std::uint64_t>(value)) + "\n";
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

void AddBlock(CanonicalText& text, const ParameterBlock& block) {
  text.Add("block", block.name);
  text.Add("dimensions", static_cast<std::int64_t>(block.shape.size()));
  for (const std::int64_t extent : block.shape) text.Add("extent", extent);
  text.Add("owner", static_cast<std::int64_t>(block.owner));
  text.Add("expert", std::int64_t{block.expert});
  text.Add("merge", static_cast<std::int64_t>(block.merge));
  text.Add("initializer", static_cast<std::int64_t>(block.initializer));
  text.AddBits("scale", block.scale);
  text.Add("init_key", block.init_key);
}

}  // namespace

std::int64_t ParameterBlock::ElementCount() const {
  std::int64_t elements = 1;
  for (const std::int64_t extent : shape) elements *= extent;
  return elements;
}

int ModelSpec::ShardOf(int index) const {
  const ParameterBlock& block = blocks[static_cast<std::size_t>(index)];
  switch (block.owner) {
    case BlockOwner::kTrunk:
      return kTrunkShard;
    case BlockOwner::kExpert:
      return ShardOfExpert(block.expert);
    case BlockOwner::kClient:
      return -1;
  }
  return -1;
}

std::vector<int> ModelSpec::BlocksOf(int shard) const {
  std::vector<int> indices;
  for (int index = 0; index < static_cast<int>(blocks.size()); ++index) {
    if (ShardOf(index) == shard) indices.push_back(index);
  }
  return indices;
}

std::int64_t ModelSpec::ShardElements(int shard) const {
  std::int64_t elements = 0;
  for (int index = 0; index < static_cast<int>(blocks.size()); ++index) {
    if (ShardOf(index) == shard) elements += blocks[static_cast<std::size_t>(index)].ElementCount();
  }
  return elements;
}

std::string ModelSpec::ShardName(int shard) const {
  if (shard == kTrunkShard) return "trunk";
  return "expert." + std::to_string(shard - 1);
}

int ModelSpec::Find(const std::string& name) const {
  for (std::size_t index = 0; index < blocks.size(); ++index) {
    if (blocks[index].name == name) return static_cast<int>(index);
  }
  return -1;
}

Status ValidateModelSpec(const ModelSpec& spec) {
  if (spec.blocks.empty()) return InvalidArgument("the model has no blocks");
  FEDMOE_RETURN_IF_ERROR(ValidateExperts(spec));
  std::set<std::string> names;
  std::vector<bool> has_blocks(static_cast<std::size_t>(spec.experts), false);
  for (std::size_t index = 0; index < spec.blocks.size(); ++index) {
    const ParameterBlock& block = spec.blocks[index];
    if (block.name.empty()) {
      return InvalidArgument("block " + std::to_string(index) + " has no name");
    }
    if (!names.insert(block.name).second) {
      return InvalidArgument(Named(block) + " appears twice");
    }
    FEDMOE_RETURN_IF_ERROR(ValidateBlock(spec, block));
    if (block.owner == BlockOwner::kExpert) {
      has_blocks[static_cast<std::size_t>(block.expert)] = true;
    }
  }
  for (int expert = 0; expert < spec.experts; ++expert) {
    if (!has_blocks[static_cast<std::size_t>(expert)]) {
      return InvalidArgument("expert " + std::to_string(expert) + " has no blocks");
    }
  }
  return Status::Ok();
}

Digest SpecDigest(const ModelSpec& spec) {
  CanonicalText text;
  text.Add("preset", spec.preset);
  text.Add("options", static_cast<std::int64_t>(spec.options.size()));
  for (const auto& [key, value] : spec.options) {
    text.Add("key", key);
    text.Add("value", value);
  }
  text.Add("experts", std::int64_t{spec.experts});
  text.Add("layers", std::int64_t{spec.layers});
  text.Add("top_k", std::int64_t{spec.top_k});
  text.Add("gate_mode", static_cast<std::int64_t>(spec.gate_mode));
  text.Add("tokens_per_example", spec.tokens_per_example);
  text.AddBits("trunk_flops", spec.trunk_flops);
  text.AddBits("expert_flops", spec.expert_flops);
  text.AddBits("trunk_activations", spec.trunk_activations);
  text.AddBits("expert_activations", spec.expert_activations);
  for (const ParameterBlock& block : spec.blocks) AddBlock(text, block);
  return Sha256Of(text.text());
}

void InitializeBlock(const ParameterBlock& block, std::uint64_t seed, std::span<float> out) {
  CounterRng rng(MixKey({seed, KeyOf(block.init_key)}));
  for (float& value : out) {
    switch (block.initializer) {
      case Initializer::kZeros:
        value = 0.0F;
        break;
      case Initializer::kOnes:
        value = 1.0F;
        break;
      case Initializer::kUniform:
        value = static_cast<float>(block.scale * (2.0 * rng.NextUniform() - 1.0));
        break;
      case Initializer::kNormal:
        value = static_cast<float>(block.scale * rng.NextNormal());
        break;
    }
  }
}

Digest ModelDigest(std::span<const Digest> shard_digests) {
  std::string text;
  for (const Digest& digest : shard_digests) text += digest;
  return Sha256Of(text);
}

}  // namespace fedmoe
