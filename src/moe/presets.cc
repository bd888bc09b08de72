// The presets as lists of parameter blocks; moe_mlp.cc, moe_cnn.cc and moe_transformer.cc build the
// modules of the same names.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "moe/model_options.h"
#include "moe/preset_blocks.h"

namespace fedmoe {
namespace {

constexpr int kMaxExtent = 1 << 20;
constexpr int kMaxExperts = 4096;
constexpr int kMaxDepth = 256;
constexpr int kMaxFreeExperts = 64;
constexpr int kMaxChannels = 1024;
// moe_cnn halves the image three times.
constexpr int kLeastImage = 8;
// GroupNorm's groups divide the channels of each stage.
constexpr int kChannelMultiple = 4;

Status CheckExtent(const char* key, int value, int least, int most) {
  if (value >= least && value <= most) return Status::Ok();
  return InvalidArgument(
      fmt::format("model.{} must be {} to {} (got {})", key, least, most, value));
}

Status CheckExtents(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckExtent("inputs", options.inputs, 1, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("classes", options.classes, 1, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("width", options.width, 1, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("depth", options.depth, 0, kMaxDepth));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("dense_width", options.dense_width, 0, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("expert_width", options.expert_width, 1, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("shared_expert_width", options.shared_expert_width, 0, kMaxExtent));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("zero_computation.zero", options.zero_experts, 0, kMaxFreeExperts));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("zero_computation.copy", options.copy_experts, 0, kMaxFreeExperts));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("zero_computation.constant", options.constant_experts, 0, kMaxFreeExperts));
  return Status::Ok();
}

// A key that the preset has no use for must be 0.
Status CheckUnused(const ModelOptions& options, const char* key, int value) {
  if (value == 0) return Status::Ok();
  return InvalidArgument(fmt::format("model.{} is not a key of {} (got {}); leave it out", key,
                                     options.preset, value));
}

Status CheckMlp(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "channels", options.channels));
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "depth", options.depth));
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "heads", options.heads));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("embedding", options.embedding, 0, kMaxExtent / options.inputs));
  if (options.gate_input != GateInput::kSequence || options.embedding > 0) return Status::Ok();
  return InvalidArgument(
      "model.gate.input must be token or data for moe_mlp without model.embedding (got sequence): "
      "an example is one token");
}

Status CheckCnn(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "heads", options.heads));
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "embedding", options.embedding));
  if (options.gate_input == GateInput::kData) {
    return InvalidArgument("model.gate.input must be token or sequence for moe_cnn (got data)");
  }
  FEDMOE_RETURN_IF_ERROR(CheckExtent("channels", options.channels, 0, kMaxChannels));
  const int size = options.ImageSize();
  if (size < kLeastImage || size * size * options.Channels() != options.inputs) {
    return InvalidArgument(fmt::format(
        "model.inputs must be model.channels x size x size for moe_cnn, size at least {} (got {} "
        "with {} channels)",
        kLeastImage, options.inputs, options.Channels()));
  }
  if (options.width % kChannelMultiple == 0) return Status::Ok();
  return InvalidArgument(
      fmt::format("model.width must be a multiple of 4 for moe_cnn (got {})", options.width));
}

Status CheckTransformer(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "channels", options.channels));
  FEDMOE_RETURN_IF_ERROR(CheckUnused(options, "embedding", options.embedding));
  FEDMOE_RETURN_IF_ERROR(CheckExtent("heads", options.heads, 0, options.width));
  if (options.width % (2 * options.Heads()) == 0) return Status::Ok();
  return InvalidArgument(
      fmt::format("model.width must be a multiple of 2 x model.heads for moe_transformer (got {} "
                  "with {} heads): a head's features turn in pairs",
                  options.width, options.Heads()));
}

Status CheckPreset(const ModelOptions& options) {
  if (options.preset == "moe_mlp") return CheckMlp(options);
  if (options.preset == "moe_cnn") return CheckCnn(options);
  if (options.preset == "moe_transformer") return CheckTransformer(options);
  return InvalidArgument(fmt::format(
      "model.preset must be one of moe_mlp, moe_cnn, moe_transformer (got '{}')", options.preset));
}

Status CheckOptions(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckExtents(options));
  FEDMOE_RETURN_IF_ERROR(CheckPreset(options));
  const int ffns = static_cast<int>(FfnPlaces(options).size());
  FEDMOE_RETURN_IF_ERROR(CheckExtent("moe_layers", options.moe_layers, 0, ffns));
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("gate.post_hoc_batches", options.post_hoc_batches, 0, kMaxExtent));
  if (!(options.soup >= 0.0 && options.soup <= 1.0)) {
    return InvalidArgument(fmt::format("model.soup must be 0 to 1 (got {:g})", options.soup));
  }
  if (options.post_hoc_batches > 0 && options.gate_mode == GateMode::kLocal) {
    return InvalidArgument(fmt::format(
        "model.gate.post_hoc_batches must be 0 with model.gate.mode local (got {}): nobody routes "
        "over all experts",
        options.post_hoc_batches));
  }
  if (options.post_hoc_batches > 0 && options.FreeExperts() > 0) {
    return InvalidArgument(
        fmt::format("model.gate.post_hoc_batches must be 0 with model.zero_computation (got {}): "
                    "nobody trains a gate for what is nobody's",
                    options.post_hoc_batches));
  }
  if (options.moe_layers == 0) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(
      CheckExtent("experts", options.experts, 1, kMaxExperts / options.moe_layers));
  if (options.top_k < 1 || options.top_k > options.experts) {
    const bool above = options.top_k > options.experts;
    return InvalidArgument(
        fmt::format("model.top_k must be 1 to model.experts (got {}{})", options.top_k,
                    above ? fmt::format(" > {}", options.experts) : std::string()));
  }
  return Status::Ok();
}

}  // namespace

std::vector<FfnPlace> FfnPlaces(const ModelOptions& options) {
  if (options.preset == "moe_mlp") return {{.prefix = "", .layer = options.moe_layers - 1}};
  std::vector<FfnPlace> places;
  const int depth = options.Depth();
  // moe_cnn: the blocks of the last of three stages.
  const int first = options.preset == "moe_cnn" ? 2 * depth : 0;
  for (int i = 0; i < depth; ++i) {
    const int layer = i - (depth - options.moe_layers);
    places.push_back(
        {.prefix = fmt::format("blocks.{}.", first + i), .layer = layer < 0 ? -1 : layer});
  }
  return places;
}

Result<ModelSpec> BuildModelSpec(const ModelOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckOptions(options));
  ModelSpec spec = options.preset == "moe_mlp"   ? BuildMoeMlp(options)
                   : options.preset == "moe_cnn" ? BuildMoeCnn(options)
                                                 : BuildMoeTransformer(options);
  spec.preset = options.preset;
  spec.options = ModelOptionsText(options);
  spec.layers = options.moe_layers;
  spec.experts = options.moe_layers * options.experts;
  spec.top_k = options.moe_layers > 0 ? options.top_k : 0;
  spec.gate_mode = options.gate_mode;
  const TokenCost expert = ExpertCost(options, options.expert_width);
  spec.expert_flops = expert.flops;
  spec.expert_activations = expert.activations;
  return spec;
}

}  // namespace fedmoe
