// How a target cuts its input into parts, and how seeds are put together the same way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fedmoe {

// Takes from the front. Any input is one: where nothing is left, a byte is 0 and a part is empty.
class FuzzInput {
 public:
  FuzzInput(const std::uint8_t* data, std::size_t size)
      : left_(reinterpret_cast<const char*>(data), size) {}

  std::uint8_t TakeByte() {
    if (left_.empty()) return 0;
    const auto byte = static_cast<std::uint8_t>(left_.front());
    left_.remove_prefix(1);
    return byte;
  }
  // Two bytes of length, little-endian, then as many bytes, or what is left.
  std::string TakeSized() {
    const std::size_t low = TakeByte();
    const std::size_t size = low | std::size_t{TakeByte()} << 8;
    std::string part(left_.substr(0, size));
    left_.remove_prefix(part.size());
    return part;
  }
  // What is left up to the next byte of 0, which goes too.
  std::string TakeText() {
    const std::size_t end = std::min(left_.find('\0'), left_.size());
    std::string part(left_.substr(0, end));
    left_.remove_prefix(std::min(end + 1, left_.size()));
    return part;
  }
  std::string TakeRest() {
    const std::string_view rest = left_;
    left_ = {};
    return std::string(rest);
  }
  bool empty() const { return left_.empty(); }

 private:
  std::string_view left_;
};

// The writer of what FuzzInput reads.
class SeedInput {
 public:
  SeedInput& Byte(int value) {
    bytes_ += static_cast<char>(value);
    return *this;
  }
  SeedInput& Sized(std::string_view part) {
    Byte(static_cast<int>(part.size() & 0xff)).Byte(static_cast<int>(part.size() >> 8 & 0xff));
    bytes_ += part;
    return *this;
  }
  SeedInput& Text(std::string_view part) {
    bytes_ += part;
    return Byte(0);
  }
  SeedInput& Rest(std::string_view part) {
    bytes_ += part;
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

}  // namespace fedmoe
