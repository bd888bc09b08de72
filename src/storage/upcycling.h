// A new run's initial values from a dense model's checkpoint (Komatsuzaki et al., 2022, arXiv
// 2212.05055). Which tensor a block starts from:
//
//   PREFIX experts.N.REST      of an expert: PREFIX ffn.REST, the same for every N
//   PREFIX gate.weight, PREFIX gate.bias, PREFIX constants.*
//                              of an MoE layer (one with experts under PREFIX): none, a dense model
//                              has no such thing; initialised as usual
//   any other                  the tensor of its own name
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/file_system.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "federation/upcycle_options.h"
#include "storage/safetensors.h"

namespace fedmoe {

// The checkpoint, open, and what each block takes from it. Not thread-safe.
class Upcycling {
 public:
  // Reads the file once, for its digest. INVALID_ARGUMENT with up to ten lines, one for each tensor
  // that is missing, of another shape, or not F32, BF16 or F16, naming file, block and fix.
  static Result<Upcycling> Open(FileSystem& files, const UpcycleOptions& options,
                                const ModelSpec& spec);

  // Gives the block's initial values to `sink`, piece by piece: memory does not grow with the
  // block unless it is initialised as usual. An expert's copy has noise from the stream of (seed,
  // block name). INVALID_ARGUMENT for a value that is not finite.
  using Sink = std::function<Status(std::span<const float>)>;
  Status WriteBlock(const ParameterBlock& block, std::uint64_t seed, const Sink& sink);

  // SHA-256 of the whole file.
  const Digest& digest() const { return digest_; }
  // Tensors that no block starts from, sorted.
  const std::vector<std::string>& unused() const { return unused_; }

 private:
  Upcycling() = default;
  Status ReadDigest();
  Status Plan(const ModelSpec& spec);
  // Calls `use` with the tensor's values, piece by piece.
  Status ForEachPiece(const TensorInfo& tensor,
                      const std::function<Status(std::span<float>)>& use) const;
  Result<double> DeviationOf(const TensorInfo& tensor);

  UpcycleOptions options_;
  std::unique_ptr<RandomAccessFile> file_;
  std::map<std::string, TensorInfo> tensors_;   // by name
  std::map<std::string, std::string> sources_;  // tensor by block, both by name
  std::map<std::string, double> deviations_;    // by tensor
  std::vector<std::string> unused_;
  Digest digest_;
};

}  // namespace fedmoe
