#include "loadgen/update_template.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/counter_rng.h"
#include "federation/transfer_options.h"
#include "storage/update_format.h"

namespace fedmoe {
namespace {

constexpr float kStep = 1e-5f;
// Longer than one chunk of compression sees, which would otherwise find the repetition.
constexpr std::size_t kPeriod = kChunkBytes / sizeof(float) + 17;

std::vector<float> OnePeriod() {
  CounterRng random(KeyOf("update template"));
  std::vector<float> values(kPeriod);
  for (float& value : values) value = kStep * static_cast<float>(random.NextUniform() - 0.5);
  return values;
}

std::vector<std::byte> Framed(const OutgoingBlock& block) {
  std::vector<std::byte> framed;
  static_cast<void>(EncodeUpdateBlock(block, [&](std::span<const std::byte> bytes) {
    framed.insert(framed.end(), bytes.begin(), bytes.end());
    return Status::Ok();
  }));
  return framed;
}

// `kept` of a block's values, evenly over it.
std::vector<std::byte> ThinBlock(int parameter, std::uint64_t elements, std::uint64_t kept) {
  EncodedBlock encoded{.encoding = Encoding::kTopK,
                       .compression = Compression::kNone,
                       .elements = elements,
                       .raw_bytes = kept * kTopKUnitBytes,
                       .payload = std::vector<std::byte>(kept * kTopKUnitBytes)};
  for (std::uint64_t i = 0; i < kept; ++i) {
    // No overflow: a block has 2^32 elements at most, and half as many units.
    const auto index = static_cast<std::uint32_t>(i * elements / kept);
    std::byte* const unit = encoded.payload.data() + i * kTopKUnitBytes;
    std::memcpy(unit, &index, sizeof(index));
    std::memcpy(unit + sizeof(index), &kStep, sizeof(kStep));
  }
  return Framed({.parameter = parameter, .delta = {}, .encoded = &encoded});
}

// As many as fill the least payload.
constexpr std::uint64_t kLeastKept = kUpdateAlignment / kTopKUnitBytes;
// The most values that topk may send of a block: no more bytes than float32 would take.
std::uint64_t MostKept(std::uint64_t elements) { return elements * sizeof(float) / kTopKUnitBytes; }

std::uint64_t ThinBytes(std::uint64_t kept) {
  const std::uint64_t payload = kept * kTopKUnitBytes;
  return kUpdateAlignment + (payload + kUpdateAlignment - 1) / kUpdateAlignment * kUpdateAlignment;
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

UpdateTemplate::UpdateTemplate(const ModelSpec& spec, const UploadOptions& upload)
    : spec_(spec),
      upload_(upload),
      period_(OnePeriod()),
      blocks_(std::make_unique<LazyBlock[]>(spec.blocks.size())) {}

std::uint64_t UpdateTemplate::ElementsOf(std::size_t parameter) const {
  return static_cast<std::uint64_t>(spec_.blocks[parameter].ElementCount());
}

std::span<const std::byte> UpdateTemplate::BlockAt(std::size_t parameter) const {
  LazyBlock& block = blocks_[parameter];
  std::call_once(block.made, [&] { block.bytes = MakeBlock(parameter); });
  return block.bytes;
}

std::vector<std::byte> UpdateTemplate::MakeBlock(std::size_t parameter) const {
  const std::uint64_t elements = ElementsOf(parameter);
  std::vector<float> delta(elements);
  for (std::size_t i = 0; i < delta.size(); i += kPeriod) {
    const std::size_t count = std::min(kPeriod, delta.size() - i);
    std::copy_n(period_.begin(), count, delta.begin() + static_cast<std::ptrdiff_t>(i));
  }
  OutgoingBlock outgoing{.parameter = static_cast<int>(parameter), .delta = delta};
  const Encoding encoding = BlockEncodingOf(upload_, elements);
  if (encoding == Encoding::kFloat32 && !upload_.zstd) return Framed(outgoing);
  // Finite and small: nothing to go wrong.
  const EncodedBlock encoded = EncodeBlock(delta, {.encoding = encoding,
                                                   .kept = KeptElements(upload_, elements),
                                                   .key = parameter,
                                                   .zstd = upload_.zstd})
                                   .value();
  outgoing.encoded = &encoded;
  return Framed(outgoing);
}

// What fits into the least payload gains nothing.
bool UpdateTemplate::Thins(std::size_t parameter) const {
  return upload_.encoding == Encoding::kTopK &&
         ElementsOf(parameter) * sizeof(float) > kUpdateAlignment;
}

bool UpdateTemplate::Sends(std::size_t parameter, const std::vector<ExpertIndex>& experts) const {
  const ParameterBlock& block = spec_.blocks[parameter];
  if (block.owner == BlockOwner::kClient) return false;
  return block.owner != BlockOwner::kExpert ||
         std::binary_search(experts.begin(), experts.end(), block.expert);
}

TemplateUpdate UpdateTemplate::Make(const TaskAssignment& task) const {
  return Assemble(task, task.experts, {});
}

TemplateUpdate UpdateTemplate::Make(const TaskAssignment& task, std::uint64_t bytes) const {
  if (upload_.encoding == Encoding::kTopK) return Thinned(task, bytes);
  return Assemble(task, ThatFit(task, bytes), {});
}

UpdateSizes UpdateTemplate::Sizes(const TaskAssignment& task) const {
  UpdateSizes sizes{.least = kUpdateAlignment, .most = kUpdateAlignment};
  for (std::size_t i = 0; i < spec_.blocks.size(); ++i) {
    if (!Sends(i, task.experts)) continue;
    if (Thins(i)) {
      sizes.least += ThinBytes(kLeastKept);
      sizes.most += ThinBytes(MostKept(ElementsOf(i)));
      continue;
    }
    const bool leaves_out =
        upload_.encoding != Encoding::kTopK && spec_.blocks[i].owner == BlockOwner::kExpert;
    if (!leaves_out) sizes.least += BlockAt(i).size();
    sizes.most += BlockAt(i).size();
  }
  return sizes;
}

TemplateUpdate UpdateTemplate::Assemble(const TaskAssignment& task,
                                        std::vector<ExpertIndex> experts, OwnBlocks own) const {
  TemplateUpdate update;
  update.experts_ = std::move(experts);
  update.own_ = std::move(own);
  update.total_bytes_ = kUpdateAlignment;
  update.pieces_.emplace_back();  // the preamble's place
  for (std::size_t i = 0; i < spec_.blocks.size(); ++i) {
    if (!Sends(i, update.experts_)) continue;
    const auto found = update.own_.find(i);
    update.pieces_.push_back(found != update.own_.end() ? found->second : BlockAt(i));
    update.total_bytes_ += update.pieces_.back().size();
  }
  const auto count = static_cast<std::uint32_t>(update.pieces_.size() - 1);
  update.preamble_ = EncodeUpdatePreamble(task.task, count, update.total_bytes_);
  update.pieces_.front() = update.preamble_;
  return update;
}

// What is beyond the least is shared out in proportion to the blocks' values.
TemplateUpdate UpdateTemplate::Thinned(const TaskAssignment& task, std::uint64_t bytes) const {
  std::uint64_t elements = 0;
  for (std::size_t i = 0; i < spec_.blocks.size(); ++i) {
    if (Thins(i) && Sends(i, task.experts)) elements += ElementsOf(i);
  }
  const std::uint64_t least = Sizes(task).least;
  const double room = bytes > least ? static_cast<double>(bytes - least) : 0.0;
  OwnBlocks own;
  for (std::size_t i = 0; i < spec_.blocks.size(); ++i) {
    if (!Thins(i) || !Sends(i, task.experts)) continue;
    const double share = static_cast<double>(ElementsOf(i)) / static_cast<double>(elements);
    const auto more = static_cast<std::uint64_t>(room * share) / kUpdateAlignment;
    const std::uint64_t kept = std::min(kLeastKept * (1 + more), MostKept(ElementsOf(i)));
    own.emplace(i, ThinBlock(static_cast<int>(i), ElementsOf(i), kept));
  }
  return Assemble(task, task.experts, std::move(own));
}

std::vector<ExpertIndex> UpdateTemplate::ThatFit(const TaskAssignment& task,
                                                 std::uint64_t bytes) const {
  const std::size_t held = task.experts.size();
  const std::uint64_t offset = static_cast<std::uint64_t>(task.round) + KeyOf(task.client);
  std::uint64_t total = Sizes(task).least;
  std::vector<ExpertIndex> fit;
  for (std::size_t i = 0; i < held; ++i) {
    const ExpertIndex expert = task.experts[(offset + i) % held];
    std::uint64_t more = 0;
    for (const int block : spec_.BlocksOf(ShardOfExpert(expert))) {
      more += BlockAt(static_cast<std::size_t>(block)).size();
    }
    if (total + more > bytes) continue;
    total += more;
    fit.push_back(expert);
  }
  std::sort(fit.begin(), fit.end());
  return fit;
}

TrainingFeedback FeedbackOf(const ModelSpec& spec, const std::vector<ExpertIndex>& trained,
                            std::int64_t examples, const std::vector<double>& affinity) {
  const auto experts = static_cast<std::size_t>(spec.experts);
  TrainingFeedback feedback{.examples = examples,
                            .steps = 1,
                            .train_loss = 1.0,
                            .train_accuracy = 0.5,
                            .tokens = std::vector<double>(experts, 0.0),
                            .expert_loss = std::vector<double>(experts, 0.0),
                            .expert_accuracy = std::vector<double>(experts, 0.0),
                            .affinity = affinity};
  for (const ExpertIndex expert : trained) {
    const auto e = static_cast<std::size_t>(expert);
    feedback.tokens[e] = static_cast<double>(examples);
    feedback.expert_loss[e] = 1.0;
    feedback.expert_accuracy[e] = 0.5;
  }
  return feedback;
}

}  // namespace fedmoe
