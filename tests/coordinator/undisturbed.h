// The run of a Fleet with FleetOptions() that nothing disturbs, for comparison.
#pragma once

#include <sstream>
#include <string>

#include <nlohmann/json.hpp>

#include "tests/coordinator/fleet.h"

namespace fedmoe {

inline std::string UndisturbedDigest() {
  static const std::string digest = [] {
    Fleet fleet;
    return fleet.RunToEnd().model_digest;
  }();
  return digest;
}

// Every report once, in order, and the model that they tell of.
inline void ExpectWholeReports(const Fleet& fleet, const std::string& digest) {
  std::istringstream lines(ReadAll(fleet.Path("rounds.jsonl")));
  std::string line;
  RoundNumber round = 0;
  nlohmann::json report;
  while (std::getline(lines, line)) {
    report = nlohmann::json::parse(line);
    EXPECT_EQ(report["round"], ++round);
    EXPECT_EQ(report["accepted"], 4);
  }
  EXPECT_EQ(round, 3);
  EXPECT_EQ(report["model_digest"], digest);
}

}  // namespace fedmoe
