// The expert operators' working memory: one buffer of the calling thread for each element type,
// cut into slices for its team.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/uninitialized_buffer.h"

namespace fedmoe {

// More than this is given back when a call ends; up to this a thread keeps its greatest call's.
inline constexpr std::size_t kKeptScratchBytes = std::size_t{256} << 20U;

// Cuts 64-byte aligned slices. Add all, then Allocate once, then At.
template <typename T>
class ExpertScratch {
 public:
  ExpertScratch() = default;
  ~ExpertScratch() {
    if (Buffer().capacity() * sizeof(T) > kKeptScratchBytes) Buffer().Release();
  }
  ExpertScratch(const ExpertScratch&) = delete;
  ExpertScratch& operator=(const ExpertScratch&) = delete;

  // The offset of a new slice of `values` values.
  std::size_t Add(std::int64_t values) {
    constexpr std::size_t kValuesPerLine = 64 / sizeof(T);
    const std::size_t offset = size_;
    size_ +=
        (static_cast<std::size_t>(values) + kValuesPerLine - 1) / kValuesPerLine * kValuesPerLine;
    return offset;
  }
  void Allocate() {
    Buffer().Resize(size_);
    base_ = Buffer().data();
  }
  T* At(std::size_t offset) const { return base_ + offset; }

 private:
  static UninitializedBuffer<T>& Buffer() {
    thread_local UninitializedBuffer<T> buffer;
    return buffer;
  }
  std::size_t size_ = 0;
  T* base_ = nullptr;
};

}  // namespace fedmoe
