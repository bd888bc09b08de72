// RoundState, Event and RoundReport as JSON. Doubles survive exactly.
#pragma once

#include <string>

#include "common/result.h"
#include "federation/round_events.h"
#include "federation/round_state.h"

namespace fedmoe {

std::string StateToJson(const RoundState& state);
Result<RoundState> StateFromJson(const std::string& text);
std::string EventToJson(const Event& event);
Result<Event> EventFromJson(const std::string& text);

// The public line of rounds.jsonl (docs/run_directory.md): enums by name, metrics null with a
// sibling "..._reason", no newline.
std::string ReportToJsonLine(const RoundReport& report);

}  // namespace fedmoe
