// The libtorch module of the preset `moe_cnn`: a small ResNet (He et al., 2015, arXiv 1512.03385)
// with GroupNorm (Wu and He, 2018, arXiv 1803.08494), whose last stage carries FFNs.
//
//   stem: convolution 3x3, norm, ReLU, max pooling 2x2
//   three stages of `depth` blocks at width/4, width/2, width channels, the size halved between:
//     x <- ReLU(skip(x) + norm2(conv2(ReLU(norm1(conv1(x))))))
//   last stage, after each block, a token for each position: x <- x + FFN(RMSNorm(x))
//   logits = RMSNorm(mean over positions of x) W_h + b_h
//
// The gate reads the token's features, or their mean over the image.
#pragma once

#include <vector>

#include "moe/moe_model.h"

namespace fedmoe {

class MoeCnn final : public MoeModel {
 public:
  MoeCnn(const ModelOptions& options, const ModelSpec& spec, std::vector<ExpertIndex> held,
         const ComputeOptions& compute = {});
  // inputs: [n, channels x size x size], or [n, channels, size, size].
  MoeOutput Forward(const torch::Tensor& inputs, const ForwardOptions& options = {}) const override;

 private:
  struct Norm {
    torch::Tensor scale, bias;
  };
  struct Block {
    torch::Tensor conv1, conv2, skip;  // skip: undefined where the channels stay
    Norm norm1, norm2;
    torch::Tensor ffn_norm_scale;  // last stage only
    int stride = 1;
  };
  Norm NormOf(const std::string& name) const;
  torch::Tensor RunFfnOnImage(std::size_t index, const torch::Tensor& image,
                              const ForwardOptions& options, MoeOutput& output) const;

  torch::Tensor stem_;
  Norm stem_norm_;
  std::vector<Block> blocks_;
  torch::Tensor norm_scale_, head_weight_, head_bias_;
};

}  // namespace fedmoe
