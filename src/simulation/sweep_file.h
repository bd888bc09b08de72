// A sweep's file: one configuration, and what is varied in it.
//
//   base: domains.yaml          a configuration, relative to this file
//   set:                        optional: keys that differ from it in every cell
//     run: {rounds: 20}
//   vary:                       optional: keys with the values that each takes; their product is
//   run
//     alignment: {strategy: [balanced, random]}
//   seeds: [1, 2, 3]            values of run.seed, each in every cell of the product
#pragma once

#include <string>
#include <vector>

#include "common/result.h"

namespace fedmoe {

struct SweepKey {
  std::string key;  // "alignment.strategy"
  std::vector<std::string> values;
};

struct Sweep {
  std::string base;               // path of the configuration
  std::vector<std::string> sets;  // "run.rounds=20"
  std::vector<SweepKey> vary;     // in file order
  std::vector<std::string> seeds;
};

// One run of a sweep.
struct SweepCell {
  std::string name;                 // of its folder: "alignment.strategy=random,seed=2"
  std::vector<std::string> values;  // by Sweep::vary
  std::string seed;
  std::vector<std::string> overrides;  // of Sweep::base, all of them
};

// INVALID_ARGUMENT with all that is wrong, each "PATH:LINE: what".
Result<Sweep> ReadSweep(const std::string& path);

// The product, the first key slowest and the seeds fastest. `sets` are of the command line and
// count after the file's. INVALID_ARGUMENT for more than 10,000 cells.
Result<std::vector<SweepCell>> CellsOf(const Sweep& sweep, const std::vector<std::string>& sets);

}  // namespace fedmoe
