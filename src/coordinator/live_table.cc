#include "coordinator/live_table.h"

#include <fmt/format.h>

namespace fedmoe {
namespace {

std::string Percent(const std::optional<double>& value) {
  return value ? fmt::format("{:.1f} %", 100.0 * *value) : "-";
}
std::string Number(const std::optional<double>& value) {
  return value ? fmt::format("{:.3f}", *value) : "-";
}

}  // namespace

std::string HumanBytes(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1000.0 && unit < 4) {
    value /= 1000.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

// Not fmt::print, which throws where the terminal has gone: the run goes on without it.
void LiveTable::Print(const std::string& text) {
  std::fputs(text.c_str(), out_);
  std::fflush(out_);
}

void LiveTable::OnReport(const RoundReport& report) {
  if (!header_) {
    Print(fmt::format("{:>9}  {:>8}  {:>8}  {:>8}  {:>6}  {:>10}  {:>7}  {:>9}  {:>9}  {:>7}\n",
                      "round", "clients", "accuracy", "personal", "loss", "train loss", "load CV",
                      "down", "up", "seconds"));
    header_ = true;
  }
  Print(fmt::format(
      "{:>9}  {:>8}  {:>8}  {:>8}  {:>6}  {:>10.3f}  {:>7.3f}  {:>9}  {:>9}  {:>7.2f}\n",
      fmt::format("{}/{}", report.round, rounds_),
      fmt::format("{}/{}", report.accepted, report.clients.size()),
      Percent(report.global_accuracy.value), Percent(report.personalised_accuracy.value),
      Number(report.global_loss.value), report.train_loss, report.load_cv,
      HumanBytes(report.bytes_down), HumanBytes(report.bytes_up), report.seconds));
}

void LiveTable::OnAbort(const AbortRound& action) {
  Print(fmt::format("{:>9}  attempt {} aborted ({}): {}\n",
                    fmt::format("{}/{}", action.round, rounds_), action.attempt,
                    AbortReasonName(action.reason), action.detail));
}

std::string SummaryText(const RunSummary& summary, const RoundReport* last,
                        const std::string& directory) {
  std::string text = fmt::format("\nrun {} after {} rounds in {:.1f} s", summary.status,
                                 summary.rounds, summary.wall_s);
  text += summary.status == "completed" ? "\n" : ": " + summary.detail + "\n";
  text += fmt::format("  global accuracy        {} (best {})\n", Percent(summary.final_accuracy),
                      Percent(summary.best_accuracy));
  text += fmt::format("  personalised accuracy  {}\n", Percent(summary.personalised_accuracy));
  text += fmt::format("  loss                   {}\n", Number(summary.final_loss));
  text += fmt::format("  load CV over experts   {:.3f}\n", summary.load_cv);
  text += fmt::format("  traffic                {} down, {} up\n", HumanBytes(summary.bytes_down),
                      HumanBytes(summary.bytes_up));
  text +=
      fmt::format("  coordinator peak       {}\n", HumanBytes(summary.coordinator_peak_rss_bytes));
  text += fmt::format("  model digest           {}\n", summary.model_digest);
  if (last != nullptr) {
    text += fmt::format("\n  round {}: what each client trained\n", last->round);
    for (const ClientReport& client : last->clients) {
      text += fmt::format(
          "    {:<16} experts {:<12} of up to {} ({})  {} examples  {}\n", client.client,
          client.experts.empty() ? "-" : fmt::format("{}", fmt::join(client.experts, ",")),
          client.capacity.experts, CapacityReasonName(client.capacity.reason), client.examples,
          client.outcome);
    }
  }
  text += fmt::format("\n  run directory          {}\n", directory);
  return text;
}

}  // namespace fedmoe
