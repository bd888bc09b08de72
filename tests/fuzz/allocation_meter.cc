// The program's own `new` and `delete`. They stand on malloc, so that AddressSanitizer still sees
// every block.
#include "tests/fuzz/allocation_meter.h"

#include <atomic>
#include <cstdlib>
#include <new>

#include <malloc.h>

namespace fedmoe {
namespace {

std::atomic<std::size_t> live_bytes = 0;
std::atomic<std::size_t> peak_bytes = 0;

// Null where there is no memory.
void* Allocate(std::size_t size) noexcept {
  void* const block = std::malloc(size == 0 ? 1 : size);
  if (block == nullptr) return nullptr;
  const std::size_t live = live_bytes += ::malloc_usable_size(block);
  std::size_t peak = peak_bytes;
  while (live > peak && !peak_bytes.compare_exchange_weak(peak, live)) {
  }
  return block;
}

void* AllocateOrThrow(std::size_t size) {
  void* const block = Allocate(size);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void Free(void* block) {
  if (block != nullptr) live_bytes -= ::malloc_usable_size(block);
  std::free(block);
}

}  // namespace

AllocationMeter::AllocationMeter() : live_before_(live_bytes) { peak_bytes = live_before_; }

std::size_t AllocationMeter::PeakBytes() const {
  const std::size_t peak = peak_bytes;
  return peak > live_before_ ? peak - live_before_ : 0;
}

}  // namespace fedmoe

// Every form but those with an alignment: a sanitizer has its own of each.
void* operator new(std::size_t size) { return fedmoe::AllocateOrThrow(size); }
void* operator new[](std::size_t size) { return fedmoe::AllocateOrThrow(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return fedmoe::Allocate(size);
}
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return fedmoe::Allocate(size);
}
void operator delete(void* block) noexcept { fedmoe::Free(block); }
void operator delete[](void* block) noexcept { fedmoe::Free(block); }
void operator delete(void* block, std::size_t) noexcept { fedmoe::Free(block); }
void operator delete[](void* block, std::size_t) noexcept { fedmoe::Free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { fedmoe::Free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { fedmoe::Free(block); }
