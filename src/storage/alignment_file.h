// Alignment problems from files, and problems and plans as text: docs/alignment_file.md.
#pragma once

#include <cstdint>
#include <string>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/alignment.h"

namespace fedmoe {

constexpr std::uint64_t kMaxAlignmentFileBytes = std::uint64_t{1} << 30;

// By the ending: .json or .csv. The clients may stand in any order; the problem has them sorted,
// with their capacity and fitness. Errors are INVALID_ARGUMENT and name the file and the field or
// line; RESOURCE_EXHAUSTED above kMaxAlignmentFileBytes.
Result<AlignmentProblem> ReadAlignmentProblem(FileSystem& files, const std::string& path);

// `name` stands before every error.
Result<AlignmentProblem> ParseAlignmentJson(const std::string& text, const std::string& name);
Result<AlignmentProblem> ParseAlignmentCsv(const std::string& text, const std::string& name);

// What ParseAlignmentJson reads back to the same problem, with one client a line.
std::string AlignmentProblemToJson(const AlignmentProblem& problem);

// One JSON object, on one line. `seconds` is the time that solving took.
std::string AlignmentPlanToJson(const AlignmentProblem& problem, const AlignmentPlan& plan,
                                double seconds);
// client,expert,fitness,reason: the columns of a run's assignments.csv but its round.
std::string AlignmentPlanToCsv(const AlignmentProblem& problem, const AlignmentPlan& plan);

}  // namespace fedmoe
