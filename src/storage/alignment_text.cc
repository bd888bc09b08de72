#include "storage/alignment_text.h"

#include <algorithm>
#include <cstddef>
#include <iterator>

#include <fmt/format.h>

namespace fedmoe {
namespace {

const char* Plural(std::int64_t count) { return count == 1 ? "" : "s"; }

std::string Share(double part, double whole) {
  return whole > 0.0 ? fmt::format("{:.2f} %", 100.0 * part / whole) : "-";
}

// "would / did" cells of one row.
std::string ReplayRow(const std::string& name, const ReplayFigures& would,
                      const ReplayFigures& did) {
  const auto pair = [](const std::string& a, const std::string& b) {
    return fmt::format("  {:>10} {:>10}", a, b);
  };
  const auto number = [](double value) { return fmt::format("{:.4f}", value); };
  const auto kept = [](const ReplayFigures& f) {
    return f.keepable > 0 ? fmt::format("{}/{}", f.kept, f.keepable) : std::string("-");
  };
  const auto megabytes = [](const ReplayFigures& f) {
    return fmt::format("{:.3f}", f.moved_bytes / 1e6);
  };
  return fmt::format("{:>7}", name) + pair(number(would.objective), number(did.objective)) +
         pair(Share(would.objective, would.bound), Share(did.objective, did.bound)) +
         pair(Share(would.objective, would.greatest), Share(did.objective, did.greatest)) +
         pair(number(would.cumulative_cv), number(did.cumulative_cv)) +
         pair(number(would.coverage), number(did.coverage)) + pair(kept(would), kept(did)) +
         pair(megabytes(would), megabytes(did)) + "\n";
}

}  // namespace

std::string PlanText(const AlignmentProblem& problem, const AlignmentPlan& plan, double seconds) {
  const bool balanced = plan.strategy == AlignmentStrategy::kBalanced;
  std::string text = fmt::format(
      "{}{}, {} client{}, {} expert{} in {} layer{}, {} assignment{}, solved in {:.4f} s\n",
      AlignmentStrategyName(plan.strategy),
      balanced ? fmt::format(" by {}", AlignmentSolverName(plan.solver)) : "",
      problem.clients.size(), Plural(static_cast<std::int64_t>(problem.clients.size())),
      plan.load.size(), Plural(static_cast<std::int64_t>(plan.load.size())), problem.layers,
      Plural(problem.layers), plan.assignments.size(),
      Plural(static_cast<std::int64_t>(plan.assignments.size())), seconds);
  text += fmt::format(
      "objective  {:.9g}\nbound      {:.9g}{}\ngap        {:.3g}\n", plan.objective, plan.bound,
      balanced ? "" : "  (each client's greatest fitness, without load bounds)", plan.gap);
  text += fmt::format("load CV    {:.4f}, at least {:.4f}\ncoverage   {:.4f}\n", plan.cv,
                      plan.floor_cv, plan.coverage);
  if (plan.relaxed > 0) {
    text += fmt::format("relaxed    by {} client{}: {}\n", plan.relaxed, Plural(plan.relaxed),
                        plan.conflict);
  }
  const bool weighted = !plan.weighted_load.empty();
  if (weighted) text += fmt::format("violation  {:.3g} of the load\n", plan.violation);
  const bool bounded = !plan.bounds.lower.empty();
  text += "\n expert  clients";
  if (weighted) text += "    weight";
  if (bounded || weighted) text += "     lower     upper";
  if (!plan.prices.empty()) text += "       price";
  text += "\n";
  for (std::size_t e = 0; e < plan.load.size(); ++e) {
    text += fmt::format("{:>7}  {:>7}", e, plan.load[e]);
    if (weighted) {
      text += fmt::format("{:>10.6g}{:>10.6g}{:>10.6g}", plan.weighted_load[e],
                          plan.weighted_bounds.lower[e], plan.weighted_bounds.upper[e]);
    } else if (bounded) {
      text += fmt::format("{:>10}{:>10}", plan.bounds.lower[e], plan.bounds.upper[e]);
    }
    if (!plan.prices.empty()) text += fmt::format("{:>12.6g}", plan.prices[e]);
    text += "\n";
  }
  return text;
}

std::string ReplayText(const Replay& replay, const std::string& what) {
  const auto column = [](const char* name) { return fmt::format("  {:^21}", name); };
  std::string text = fmt::format(
      "What if {} had aligned this run. Each figure: as it would have "
      "been, as it was.\n\n",
      what);
  text += fmt::format("{:>7}", "") + column("objective") + column("of the bound") +
          column("of the greatest") + column("CV of all rounds") + column("coverage") +
          column("kept") + column("moved MB") + "\n";
  text += fmt::format("{:>7}", "round");
  for (int i = 0; i < 7; ++i) text += fmt::format("  {:>10} {:>10}", "would", "did");
  text += "\n";
  for (const ReplayedRound& round : replay.rounds) {
    text += ReplayRow(std::to_string(round.round), round.would, round.did);
  }
  text += ReplayRow("all", replay.would, replay.did);
  const auto same = std::count_if(replay.rounds.begin(), replay.rounds.end(),
                                  [](const ReplayedRound& round) { return round.same; });
  text += fmt::format(
      "\nFitness {:.6g}, it was {:.6g}. The plan is the recorded one in {} of {} "
      "round{}.\n",
      replay.would.fitness, replay.did.fitness, same, replay.rounds.size(),
      Plural(static_cast<std::int64_t>(replay.rounds.size())));
  if (replay.would.relaxed > 0) {
    text += fmt::format("Bounds had to be widened by up to {} client{}.\n", replay.would.relaxed,
                        Plural(replay.would.relaxed));
  }
  return text;
}

}  // namespace fedmoe
