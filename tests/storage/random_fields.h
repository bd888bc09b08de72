// Random values for every field of a struct, and all its leaves as text, both through the codec's
// lists of fields but without its JSON.
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/counter_rng.h"
#include "storage/json_fields.h"

namespace fedmoe {

class RandomFiller {
 public:
  explicit RandomFiller(std::uint64_t seed) : rng_(seed) {}

  template <typename... Values>
  void Fields(std::string_view, Values&... values) {
    (Fill(values), ...);
  }

  template <typename T>
  void Fill(T& value) {
    if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(rng_.NextBelow(kLastEnumerator<T> + 1));
    } else if constexpr (std::same_as<T, bool>) {
      value = rng_.NextBelow(2) == 1;
    } else if constexpr (std::integral<T>) {
      // All magnitudes, both ends of the range among them.
      value = static_cast<T>(rng_.NextU64() >> rng_.NextBelow(64));
      if (rng_.NextBelow(8) == 0) value = std::numeric_limits<T>::max();
      if (rng_.NextBelow(8) == 0) value = std::numeric_limits<T>::min();
    } else if constexpr (std::same_as<T, double>) {
      value = RandomDouble();
    } else if constexpr (std::same_as<T, std::string>) {
      static const std::vector<std::string> kTexts = {"", "client-1", "naïve ☃", "\"\\\n\t", "a.b"};
      value = kTexts[rng_.NextBelow(kTexts.size())] + std::to_string(rng_.NextBelow(1000));
    } else if constexpr (kIsVector<T> || std::same_as<T, Eigen::VectorXd>) {
      value.resize(static_cast<decltype(value.size())>(rng_.NextBelow(4)));
      for (auto& element : value) Fill(element);
    } else if constexpr (kIsMap<T>) {
      value.clear();
      for (std::uint64_t count = rng_.NextBelow(4); count > 0; --count) {
        typename T::key_type key{};
        Fill(key);
        Fill(value[key]);
      }
    } else if constexpr (kIsOptional<T>) {
      value.reset();
      if (rng_.NextBelow(2) == 1) Fill(value.emplace());
    } else {
      VisitFields(*this, value);
    }
  }

 private:
  // Any finite bit pattern, subnormals and negative zero among them.
  double RandomDouble() {
    if (rng_.NextBelow(8) == 0) return -0.0;
    if (rng_.NextBelow(8) == 0) return static_cast<double>(rng_.NextBelow(100));
    const auto value = std::bit_cast<double>(rng_.NextU64());
    return std::isfinite(value) ? value : 0.1;
  }

  CounterRng rng_;
};

// One entry a leaf, doubles by their bits; sizes of containers too.
class Flattener {
 public:
  template <typename... Values>
  void Fields(std::string_view names, const Values&... values) {
    leaves_.emplace_back(names);
    (Add(values), ...);
  }

  template <typename T>
  void Add(const T& value) {
    if constexpr (std::is_enum_v<T>) {
      leaves_.push_back(std::to_string(static_cast<int>(value)));
    } else if constexpr (std::same_as<T, double>) {
      leaves_.push_back(std::to_string(std::bit_cast<std::uint64_t>(value)));
    } else if constexpr (std::integral<T>) {
      leaves_.push_back(std::to_string(value));
    } else if constexpr (std::same_as<T, std::string>) {
      leaves_.push_back(value);
    } else if constexpr (kIsVector<T> || std::same_as<T, Eigen::VectorXd>) {
      leaves_.push_back(std::to_string(value.size()));
      for (const auto& element : value) Add(element);
    } else if constexpr (kIsMap<T>) {
      leaves_.push_back(std::to_string(value.size()));
      for (const auto& [key, element] : value) {
        Add(key);
        Add(element);
      }
    } else if constexpr (kIsOptional<T>) {
      leaves_.push_back(value ? "value" : "none");
      if (value) Add(*value);
    } else {
      VisitFields(*this, value);
    }
  }

  const std::vector<std::string>& leaves() const { return leaves_; }

 private:
  std::vector<std::string> leaves_;
};

template <typename T>
T RandomValue(std::uint64_t seed) {
  T value;
  RandomFiller(seed).Fill(value);
  return value;
}

template <typename T>
std::vector<std::string> LeavesOf(const T& value) {
  Flattener flattener;
  flattener.Add(value);
  return flattener.leaves();
}

inline std::vector<std::string> LeavesOf(const Event& event) {
  return std::visit(
      [&](const auto& content) {
        std::vector<std::string> leaves = LeavesOf(content);
        leaves.push_back(std::to_string(event.index()));
        return leaves;
      },
      event);
}

}  // namespace fedmoe
