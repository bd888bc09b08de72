// How much memory is asked for by `new`, in the whole program.
#pragma once

#include <cstddef>

namespace fedmoe {

// The most bytes that were live at once since it was made, beyond those that were live then. One at
// a time.
class AllocationMeter {
 public:
  AllocationMeter();
  std::size_t PeakBytes() const;

 private:
  std::size_t live_before_;
};

}  // namespace fedmoe
