// Plans, explanations and replays for people to read, and as JSON.
#pragma once

#include <string>

#include "federation/alignment.h"
#include "storage/alignment_explain.h"
#include "storage/alignment_replay.h"

namespace fedmoe {

// The plan's figures, then a row an expert. `seconds` is the time that solving took.
std::string PlanText(const AlignmentProblem& problem, const AlignmentPlan& plan, double seconds);

// The round's figures; then what was asked for: a row an expert and a line a client, or sentences
// for each pair.
std::string ExplanationText(const RoundExplanation& explanation);
std::string ExplanationToJson(const RoundExplanation& explanation);

// A row a round and one for all, each figure as it would have been beside what it was. `what` names
// the strategy with what was set.
std::string ReplayText(const Replay& replay, const std::string& what);
// One JSON object on one line; null where there is nothing to divide by.
std::string ReplayToJson(const Replay& replay);

}  // namespace fedmoe
