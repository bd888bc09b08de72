#include "kernels/weighted_sum_encoded.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/codec_decode.h"
#include "kernels/codec_top_k.h"
#include "kernels/weighted_sum.h"
#include "kernels/weighted_sum_group.h"
#include "kernels/weighted_sum_scaled.h"
#include "kernels/weighted_sum_sources.h"

namespace fedmoe {
namespace {

// Elements decoded at once: eight sources' values are 16 KiB and their sums 4 KiB, which the
// first-level cache holds beside the bytes that they come from.
constexpr std::size_t kTile = 512;
constexpr std::size_t kTileUnitBytes = kTile / kScaleBlock * (sizeof(float) + kScaleBlock);
// An output of more bytes than this is written past the caches: it would drive out what is read,
// and each of its lines would be read before it is written.
constexpr std::size_t kStreamBytes = std::size_t{32} << 20;

// Which loop adds a source.
enum class Kind { kFloats, kScaled, kTopK };

Kind KindOf(Encoding encoding) {
  switch (encoding) {
    case Encoding::kInt8:
    case Encoding::kInt4:
      return Kind::kScaled;
    case Encoding::kTopK:
      return Kind::kTopK;
    default:
      return Kind::kFloats;
  }
}

// The sources that have weight.
struct Weighted {
  std::vector<EncodedValues> sources;
  std::vector<double> weights;
};

Weighted WithWeight(std::span<const EncodedValues> sources, std::span<const double> weights) {
  Weighted used;
  for (std::size_t s = 0; s < sources.size(); ++s) {
    if (weights[s] == 0.0) continue;
    used.sources.push_back(sources[s]);
    used.weights.push_back(weights[s]);
  }
  return used;
}

// int8 and int4, element by element, for the units that a range cuts: as AddScaledGroup().
void AddScaledElements(const EncodedValues& source, double weight, ElementRange range,
                       double* sums) {
  for (std::size_t i = 0; i < range.count; ++i) {
    const std::uint64_t offset = range.first - source.first + i;
    const std::uint64_t within = offset % kScaleBlock;
    const std::byte* const unit =
        source.payload.data() + offset / kScaleBlock * UnitBytes(source.encoding);
    float scale;
    std::memcpy(&scale, unit, sizeof(scale));
    const std::byte* const steps = unit + sizeof(scale);
    int step = 0;
    if (source.encoding == Encoding::kInt8) {
      step = static_cast<std::int8_t>(steps[within]);
    } else {
      const auto pair = std::to_integer<int>(steps[within % (kScaleBlock / 2)]);
      step = ((within < kScaleBlock / 2 ? pair & 0xF : pair >> 4) ^ 8) - 8;
    }
    sums[i] = std::fma(weight * static_cast<double>(scale), static_cast<double>(step), sums[i]);
  }
}

// One thread's work on a part: keeps the place in each source of top-k from tile to tile.
class TileAdder {
 public:
  explicit TileAdder(const Weighted& used)
      : used_(used), places_(used.sources.size(), kUnknownPlace) {}

  // In source order, in groups of neighbours of one kind. Tiles must come in ascending order.
  void Add(ElementRange tile, double* sums) {
    for (std::size_t first = 0; first < used_.sources.size();) {
      const Kind kind = KindOf(used_.sources[first].encoding);
      std::size_t end = first + 1;
      while (end < used_.sources.size() && end - first < kSumGroup &&
             KindOf(used_.sources[end].encoding) == kind) {
        ++end;
      }
      switch (kind) {
        case Kind::kFloats:
          AddFloats(first, end, tile, sums);
          break;
        case Kind::kScaled:
          AddScaled(first, end, tile, sums);
          break;
        case Kind::kTopK:
          for (std::size_t s = first; s < end; ++s) AddTopK(s, tile, sums);
          break;
      }
      first = end;
    }
  }

 private:
  static constexpr std::size_t kUnknownPlace = SIZE_MAX;

  void AddFloats(std::size_t first, std::size_t end, ElementRange tile, double* sums) {
    std::array<const float*, kSumGroup> rows{};
    for (std::size_t s = first; s < end; ++s) {
      const EncodedValues& source = used_.sources[s];
      rows[s - first] = FloatsAt(source, tile.first);
      if (rows[s - first] != nullptr) continue;
      // The next bytes are asked for while these are worked on: a tile is too short for the
      // hardware to notice a stream.
      Prefetch(source, {tile.first + tile.count, kTile});
      DecodeWithin(source, tile.first, std::span(floats_[s - first]).first(tile.count));
      rows[s - first] = floats_[s - first].data();
    }
    AddGroup(rows.data(), used_.weights.data() + first, end - first, tile.count, sums);
  }

  void AddScaled(std::size_t first, std::size_t end, ElementRange tile, double* sums) {
    // A tile ends at a unit's end but where the range does; it begins within one only there.
    const std::size_t cut = static_cast<std::size_t>(tile.first % kScaleBlock);
    const std::size_t head = cut == 0 ? 0 : std::min<std::size_t>(kScaleBlock - cut, tile.count);
    const std::size_t whole = (tile.count - head) / kScaleBlock;
    const ElementRange tail{tile.first + head + whole * kScaleBlock,
                            tile.count - head - whole * kScaleBlock};
    for (std::size_t s = first; s < end; ++s) {
      AddScaledElements(used_.sources[s], used_.weights[s], {tile.first, head}, sums);
      AddScaledElements(used_.sources[s], used_.weights[s], tail, sums + (tile.count - tail.count));
    }
    if (whole == 0) return;
    std::array<const std::byte*, kSumGroup> units{};
    for (std::size_t s = first; s < end; ++s) {
      units[s - first] = UnitsAt(used_.sources[s], tile.first + head, whole, units_[s - first]);
    }
    AddScaledGroup(units.data(), used_.weights.data() + first, end - first, whole, sums + head);
  }

  // `count` units of int8 from element `first` on.
  static const std::byte* UnitsAt(const EncodedValues& source, std::uint64_t first,
                                  std::size_t count, std::array<std::byte, kTileUnitBytes>& room) {
    const std::uint64_t unit = (first - source.first) / kScaleBlock;
    const std::byte* const bytes = source.payload.data() + unit * UnitBytes(source.encoding);
    if (source.encoding == Encoding::kInt8) return bytes;
    Prefetch(source, {first + count * kScaleBlock, kTile});
    WidenInt4(bytes, count, room.data());
    return room.data();
  }

  // Elements without a unit are zeros, which change no sum that began at +0.
  void AddTopK(std::size_t s, ElementRange tile, double* sums) {
    const TopKView view(used_.sources[s].payload);
    std::size_t& place = places_[s];
    if (place == kUnknownPlace) place = view.LowerBound(tile.first);
    for (; place < view.size(); ++place) {
      const std::uint64_t index = view.IndexOf(place);
      if (index < tile.first || index - tile.first >= tile.count) return;
      double& sum = sums[index - tile.first];
      sum = std::fma(used_.weights[s], static_cast<double>(view.ValueOf(place)), sum);
    }
  }

  const Weighted& used_;
  std::vector<std::size_t> places_;
  alignas(64) std::array<std::array<float, kTile>, kSumGroup> floats_;
  std::array<std::array<std::byte, kTileUnitBytes>, kSumGroup> units_;
};

// The sums of a part whose sources are one group and can be read in place: all f32, or all int8.
// Returns the number of elements done, from the part's first on; 0 where it cannot.
std::size_t SumInPlace(const Weighted& used, ElementRange part, bool stream, float* out) {
  const std::size_t n = used.sources.size();
  if (n == 0 || n > kSumGroup) return 0;
  const auto all = [&](Encoding encoding) {
    return std::all_of(used.sources.begin(), used.sources.end(),
                       [&](const EncodedValues& source) { return source.encoding == encoding; });
  };
  if (all(Encoding::kInt8) && part.first % kScaleBlock == 0) {
    std::array<const std::byte*, kSumGroup> units{};
    for (std::size_t s = 0; s < n; ++s) {
      const std::uint64_t unit = (part.first - used.sources[s].first) / kScaleBlock;
      units[s] = used.sources[s].payload.data() + unit * UnitBytes(Encoding::kInt8);
    }
    const std::size_t whole = part.count / kScaleBlock;
    SumScaledGroup(units.data(), used.weights.data(), n, whole, stream, out);
    return whole * kScaleBlock;
  }
  std::array<const float*, kSumGroup> rows{};
  for (std::size_t s = 0; s < n; ++s) {
    rows[s] = FloatsAt(used.sources[s], part.first);
    if (rows[s] == nullptr) return 0;
  }
  SumGroup(rows.data(), used.weights.data(), n, part.count, stream, out);
  return part.count;
}

Status CheckWeights(std::span<const EncodedValues> sources, std::span<const double> weights) {
  if (sources.size() == weights.size()) return Status::Ok();
  return InvalidArgument(std::to_string(sources.size()) + " sources have " +
                         std::to_string(weights.size()) + " weights");
}

}  // namespace

Status WeightedSumEncoded(std::span<const EncodedValues> sources, std::span<const double> weights,
                          std::uint64_t first, std::span<float> out, const ParallelFor& parallel) {
  const ElementRange range{first, out.size()};
  FEDMOE_RETURN_IF_ERROR(CheckWeights(sources, weights));
  FEDMOE_RETURN_IF_ERROR(CheckSources(sources, range));
  const Weighted used = WithWeight(sources, weights);
  const bool stream = out.size_bytes() > kStreamBytes;
  RunParts(parallel, PartCount(range), [&](int index) {
    ElementRange part = PartOf(range, index);
    float* part_out = out.data() + (part.first - first);
    const std::size_t done = SumInPlace(used, part, stream, part_out);
    if (done == part.count) return;
    part = {part.first + done, part.count - done};
    part_out += done;
    TileAdder adder(used);
    alignas(64) std::array<double, kTile> sums;
    ForEachTile(part, kTile, [&](ElementRange tile) {
      std::fill_n(sums.begin(), tile.count, 0.0);
      adder.Add(tile, sums.data());
      RoundSums(std::span(sums).first(tile.count),
                std::span(part_out + (tile.first - part.first), tile.count));
    });
  });
  return Status::Ok();
}

Status AccumulateEncoded(std::span<const EncodedValues> sources, std::span<const double> weights,
                         std::uint64_t first, std::span<double> sums, const ParallelFor& parallel) {
  const ElementRange range{first, sums.size()};
  FEDMOE_RETURN_IF_ERROR(CheckWeights(sources, weights));
  FEDMOE_RETURN_IF_ERROR(CheckSources(sources, range));
  const Weighted used = WithWeight(sources, weights);
  RunParts(parallel, PartCount(range), [&](int index) {
    TileAdder adder(used);
    ForEachTile(PartOf(range, index), kTile,
                [&](ElementRange tile) { adder.Add(tile, sums.data() + (tile.first - first)); });
  });
  return Status::Ok();
}

void WeightedSumEncodedReference(std::span<const EncodedValues> sources,
                                 std::span<const double> weights, std::uint64_t first,
                                 std::span<float> out) {
  std::vector<double> sums(out.size(), 0.0);
  std::vector<float> decoded(out.size());
  for (std::size_t s = 0; s < sources.size(); ++s) {
    if (weights[s] == 0.0) continue;
    if (KindOf(sources[s].encoding) == Kind::kScaled) {
      AddScaledElements(sources[s], weights[s], {first, out.size()}, sums.data());
      continue;
    }
    DecodeWithin(sources[s], first, decoded);
    for (std::size_t i = 0; i < out.size(); ++i) {
      sums[i] = std::fma(weights[s], static_cast<double>(decoded[i]), sums[i]);
    }
  }
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<float>(sums[i]);
}

}  // namespace fedmoe
