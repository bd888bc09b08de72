// Memory that is neither zeroed nor given back at every call: a pass over it, and the page faults
// of fresh pages, cost a MoE layer some percent each.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace fedmoe {

// Values of T, aligned to 64 bytes. Resize leaves them undefined, and allocates only to grow.
template <typename T>
class UninitializedBuffer {
 public:
  void Resize(std::size_t size) {
    if (size > capacity_) {
      values_.reset();
      capacity_ = 0;
      values_.reset(static_cast<T*>(::operator new(size * sizeof(T), kAlignment)));
      capacity_ = size;
    }
    size_ = size;
  }
  void Release() {
    values_.reset();
    capacity_ = 0;
    size_ = 0;
  }
  std::size_t size() const { return size_; }
  std::size_t capacity() const { return capacity_; }
  T* data() { return values_.get(); }
  const T* data() const { return values_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(T* values) const { ::operator delete(values, kAlignment); }
  };
  std::unique_ptr<T, Delete> values_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace fedmoe
