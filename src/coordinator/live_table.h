// The live round table that a person watches.
#pragma once

#include <cstdio>
#include <string>

#include "coordinator/core.h"

namespace fedmoe {

// One row a round on `out`, a header before the first; aborts as a line of their own. Lines are
// flushed one by one.
class LiveTable final : public CoreObserver {
 public:
  LiveTable(std::FILE* out, RoundNumber rounds) : out_(out), rounds_(rounds) {}
  void OnReport(const RoundReport& report) override;
  void OnAbort(const AbortRound& action) override;

 private:
  void Print(const std::string& text);

  std::FILE* out_;
  RoundNumber rounds_;
  bool header_ = false;
};

// "1.2 MB", "340 B": powers of 1000.
std::string HumanBytes(std::uint64_t bytes);

// The closing lines: status, accuracy, what each client trained last, the run directory.
std::string SummaryText(const RunSummary& summary, const RoundReport* last,
                        const std::string& directory);

}  // namespace fedmoe
