#include "storage/upcycling.h"

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kPieceElements = std::uint64_t{1} << 18;
constexpr std::uint64_t kPieceBytes = std::uint64_t{1} << 20;
constexpr std::size_t kMaxErrors = 10;
constexpr char kExperts[] = "experts.";

// The parts of "blocks.3.experts.5.up.weight": "blocks.3." and "up.weight".
struct ExpertName {
  std::string prefix, rest;
};

std::optional<ExpertName> SplitExpertName(const std::string& name) {
  const std::size_t length = std::strlen(kExperts);
  for (std::size_t at = name.find(kExperts); at != std::string::npos;
       at = name.find(kExperts, at + 1)) {
    if (at > 0 && name[at - 1] != '.') continue;
    std::size_t end = at + length;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
    if (end == at + length || end + 1 >= name.size() || name[end] != '.') continue;
    return ExpertName{name.substr(0, at), name.substr(end + 1)};
  }
  return std::nullopt;
}

// Whether the block is a part of an MoE layer that a dense model has no counterpart of.
bool IsOfRouter(const std::string& name, const std::set<std::string>& prefixes) {
  return std::any_of(prefixes.begin(), prefixes.end(), [&](const std::string& prefix) {
    return name.starts_with(prefix + "gate.") || name.starts_with(prefix + "constants.");
  });
}

std::string ShapeText(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t extent : shape) {
    if (!text.empty()) text += ", ";
    text += std::to_string(extent);
  }
  return "[" + text + "]";
}

// Bytes of one element; 0 for a dtype that is not taken.
std::uint64_t ElementBytes(const std::string& dtype) {
  if (dtype == "F32") return 4;
  return dtype == "BF16" || dtype == "F16" ? 2 : 0;
}

// IEEE 754 binary16.
float FromHalf(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int mantissa = bits & 1023;
  float value = 0.0F;
  if (exponent == 31) {
    value = mantissa == 0 ? HUGE_VALF : std::nanf("");
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(mantissa), -24);
  } else {
    value = std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

void Decode(const std::string& dtype, std::span<const std::byte> bytes, std::span<float> values) {
  if (dtype == "F32") {
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + 2 * i, sizeof(bits));
    values[i] = dtype == "F16" ? FromHalf(bits)
                               : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
}

// What is wrong with `tensor` (null: not there) as the start of `block`; empty for nothing.
std::string WrongWith(const std::string& source, const TensorInfo* tensor,
                      const ParameterBlock& block) {
  const std::string needed = "block '" + block.name + "'";
  if (tensor == nullptr) {
    return "has no tensor '" + source + "' for " + needed +
           ": give the checkpoint of a dense model that is otherwise the same, exported with "
           "scripts/read_checkpoint --export";
  }
  const std::string named = "tensor '" + source + "'";
  if (ElementBytes(tensor->dtype) == 0) {
    return named + " for " + needed + " is " + tensor->dtype +
           ", must be F32, BF16 or F16: convert it";
  }
  if (tensor->shape != block.shape) {
    return named + " is " + ShapeText(tensor->shape) + ", " + needed + " is " +
           ShapeText(block.shape) +
           ": give the model the dense model's widths, and its experts those of its FFN";
  }
  return {};
}

}  // namespace

Result<Upcycling> Upcycling::Open(FileSystem& files, const UpcycleOptions& options,
                                  const ModelSpec& spec) {
  Upcycling upcycling;
  upcycling.options_ = options;
  FEDMOE_ASSIGN_OR_RETURN(upcycling.file_, files.Open(options.checkpoint));
  FEDMOE_ASSIGN_OR_RETURN(const SafetensorsFile content,
                          ReadSafetensorsHeader(*upcycling.file_, options.checkpoint));
  for (const TensorInfo& tensor : content.tensors) upcycling.tensors_[tensor.name] = tensor;
  FEDMOE_RETURN_IF_ERROR(upcycling.Plan(spec));
  FEDMOE_RETURN_IF_ERROR(upcycling.ReadDigest());
  return upcycling;
}

Status Upcycling::ReadDigest() {
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file_->Size());
  Sha256 sha;
  std::vector<std::byte> bytes;
  for (std::uint64_t at = 0; at < size; at += kPieceBytes) {
    bytes.resize(std::min(kPieceBytes, size - at));
    FEDMOE_RETURN_IF_ERROR(file_->ReadAt(at, bytes));
    sha.Update(bytes);
  }
  digest_ = sha.Finish();
  return Status::Ok();
}

Status Upcycling::Plan(const ModelSpec& spec) {
  std::set<std::string> prefixes;
  for (const ParameterBlock& block : spec.blocks) {
    if (block.owner != BlockOwner::kExpert) continue;
    const std::optional<ExpertName> name = SplitExpertName(block.name);
    if (!name) {
      return InvalidArgument("block '" + block.name +
                             "' of an expert is not named PREFIXexperts.N.REST, so no tensor of a "
                             "dense model answers to it; leave model.upcycle.checkpoint empty");
    }
    prefixes.insert(name->prefix);
    sources_[block.name] = name->prefix + "ffn." + name->rest;
  }
  std::vector<std::string> errors;
  std::set<std::string> taken;
  for (const ParameterBlock& block : spec.blocks) {
    if (block.owner == BlockOwner::kClient || IsOfRouter(block.name, prefixes)) continue;
    const std::string& source = sources_.try_emplace(block.name, block.name).first->second;
    // One line a tensor, however many experts start from it.
    if (!taken.insert(source).second) continue;
    const auto found = tensors_.find(source);
    const std::string wrong =
        WrongWith(source, found == tensors_.end() ? nullptr : &found->second, block);
    if (!wrong.empty()) errors.push_back(options_.checkpoint + ": " + wrong);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (taken.count(name) == 0) unused_.push_back(name);
  }
  if (errors.empty()) return Status::Ok();
  std::string message;
  for (std::size_t i = 0; i < std::min(errors.size(), kMaxErrors); ++i) {
    message += (i == 0 ? "" : "\n") + errors[i];
  }
  if (errors.size() > kMaxErrors) {
    message += "\nand " + std::to_string(errors.size() - kMaxErrors) + " more like these";
  }
  return InvalidArgument(message);
}

Status Upcycling::ForEachPiece(const TensorInfo& tensor,
                               const std::function<Status(std::span<float>)>& use) const {
  const std::uint64_t element_bytes = ElementBytes(tensor.dtype);
  const std::uint64_t elements = tensor.bytes / element_bytes;
  std::vector<std::byte> bytes;
  std::vector<float> values;
  for (std::uint64_t at = 0; at < elements; at += kPieceElements) {
    values.resize(std::min(kPieceElements, elements - at));
    bytes.resize(values.size() * element_bytes);
    FEDMOE_RETURN_IF_ERROR(file_->ReadAt(tensor.offset + at * element_bytes, bytes));
    Decode(tensor.dtype, bytes, values);
    const bool finite =
        std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
    if (!finite) {
      return InvalidArgument(options_.checkpoint + ": tensor '" + tensor.name +
                             "' has a value that is not finite: give another checkpoint");
    }
    FEDMOE_RETURN_IF_ERROR(use(values));
  }
  return Status::Ok();
}

// Of the population. Two passes, so that a large mean costs no precision.
Result<double> Upcycling::DeviationOf(const TensorInfo& tensor) {
  if (const auto known = deviations_.find(tensor.name); known != deviations_.end()) {
    return known->second;
  }
  double count = 0.0;
  double sum = 0.0;
  FEDMOE_RETURN_IF_ERROR(ForEachPiece(tensor, [&](std::span<float> values) {
    for (const float value : values) sum += value;
    count += static_cast<double>(values.size());
    return Status::Ok();
  }));
  const double mean = sum / count;
  double squares = 0.0;
  FEDMOE_RETURN_IF_ERROR(ForEachPiece(tensor, [&](std::span<float> values) {
    for (const float value : values) squares += (value - mean) * (value - mean);
    return Status::Ok();
  }));
  const double deviation = std::sqrt(squares / count);
  deviations_[tensor.name] = deviation;
  return deviation;
}

Status Upcycling::WriteBlock(const ParameterBlock& block, std::uint64_t seed, const Sink& sink) {
  const auto source = sources_.find(block.name);
  if (source == sources_.end()) {
    std::vector<float> values(static_cast<std::size_t>(block.ElementCount()));
    InitializeBlock(block, seed, values);
    return sink(values);
  }
  const TensorInfo& tensor = tensors_.at(source->second);
  double deviation = 0.0;
  if (block.owner == BlockOwner::kExpert && options_.noise > 0.0) {
    FEDMOE_ASSIGN_OR_RETURN(deviation, DeviationOf(tensor));
  }
  const double scale = options_.noise * deviation;
  CounterRng rng(MixKey({seed, KeyOf("upcycling"), KeyOf(block.name)}));
  return ForEachPiece(tensor, [&](std::span<float> values) {
    if (scale > 0.0) {
      for (float& value : values) value += static_cast<float>(scale * rng.NextNormal());
    }
    return sink(values);
  });
}

}  // namespace fedmoe
