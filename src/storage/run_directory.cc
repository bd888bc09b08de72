#include "storage/run_directory.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "storage/lines.h"
#include "storage/state_json.h"

namespace fedmoe {
namespace {

constexpr char kLockName[] = "coordinator.lock";
constexpr char kRoundsName[] = "rounds.jsonl";
constexpr char kAssignmentsName[] = "assignments.csv";
constexpr char kAssignmentsHeader[] = "round,client,expert,fitness,reason";
constexpr std::string_view kRoundKey = "{\"round\":";

// The whole number that `text` begins with, followed by `after`; nullopt for anything else.
std::optional<RoundNumber> NumberBefore(std::string_view text, char after) {
  RoundNumber number = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr == end || *parsed.ptr != after) return std::nullopt;
  return number;
}

std::optional<RoundNumber> RoundOfReport(std::string_view line) {
  if (!line.starts_with(kRoundKey) || !line.ends_with('}')) return std::nullopt;
  return NumberBefore(line.substr(kRoundKey.size()), ',');
}

// Rewrites the file, atomically, with those of its whole lines that `keep` wants; leaves it alone
// where that would change nothing.
Status KeepLines(FileSystem& files, const std::string& path,
                 const std::function<bool(std::string_view)>& keep) {
  bool all = true;
  FEDMOE_ASSIGN_OR_RETURN(const bool torn, ForEachLine(files, path, [&](std::string_view line) {
                            all = all && keep(line);
                            return Status::Ok();
                          }));
  if (all && !torn) return Status::Ok();
  const std::string temporary = path + ".tmp";
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.Create(temporary));
  const auto copy = [&](std::string_view line) {
    return keep(line) ? file->Append(AsBytes(std::string(line) + "\n")) : Status::Ok();
  };
  FEDMOE_RETURN_IF_ERROR(ForEachLine(files, path, copy).status());
  FEDMOE_RETURN_IF_ERROR(file->Sync());
  FEDMOE_RETURN_IF_ERROR(file->Close());
  FEDMOE_RETURN_IF_ERROR(files.Rename(temporary, path));
  return files.SyncDirectory(path.substr(0, path.rfind('/')));
}

Status AppendDurably(FileSystem& files, const std::string& path, const std::string& text) {
  const bool is_new = !files.Exists(path);
  FEDMOE_ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, files.OpenForAppend(path));
  FEDMOE_RETURN_IF_ERROR(file->Append(AsBytes(text)));
  FEDMOE_RETURN_IF_ERROR(file->Sync());
  FEDMOE_RETURN_IF_ERROR(file->Close());
  return is_new ? files.SyncDirectory(path.substr(0, path.rfind('/'))) : Status::Ok();
}

Result<std::string> AssignmentRows(const RoundReport& report) {
  std::string rows;
  for (const Assignment& assignment : report.plan.assignments) {
    const auto client = static_cast<std::size_t>(assignment.client);
    if (assignment.client < 0 || client >= report.cohort.size()) {
      return Internal(fmt::format("report of round {}: no client {} in a cohort of {}",
                                  report.round, assignment.client, report.cohort.size()));
    }
    rows += fmt::format("{},{},{},{},{}\n", report.round, report.cohort[client], assignment.expert,
                        assignment.fitness, AssignmentReasonName(assignment.reason));
  }
  return rows;
}

// Says which process holds the lock: its id stands in the lock file.
Status InUse(FileSystem& files, const std::string& path) {
  const Result<std::string> holder = ReadFile(files, JoinPath(path, kLockName), 64);
  std::string text = "run directory " + path + " is in use by another coordinator";
  if (holder.ok() && !holder->empty()) {
    text += " (process " + holder->substr(0, holder->find('\n')) + ")";
  }
  return FailedPrecondition(text);
}

}  // namespace

Result<std::unique_ptr<RunDirectory>> RunDirectory::Open(FileSystem& files,
                                                         const std::string& path) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(path));
  std::unique_ptr<RunDirectory> directory(new RunDirectory(files, path));
  Result<std::unique_ptr<FileLock>> lock = files.Lock(JoinPath(path, kLockName));
  if (lock.status().code() == StatusCode::kFailedPrecondition) return InUse(files, path);
  FEDMOE_RETURN_IF_ERROR(lock.status());
  directory->lock_ = std::move(lock).value();
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory->SpoolPath()));
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory->CheckpointsPath()));
  FEDMOE_RETURN_IF_ERROR(directory->RepairReports());
  return directory;
}

std::string RunDirectory::JournalPath() const { return JoinPath(path_, "journal.sqlite"); }
std::string RunDirectory::SpoolPath() const { return JoinPath(path_, "spool"); }
std::string RunDirectory::CheckpointsPath() const { return JoinPath(path_, "checkpoints"); }
std::string RunDirectory::EncodedPath() const { return JoinPath(path_, "encoded"); }
bool RunDirectory::HasRun() const { return files_.Exists(JournalPath()); }

// rounds.jsonl says which rounds are reported: its line is written after the round's assignments,
// so assignments of other rounds are leftovers of a report that was cut off.
Status RunDirectory::RepairReports() {
  reported_.clear();
  const std::string rounds = JoinPath(path_, kRoundsName);
  if (files_.Exists(rounds)) {
    FEDMOE_RETURN_IF_ERROR(KeepLines(files_, rounds, [](std::string_view) { return true; }));
    std::int64_t number = 0;
    const auto use = [&](std::string_view line) -> Status {
      ++number;
      const std::optional<RoundNumber> round = RoundOfReport(line);
      if (!round) return DataLoss(fmt::format("{}:{}: is not a round's report", rounds, number));
      reported_.insert(*round);
      return Status::Ok();
    };
    FEDMOE_RETURN_IF_ERROR(ForEachLine(files_, rounds, use).status());
  }
  const std::string assignments = JoinPath(path_, kAssignmentsName);
  if (files_.Exists(assignments)) {
    const auto keep = [&](std::string_view line) {
      if (line == kAssignmentsHeader) return true;
      const std::optional<RoundNumber> round = NumberBefore(line, ',');
      return round && reported_.contains(*round);
    };
    FEDMOE_RETURN_IF_ERROR(KeepLines(files_, assignments, keep));
  }
  needs_repair_ = false;
  return Status::Ok();
}

Status RunDirectory::RemoveNewRun() {
  const std::string journal = JournalPath();
  for (const std::string& path :
       {journal, journal + "-wal", journal + "-shm", JoinPath(CheckpointsPath(), "000000.json"),
        JoinPath(CheckpointsPath(), "000000.safetensors"), JoinPath(path_, "config.yaml")}) {
    if (files_.Exists(path)) FEDMOE_RETURN_IF_ERROR(files_.Remove(path));
  }
  return files_.SyncDirectory(path_);
}

Status RunDirectory::WriteConfig(const std::string& yaml) {
  return WriteFileAtomically(files_, JoinPath(path_, "config.yaml"), yaml);
}

Status RunDirectory::WriteAddress(const std::string& address) {
  return WriteFileAtomically(files_, JoinPath(path_, "address"), address + "\n");
}

Status RunDirectory::AppendReports(const std::vector<RoundReport>& reports) {
  if (needs_repair_) FEDMOE_RETURN_IF_ERROR(RepairReports());
  std::set<RoundNumber> rounds;
  std::string rows, lines;
  for (const RoundReport& report : reports) {
    if (reported_.contains(report.round) || !rounds.insert(report.round).second) continue;
    FEDMOE_ASSIGN_OR_RETURN(const std::string of_report, AssignmentRows(report));
    rows += of_report;
    lines += ReportToJsonLine(report) + "\n";
  }
  if (rounds.empty()) return Status::Ok();
  const std::string assignments = JoinPath(path_, kAssignmentsName);
  needs_repair_ = true;
  const bool has_header = files_.Exists(assignments) && files_.FileSize(assignments).ok() &&
                          *files_.FileSize(assignments) > 0;
  if (!has_header) rows.insert(0, std::string(kAssignmentsHeader) + "\n");
  FEDMOE_RETURN_IF_ERROR(AppendDurably(files_, assignments, rows));
  FEDMOE_RETURN_IF_ERROR(AppendDurably(files_, JoinPath(path_, kRoundsName), lines));
  reported_.merge(rounds);
  needs_repair_ = false;
  return Status::Ok();
}

Status RunDirectory::WriteSummary(const RunSummary& summary) {
  using Json = nlohmann::ordered_json;
  const auto or_null = [](const std::optional<double>& value) {
    return value ? Json(*value) : Json();
  };
  Json json;
  json["status"] = summary.status;
  json["detail"] = summary.detail;
  json["rounds"] = summary.rounds;
  json["final_accuracy"] = or_null(summary.final_accuracy);
  json["best_accuracy"] = or_null(summary.best_accuracy);
  json["personalised_accuracy"] = or_null(summary.personalised_accuracy);
  json["final_loss"] = or_null(summary.final_loss);
  json["load_cv"] = summary.load_cv;
  json["bytes_down"] = summary.bytes_down;
  json["bytes_up"] = summary.bytes_up;
  json["wall_s"] = summary.wall_s;
  json["coordinator_peak_rss_bytes"] = summary.coordinator_peak_rss_bytes;
  json["model_digest"] = summary.model_digest.empty() ? Json() : Json(summary.model_digest);
  const std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  return WriteFileAtomically(files_, JoinPath(path_, "summary.json"), text);
}

}  // namespace fedmoe
