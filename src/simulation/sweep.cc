#include "simulation/sweep.h"

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxJsonBytes = std::uint64_t{1} << 20;

struct Cell {
  SweepCell cell;
  CoordinatorConfig config;
  std::string directory;
};

Result<std::vector<Cell>> LoadCells(const Sweep& sweep, const SweepJob& job) {
  FEDMOE_ASSIGN_OR_RETURN(std::vector<SweepCell> plain, CellsOf(sweep, job.sets));
  std::vector<Cell> cells;
  for (SweepCell& cell : plain) {
    FEDMOE_ASSIGN_OR_RETURN(CoordinatorConfig config,
                            LoadCoordinatorConfig({sweep.base, cell.overrides}));
    std::string directory = JoinPath(job.directory, cell.name);
    cells.push_back({std::move(cell), std::move(config), std::move(directory)});
  }
  return cells;
}

// The object in a file of the run directory; null where it is not there or none.
nlohmann::json ReadObject(const std::string& directory, const char* name) {
  const Result<std::string> text =
      ReadFile(PosixFileSystem(), JoinPath(directory, name), kMaxJsonBytes);
  if (!text.ok()) return nullptr;
  nlohmann::json object = nlohmann::json::parse(*text, nullptr, false);
  return object.is_object() ? object : nlohmann::json(nullptr);
}

bool IsCompleted(const Cell& cell) {
  const nlohmann::json summary = ReadObject(cell.directory, "summary.json");
  return summary.is_object() && summary.value("status", "") == "completed";
}

// Whether the cell must be run: not if it is completed. FAILED_PRECONDITION for a folder that holds
// something else.
Result<bool> IsDue(const Cell& cell) {
  FileSystem& files = PosixFileSystem();
  const std::string path = JoinPath(cell.directory, "config.yaml");
  if (!files.Exists(path)) return true;
  FEDMOE_ASSIGN_OR_RETURN(const std::string stored, ReadFile(files, path, kMaxJsonBytes));
  if (stored == DumpCoordinatorConfig(cell.config)) return !IsCompleted(cell);
  return FailedPrecondition("the run in " + cell.directory +
                            " has another configuration than this sweep's cell; remove it, or "
                            "choose another directory with --out");
}

// Of an earlier start that did not complete; what it holds is a run of this very configuration.
Status RemoveUnfinished(const Cell& cell) {
  std::error_code error;
  std::filesystem::remove_all(cell.directory, error);
  if (!error) return Status::Ok();
  return Internal("remove " + cell.directory + ": " + error.message());
}

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? std::string("\"\"") : std::string(1, c);
  return quoted + "\"";
}

std::string JsonField(const nlohmann::json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || object[key].is_null()) return "";
  return object[key].is_string() ? CsvField(object[key].get<std::string>()) : object[key].dump();
}

// A row a cell that has ended in some way, by cell order.
Status WriteResults(const Sweep& sweep, const std::vector<Cell>& cells,
                    const std::string& directory) {
  static constexpr const char* kSummaryKeys[] = {
      "status",     "rounds",  "final_accuracy", "best_accuracy", "personalised_accuracy",
      "final_loss", "load_cv", "bytes_down",     "bytes_up",      "model_digest"};
  static constexpr const char* kTimesKeys[] = {"simulated_s", "wall_s", "overhead"};
  std::string text = "cell";
  for (const SweepKey& key : sweep.vary) text += "," + CsvField(key.key);
  text += ",seed";
  for (const char* key : kSummaryKeys) text += fmt::format(",{}", key);
  for (const char* key : kTimesKeys) text += fmt::format(",{}", key);
  text += "\n";
  for (const Cell& cell : cells) {
    const nlohmann::json summary = ReadObject(cell.directory, "summary.json");
    if (!summary.is_object()) continue;
    const nlohmann::json times = ReadObject(cell.directory, "simulation.json");
    text += CsvField(cell.cell.name);
    for (const std::string& value : cell.cell.values) text += "," + CsvField(value);
    text += "," + cell.cell.seed;
    for (const char* key : kSummaryKeys) text += "," + JsonField(summary, key);
    for (const char* key : kTimesKeys) text += "," + JsonField(times, key);
    text += "\n";
  }
  return WriteFileAtomically(PosixFileSystem(), JoinPath(directory, "results.csv"), text);
}

// Tells how far the sweep is.
class Progress {
 public:
  explicit Progress(std::size_t cells) : cells_(cells) {}

  void Skip(const std::string& name) {
    ++done_;
    Print(fmt::format("{}: completed before", name));
  }
  void Run(const std::string& name, const SimulationOutcome& outcome) {
    ++done_;
    ++run_;
    const double passed_s =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
    const double left_s =
        passed_s / static_cast<double>(run_) * static_cast<double>(cells_ - done_);
    std::string text = name + ": ";
    if (!outcome.error.empty()) {
      text += "failed: " + outcome.error;
    } else {
      text += outcome.summary.status;
      const auto& accuracy = outcome.summary.final_accuracy ? outcome.summary.final_accuracy
                                                            : outcome.summary.personalised_accuracy;
      if (accuracy) text += fmt::format(", accuracy {:.1f} %", 100.0 * *accuracy);
      text += ", " + DurationText(outcome.times.wall_s);
    }
    Print(text + "; " + DurationText(left_s) + " left");
  }

 private:
  void Print(const std::string& text) const {
    fmt::print("{}/{} {}\n", done_, cells_, text);
    std::fflush(stdout);
  }

  const std::size_t cells_;
  std::size_t done_ = 0;
  std::size_t run_ = 0;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

SweepOutcome Failed(SimulationEnd end, const Status& status) { return {end, status.message()}; }

// One cell; nothing where it was completed before.
Result<std::optional<SimulationOutcome>> RunCell(const Cell& cell, int threads, StopSwitch& stop) {
  FEDMOE_ASSIGN_OR_RETURN(const bool due, IsDue(cell));
  if (!due) return std::optional<SimulationOutcome>();
  FEDMOE_RETURN_IF_ERROR(RemoveUnfinished(cell));
  return std::optional(Simulate(
      {.config = cell.config, .directory = cell.directory, .threads = threads, .live_table = false},
      stop));
}

}  // namespace

SweepOutcome RunSweep(const SweepJob& job, StopSwitch& stop) {
  const Result<Sweep> sweep = ReadSweep(job.path);
  if (!sweep.ok()) return Failed(SimulationEnd::kConfiguration, sweep.status());
  const Result<std::vector<Cell>> cells = LoadCells(*sweep, job);
  if (!cells.ok()) return Failed(SimulationEnd::kConfiguration, cells.status());
  FileSystem& files = PosixFileSystem();
  if (Status made = files.CreateDirectories(job.directory); !made.ok())
    return Failed(SimulationEnd::kDirectory, made);
  const auto lock = files.Lock(JoinPath(job.directory, "sweep.lock"));
  if (!lock.ok()) {
    return Failed(SimulationEnd::kDirectory,
                  lock.status().WithContext(job.directory + " is in use by another sweep"));
  }

  Progress progress(cells->size());
  SweepOutcome result;
  for (const Cell& cell : *cells) {
    const Result<std::optional<SimulationOutcome>> outcome = RunCell(cell, job.threads, stop);
    if (!outcome.ok()) return Failed(SimulationEnd::kDirectory, outcome.status());
    if (*outcome) {
      progress.Run(cell.cell.name, **outcome);
    } else {
      progress.Skip(cell.cell.name);
    }
    if (const Status written = WriteResults(*sweep, *cells, job.directory); !written.ok())
      return Failed(SimulationEnd::kFailed, written);
    if (stop.requested()) return {SimulationEnd::kStopped, "stopped on request"};
    if (*outcome && (**outcome).end != SimulationEnd::kCompleted)
      result = {SimulationEnd::kFailed, "a cell failed"};
  }
  fmt::print("results: {}\n", JoinPath(job.directory, "results.csv"));
  return result;
}

}  // namespace fedmoe
