// An explanation in words.
#include <cstddef>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "storage/alignment_text.h"

namespace fedmoe {
namespace {

std::string ListOf(const std::vector<ExpertIndex>& experts) {
  if (experts.empty()) return "none";
  std::string text;
  for (const ExpertIndex expert : experts)
    text += (text.empty() ? "" : ", ") + std::to_string(expert);
  return text;
}

std::string Ordinal(int number) {
  const int tens = number % 100;
  if (tens >= 11 && tens <= 13) return std::to_string(number) + "th";
  switch (number % 10) {
    case 1:
      return std::to_string(number) + "st";
    case 2:
      return std::to_string(number) + "nd";
    case 3:
      return std::to_string(number) + "rd";
    default:
      return std::to_string(number) + "th";
  }
}

const char* Because(AssignmentReason reason) {
  switch (reason) {
    case AssignmentReason::kFitness:
      return "for its fitness";
    case AssignmentReason::kBalance:
      return "because the load bounds moved it there";
    case AssignmentReason::kRandom:
      return "by the draw of this round";
    case AssignmentReason::kPinned:
      return "by the plan that static keeps";
    case AssignmentReason::kRotation:
      return "because it was its turn";
    case AssignmentReason::kLoad:
      return "because it was among the experts with the fewest assignments";
    case AssignmentReason::kFull:
      return "like every client";
    case AssignmentReason::kExplored:
      return "to explore: without the bonus it would not have";
  }
  return "";
}

std::string BoundsText(const ExpertExplanation& expert) {
  if (!expert.lower) return "";
  const char* place = expert.load >= *expert.upper   ? ", full"
                      : expert.load <= *expert.lower ? ", no more than it must have"
                                                     : "";
  return fmt::format(" within bounds of {:g} to {:g}{}", *expert.lower, *expert.upper, place);
}

std::string ThresholdText(const PairExplanation& pair) {
  if (!pair.threshold) return "";
  const double reduced = pair.score - pair.price;
  const double margin = pair.Margin();
  if (pair.assigned) {
    return fmt::format(
        "  Score less price is {:.6g}; to keep it, it took {:.6g}, that of expert {}, the best "
        "that "
        "the client has not: {:.6g} {}.\n",
        reduced, *pair.threshold, pair.rival, margin < 0.0 ? -margin : margin,
        margin < 0.0 ? "short" : "to spare");
  }
  return fmt::format(
      "  Score less price is {:.6g}; to get it, it took {:.6g}, that of expert {}, the least that "
      "the client has: {:.6g} {}, so a score of {:.6g}.\n",
      reduced, *pair.threshold, pair.rival, margin < 0.0 ? -margin : margin,
      margin < 0.0 ? "to spare" : "short", *pair.threshold + pair.price);
}

std::string ExchangeText(const PairExplanation& pair) {
  if (!pair.exchange) return "";
  const Exchange& exchange = *pair.exchange;
  const char* so = pair.assigned ? "Without it" : "To have it";
  if (!exchange.possible) {
    return fmt::format("  {}: capacity and bounds leave no such plan.\n", so);
  }
  std::string text = fmt::format("  {}, the best plan:\n", so);
  for (const ExchangeStep& step : exchange.steps) {
    text += fmt::format("    {} gives up {} for {}: {:+.6g}\n", step.client, ListOf(step.gives_up),
                        ListOf(step.takes), step.change);
  }
  return text + fmt::format("    in all {:+.6g}\n", -exchange.cost);
}

std::string PairText(const ClientExplanation& client, const PairExplanation& pair,
                     const RoundExplanation& round) {
  const ExpertExplanation& expert = round.experts[static_cast<std::size_t>(pair.expert)];
  const int per_layer = static_cast<int>(round.experts.size()) / round.layers;
  std::string how = " not";
  if (pair.assigned) how = round.reproduced ? std::string(" ") + Because(pair.reason) : "";
  std::string text = fmt::format("\nExpert {}: {} has it{}.\n", pair.expert, client.client, how);
  text += fmt::format(
      "  Score {:.6g} = fitness {:.6g} + bonus {:.6g} - movement {:.6g}: its {} best "
      "of {}.\n",
      pair.score, pair.fitness, pair.bonus, pair.movement, Ordinal(pair.rank), per_layer);
  text += fmt::format(
      "  The expert has {:g} {}{}; {} assignments in earlier rounds, deficit {:g}; "
      "price {:.6g}.\n",
      expert.load, round.by_tokens ? "predicted tokens" : "clients", BoundsText(expert),
      expert.assignments, expert.deficit, pair.price);
  return text + ThresholdText(pair) + ExchangeText(pair);
}

std::string ExpertTable(const RoundExplanation& round) {
  const bool bounded = !round.experts.empty() && round.experts.front().lower.has_value();
  std::string text = fmt::format("\n{:>7}{:>10}", "expert", round.by_tokens ? "tokens" : "clients");
  if (bounded) text += fmt::format("{:>20}{:>12}", "bounds", "price");
  text +=
      fmt::format("{:>10}  {:<32}{}\n", "deficit", "last in (to spare)", "first out (short by)");
  const auto named = [](const std::optional<std::pair<ClientId, double>>& client) {
    return client ? fmt::format("{} ({:.4g})", client->first, client->second) : std::string("-");
  };
  for (const ExpertExplanation& expert : round.experts) {
    text += fmt::format("{:>7}{:>10g}", expert.expert, expert.load);
    if (bounded) {
      text += fmt::format("{:>20}{:>12.5g}",
                          fmt::format("{:g} to {:g}", *expert.lower, *expert.upper), expert.price);
    }
    text += fmt::format("{:>10.3g}  {:<32}{}\n", expert.deficit, named(expert.last_in),
                        named(expert.first_out));
  }
  return text;
}

std::string ClientLine(const ClientExplanation& client) {
  return fmt::format("{}: experts {} (may have {}, bounded by {}; held {}); update {}\n",
                     client.client, ListOf(client.experts), client.capacity, client.capacity_reason,
                     ListOf(client.held), client.outcome);
}

}  // namespace

std::string ExplanationText(const RoundExplanation& explanation) {
  const AlignmentPlan& plan = explanation.plan;
  std::string text = fmt::format(
      "Round {}: {}, {} assignments; objective {:.6g} of at most {:.6g} (gap {:.2g}), load CV "
      "{:.4f} "
      "(at least {:.4f}), coverage {:.4f}\n",
      explanation.round, AlignmentStrategyName(plan.strategy), plan.assignments.size(),
      plan.objective, plan.bound, plan.gap, plan.cv, plan.floor_cv, plan.coverage);
  if (plan.relaxed > 0) {
    text += fmt::format("Bounds widened by {}: {}\n", plan.relaxed, plan.conflict);
  }
  if (!explanation.reproduced) {
    text +=
        "This build does not align the round as it was aligned: reasons are left out, what is "
        "said of exchanges is of this build's plans.\n";
  }
  const bool overview = explanation.clients.empty() || explanation.clients.front().pairs.empty();
  if (overview) text += ExpertTable(explanation);
  text += "\n";
  for (const ClientExplanation& client : explanation.clients) {
    text += ClientLine(client);
    for (const PairExplanation& pair : client.pairs) text += PairText(client, pair, explanation);
    if (!client.pairs.empty()) text += "\n";
  }
  return text;
}

}  // namespace fedmoe
