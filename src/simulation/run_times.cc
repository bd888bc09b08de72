#include "simulation/run_times.h"

#include <cmath>
#include <optional>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace fedmoe {
namespace {

std::string NumberOrNothing(const std::optional<double>& value) {
  return value ? fmt::format("{:.6g}", *value) : "";
}

}  // namespace

std::string DurationText(double seconds) {
  if (seconds < 60.0) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<std::int64_t>(std::llround(seconds));
  const std::int64_t hours = whole / 3600;
  const std::string rest = fmt::format("{:02} min {:02} s", whole / 60 % 60, whole % 60);
  return hours > 0 ? fmt::format("{} h {}", hours, rest) : rest;
}

double RunTimes::Overhead() const {
  const double busy_s = training_s + evaluation_s;
  return busy_s > 0.0 ? wall_s * threads / busy_s - 1.0 : 0.0;
}

Status WriteRunTimes(FileSystem& files, const std::string& directory, const RunTimes& times) {
  const nlohmann::ordered_json json = {
      {"clients", times.clients},         {"threads", times.threads},
      {"simulated_s", times.simulated_s}, {"wall_s", times.wall_s},
      {"training_s", times.training_s},   {"evaluation_s", times.evaluation_s},
      {"overhead", times.Overhead()}};
  return WriteFileAtomically(files, JoinPath(directory, "simulation.json"), json.dump(2) + "\n");
}

std::string RunTimesText(const RunTimes& times) {
  return fmt::format(
      "  simulated time         {}\n"
      "  overhead               {:.1f} % over {:.1f} s of training and {:.1f} s of evaluation on "
      "{} "
      "thread{}\n",
      DurationText(times.simulated_s), 100.0 * times.Overhead(), times.training_s,
      times.evaluation_s, times.threads, times.threads == 1 ? "" : "s");
}

Result<RunTimesLog> RunTimesLog::Open(FileSystem& files, const std::string& directory) {
  FEDMOE_ASSIGN_OR_RETURN(std::unique_ptr<WritableFile> file,
                          files.Create(JoinPath(directory, "simulation.csv")));
  constexpr std::string_view kHeader =
      "round,simulated_round_s,simulated_s,wall_s,train_loss,global_accuracy,"
      "personalised_accuracy\n";
  FEDMOE_RETURN_IF_ERROR(file->Append(AsBytes(kHeader)));
  return RunTimesLog(std::move(file));
}

Status RunTimesLog::Append(const RoundReport& report, double wall_s) {
  const std::string row =
      fmt::format("{},{:.3f},{:.3f},{:.3f},{:.6g},{},{}\n", report.round, report.seconds,
                  static_cast<double>(report.committed_ms) / 1000.0, wall_s, report.train_loss,
                  NumberOrNothing(report.global_accuracy.value),
                  NumberOrNothing(report.personalised_accuracy.value));
  return file_->Append(AsBytes(std::string_view(row)));
}

}  // namespace fedmoe
