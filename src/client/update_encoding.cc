#include "client/update_encoding.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

// By parameter.
using Residuals = std::map<int, std::vector<float>>;

bool UsesResiduals(const TaskAssignment& task) {
  return task.training.upload.encoding == Encoding::kTopK;
}

template <typename T>
void Put(T value, std::vector<std::byte>& bytes) {
  const auto* const begin = reinterpret_cast<const std::byte*>(&value);
  bytes.insert(bytes.end(), begin, begin + sizeof(value));
}

// Takes what it returns off the front of `bytes`.
template <typename T>
Result<T> Take(std::span<const std::byte>& bytes) {
  if (bytes.size() < sizeof(T)) return DataLoss("the client state ends early");
  T value;
  std::memcpy(&value, bytes.data(), sizeof(value));
  bytes = bytes.subspan(sizeof(value));
  return value;
}

bool Holds(const TaskAssignment& task, const ParameterBlock& block) {
  return block.owner != BlockOwner::kExpert ||
         std::find(task.experts.begin(), task.experts.end(), block.expert) != task.experts.end();
}

// Those of the blocks that the task holds.
Result<Residuals> ReadResiduals(const TaskAssignment& task, const ModelSpec& spec,
                                std::span<const std::byte> state) {
  Residuals residuals;
  // The first task of the attempt has sent them.
  if (!UsesResiduals(task) || state.empty() || task.follows != 0) return residuals;
  FEDMOE_ASSIGN_OR_RETURN(const auto trainer, TrainerState(task, state));
  std::span<const std::byte> rest = state.subspan(sizeof(std::uint64_t) + trainer.size());
  while (!rest.empty()) {
    FEDMOE_ASSIGN_OR_RETURN(const auto parameter, Take<std::uint32_t>(rest));
    FEDMOE_ASSIGN_OR_RETURN(const auto elements, Take<std::uint64_t>(rest));
    if (parameter >= spec.blocks.size() ||
        static_cast<std::int64_t>(elements) != spec.blocks[parameter].ElementCount() ||
        elements > rest.size() / sizeof(float)) {
      return DataLoss("the client state's residual of parameter " + std::to_string(parameter) +
                      " does not fit the model");
    }
    if (Holds(task, spec.blocks[parameter])) {
      std::vector<float>& residual = residuals[static_cast<int>(parameter)];
      residual.resize(elements);
      std::memcpy(residual.data(), rest.data(), elements * sizeof(float));
    }
    rest = rest.subspan(elements * sizeof(float));
  }
  return residuals;
}

std::vector<std::byte> WriteState(const TaskAssignment& task, std::vector<std::byte> trainer,
                                  const Residuals& residuals) {
  if (!UsesResiduals(task)) return trainer;
  std::vector<std::byte> state;
  Put<std::uint64_t>(trainer.size(), state);
  state.insert(state.end(), trainer.begin(), trainer.end());
  for (const auto& [parameter, residual] : residuals) {
    Put(static_cast<std::uint32_t>(parameter), state);
    Put<std::uint64_t>(residual.size(), state);
    const auto bytes = std::as_bytes(std::span(residual));
    state.insert(state.end(), bytes.begin(), bytes.end());
  }
  return state;
}

// `delta` as the task asks for it; of topk with the residual added, which becomes what is not sent.
Result<PreparedUpdate::Block> PrepareBlock(const TaskAssignment& task, const ParameterBlock& block,
                                           BlockDelta delta, Residuals& residuals) {
  const UploadOptions& upload = task.training.upload;
  PreparedUpdate::Block prepared{.parameter = delta.parameter, .delta = {}, .encoded = {}};
  const std::uint64_t elements = delta.delta.size();
  const Encoding encoding = BlockEncodingOf(upload, elements);
  if (encoding == Encoding::kFloat32 && !upload.zstd) {
    prepared.delta = std::move(delta.delta);
    return prepared;
  }
  std::vector<float>& values = delta.delta;
  const bool top_k = encoding == Encoding::kTopK;
  if (const auto residual = residuals.find(delta.parameter); top_k && residual != residuals.end()) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += residual->second[i];
  }
  const std::string purpose = "encode." + block.name;
  const BlockEncoding options{
      .encoding = encoding,
      .kept = top_k ? KeptElements(upload, elements) : 0,
      .key = CounterRng::For(task.seed, task.client, task.round, purpose).NextU64(),
      .zstd = upload.zstd};
  Result<EncodedBlock> encoded =
      top_k ? EncodeKeepingRest(values, options) : EncodeBlock(values, options);
  if (!encoded.ok()) {
    return OutOfRange("block '" + block.name + "': " + encoded.status().message());
  }
  prepared.encoded = std::move(*encoded);
  if (top_k) residuals[delta.parameter] = std::move(values);
  return prepared;
}

}  // namespace

std::vector<OutgoingBlock> PreparedUpdate::Outgoing() const {
  std::vector<OutgoingBlock> outgoing;
  outgoing.reserve(blocks.size());
  for (const Block& block : blocks) {
    const bool encoded = !block.encoded.payload.empty();
    outgoing.push_back({.parameter = block.parameter,
                        .delta = block.delta,
                        .encoded = encoded ? &block.encoded : nullptr});
  }
  return outgoing;
}

Result<std::span<const std::byte>> TrainerState(const TaskAssignment& task,
                                                std::span<const std::byte> state) {
  if (!UsesResiduals(task) || state.empty()) return state;
  std::span<const std::byte> rest = state;
  FEDMOE_ASSIGN_OR_RETURN(const auto bytes, Take<std::uint64_t>(rest));
  if (bytes > rest.size()) return DataLoss("the client state ends early");
  return rest.first(bytes);
}

Result<PreparedUpdate> PrepareUpdate(const TaskAssignment& task, const ModelSpec& spec,
                                     std::span<const std::byte> state, TrainResult result) {
  FEDMOE_ASSIGN_OR_RETURN(Residuals residuals, ReadResiduals(task, spec, state));
  PreparedUpdate update;
  update.feedback = std::move(result.feedback);
  for (BlockDelta& delta : result.blocks) {
    const ParameterBlock& block = spec.blocks.at(static_cast<std::size_t>(delta.parameter));
    FEDMOE_ASSIGN_OR_RETURN(PreparedUpdate::Block prepared,
                            PrepareBlock(task, block, std::move(delta), residuals));
    update.blocks.push_back(std::move(prepared));
  }
  // The client's state of this attempt is the first task's.
  if (task.follows == 0) update.state = WriteState(task, std::move(result.state), residuals);
  return update;
}

}  // namespace fedmoe
