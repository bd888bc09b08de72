// What a simulation took, in simulated and in real time, beside the run's own reports.
#pragma once

#include <cstdint>
#include <string>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/round_report.h"

namespace fedmoe {

struct RunTimes {
  int clients = 0;  // trainers of the population
  int threads = 0;
  double simulated_s = 0.0;   // until the last event
  double wall_s = 0.0;        // without reading the data
  double training_s = 0.0;    // within trainers, all threads together
  double evaluation_s = 0.0;  // the same

  // Wall time over that which the trainers alone would have taken on these threads, less 1; 0
  // without any.
  double Overhead() const;
};

// simulation.json of the run directory.
Status WriteRunTimes(FileSystem& files, const std::string& directory, const RunTimes& times);
// "42.0 s", "02 min 03 s", "1 h 02 min 03 s".
std::string DurationText(double seconds);
// For people, under the run's summary; the last line has the overhead.
std::string RunTimesText(const RunTimes& times);

// simulation.csv of the run directory: a row for each committed round.
class RunTimesLog {
 public:
  // Begins the file anew. `files` outlives the log.
  static Result<RunTimesLog> Open(FileSystem& files, const std::string& directory);
  Status Append(const RoundReport& report, double wall_s);

 private:
  explicit RunTimesLog(std::unique_ptr<WritableFile> file) : file_(std::move(file)) {}
  std::unique_ptr<WritableFile> file_;
};

}  // namespace fedmoe
