#include "kernels/weighted_sum_sources.h"

#include <string>

namespace fedmoe {

Status CheckSources(std::span<const EncodedValues> sources, ElementRange range) {
  for (std::size_t s = 0; s < sources.size(); ++s) {
    const EncodedValues& source = sources[s];
    const std::string where = "source " + std::to_string(s) + ": ";
    if (const Status status = CheckEncodedLength(source); !status.ok()) {
      return InvalidArgument(where + status.message());
    }
    if (range.first < source.first || range.first - source.first > source.elements ||
        range.count > source.elements - (range.first - source.first)) {
      return InvalidArgument(where + "elements " + std::to_string(range.first) + " to " +
                             std::to_string(range.first + range.count) + " are not within " +
                             std::to_string(source.first) + " to " +
                             std::to_string(source.first + source.elements));
    }
  }
  return Status::Ok();
}

int PartCount(ElementRange range) {
  if (range.count == 0) return 0;
  const std::uint64_t last = (range.first + range.count - 1) / kPartElements;
  return static_cast<int>(last - range.first / kPartElements) + 1;
}

ElementRange PartOf(ElementRange range, int part) {
  const std::uint64_t start =
      (range.first / kPartElements + static_cast<std::uint64_t>(part)) * kPartElements;
  const std::uint64_t first = std::max(range.first, start);
  const std::uint64_t end = std::min(range.first + range.count, start + kPartElements);
  return {first, static_cast<std::size_t>(end - first)};
}

const float* FloatsAt(const EncodedValues& source, std::uint64_t first) {
  if (source.encoding != Encoding::kFloat32) return nullptr;
  const std::byte* const at = source.payload.data() + (first - source.first) * sizeof(float);
  if (reinterpret_cast<std::uintptr_t>(at) % alignof(float) != 0) return nullptr;
  return reinterpret_cast<const float*>(at);
}

void Prefetch(const EncodedValues& source, ElementRange range) {
  constexpr std::size_t kLine = 64;
  const std::uint64_t per_unit = UnitElements(source.encoding);
  const std::uint64_t begin = (range.first - source.first) / per_unit * UnitBytes(source.encoding);
  const std::uint64_t end = std::min<std::uint64_t>(
      begin + range.count / per_unit * UnitBytes(source.encoding), source.payload.size());
  for (std::uint64_t at = begin; at < end; at += kLine) {
    __builtin_prefetch(source.payload.data() + at);
  }
}

}  // namespace fedmoe
