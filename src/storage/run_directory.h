// runs/<name>/: where everything of a run stands. Documented for users in docs/run_directory.md.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "federation/round_report.h"
#include "federation/round_state.h"

namespace fedmoe {

struct RunSummary {
  std::string status;  // RunStatusName
  std::string detail;
  RoundNumber rounds = 0;
  std::optional<double> final_accuracy, best_accuracy, personalised_accuracy, final_loss;
  double load_cv = 0.0;  // over experts, cumulative assignments
  std::uint64_t bytes_down = 0, bytes_up = 0;
  double wall_s = 0.0;
  std::uint64_t coordinator_peak_rss_bytes = 0;
  Digest model_digest;
};

// Holds the run's lock while it lives. Not thread-safe.
class RunDirectory {
 public:
  // Creates the directory and its parts and takes the lock: FAILED_PRECONDITION
  // "run directory DIR is in use by another coordinator (process N)".
  static Result<std::unique_ptr<RunDirectory>> Open(FileSystem& files, const std::string& path);

  const std::string& path() const { return path_; }
  std::string JournalPath() const;
  std::string SpoolPath() const;
  std::string CheckpointsPath() const;
  std::string EncodedPath() const;  // made by who needs it
  // True once a journal exists: the run was started before.
  bool HasRun() const;

  // Takes back a start that failed before the run had a client: its journal, configuration and
  // version 0. The journal must be closed. HasRun() is false after it, also where it stopped half
  // way.
  Status RemoveNewRun();

  Status WriteConfig(const std::string& yaml);      // config.yaml
  Status WriteAddress(const std::string& address);  // address: host:port that the server listens on
  // rounds.jsonl and assignments.csv (round,client,expert,fitness,reason; header written once),
  // with one sync of each for all reports. A report whose round stands there already (after a
  // resume) is not written twice. After an error they may be given again.
  Status AppendReports(const std::vector<RoundReport>& reports);
  Status AppendReport(const RoundReport& report) { return AppendReports({report}); }
  Status WriteSummary(const RunSummary& summary);  // summary.json

 private:
  RunDirectory(FileSystem& files, std::string path) : files_(files), path_(std::move(path)) {}
  // Drops what a crash or a failed write left half written, and reads which rounds are reported.
  Status RepairReports();

  FileSystem& files_;
  std::string path_;
  std::unique_ptr<FileLock> lock_;
  std::set<RoundNumber> reported_;
  bool needs_repair_ = false;  // a report failed half way
};

}  // namespace fedmoe
