// A top-k payload as a list of indices and values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace fedmoe {

class TopKView {
 public:
  explicit TopKView(std::span<const std::byte> payload) : payload_(payload) {}

  std::size_t size() const { return payload_.size() / kBytes; }
  std::uint32_t IndexOf(std::size_t unit) const { return At<std::uint32_t>(unit * kBytes); }
  float ValueOf(std::size_t unit) const { return At<float>(unit * kBytes + sizeof(std::uint32_t)); }

  // The first unit whose index is at least `element`; size() if there is none. Some unit where the
  // indices do not ascend.
  std::size_t LowerBound(std::uint64_t element) const {
    std::size_t low = 0;
    std::size_t high = size();
    while (low < high) {
      const std::size_t middle = low + (high - low) / 2;
      if (IndexOf(middle) < element) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

 private:
  static constexpr std::size_t kBytes = 8;

  template <typename T>
  T At(std::size_t byte) const {
    T value;
    std::memcpy(&value, payload_.data() + byte, sizeof(value));
    return value;
  }

  std::span<const std::byte> payload_;
};

}  // namespace fedmoe
