// Where a new run's initial model comes from, beside the seed.
#pragma once

#include <string>

namespace fedmoe {

// Sparse upcycling (Komatsuzaki et al., 2022, arXiv 2212.05055): every expert starts as a copy of a
// dense model's FFN. Only the coordinator knows of it; clients receive values.
struct UpcycleOptions {
  std::string checkpoint;  // safetensors file of the dense model; empty for none
  // Standard deviation of the Gaussian noise on each expert's copy, relative to that of the block.
  double noise = 0.0;
};

}  // namespace fedmoe
