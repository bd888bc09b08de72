#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "storage/alignment_text.h"
#include "storage/json_codec.h"

namespace fedmoe {
namespace {

using Json = nlohmann::ordered_json;

Json OrNull(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json ShareOrNull(double part, double whole) { return whole > 0.0 ? Json(part / whole) : Json(); }

Json FiguresJson(const ReplayFigures& figures) {
  return {{"assignments", figures.assignments},
          {"objective", figures.objective},
          {"fitness", figures.fitness},
          {"bound", figures.bound},
          {"of_bound", ShareOrNull(figures.objective, figures.bound)},
          {"of_greatest", ShareOrNull(figures.objective, figures.greatest)},
          {"cumulative_load_cv", figures.cumulative_cv},
          {"coverage", figures.coverage},
          {"keepable", figures.keepable},
          {"kept", figures.kept},
          {"moved", figures.moved},
          {"moved_bytes", figures.moved_bytes},
          {"relaxed", figures.relaxed}};
}

Json ExchangeJson(const std::optional<Exchange>& exchange) {
  if (!exchange) return nullptr;
  Json json = {
      {"possible", exchange->possible}, {"cost", exchange->cost}, {"steps", Json::array()}};
  for (const ExchangeStep& step : exchange->steps) {
    json["steps"].push_back({{"client", step.client},
                             {"gives_up", step.gives_up},
                             {"takes", step.takes},
                             {"change", step.change}});
  }
  return json;
}

Json PairJson(const PairExplanation& pair, bool reproduced) {
  Json json = {{"expert", pair.expert},
               {"assigned", pair.assigned},
               {"reason", nullptr},
               {"score", pair.score},
               {"fitness", pair.fitness},
               {"bonus", pair.bonus},
               {"movement", pair.movement},
               {"rank", pair.rank},
               {"price", pair.price},
               {"threshold", OrNull(pair.threshold)},
               {"rival", nullptr},
               {"margin", nullptr},
               {"exchange", ExchangeJson(pair.exchange)}};
  if (pair.assigned && reproduced) json["reason"] = AssignmentReasonName(pair.reason);
  if (pair.threshold) {
    json["rival"] = pair.rival;
    json["margin"] = pair.Margin();
  }
  return json;
}

Json ExpertJson(const ExpertExplanation& expert) {
  const auto named = [](const std::optional<std::pair<ClientId, double>>& client) {
    return client ? Json({{"client", client->first}, {"margin", client->second}}) : Json();
  };
  return {{"expert", expert.expert},
          {"price", expert.price},
          {"load", expert.load},
          {"lower", OrNull(expert.lower)},
          {"upper", OrNull(expert.upper)},
          {"deficit", expert.deficit},
          {"assignments", expert.assignments},
          {"last_in", named(expert.last_in)},
          {"first_out", named(expert.first_out)}};
}

}  // namespace

std::string ReplayToJson(const Replay& replay) {
  Json json = {{"rounds", Json::array()},
               {"would", FiguresJson(replay.would)},
               {"did", FiguresJson(replay.did)}};
  for (const ReplayedRound& round : replay.rounds) {
    Json plan = Json::array();
    for (int c = 0; c < round.clients; ++c) plan.push_back(round.plan.ExpertsOf(c));
    json["rounds"].push_back({{"round", round.round},
                              {"clients", round.clients},
                              {"same", round.same},
                              {"would", FiguresJson(round.would)},
                              {"did", FiguresJson(round.did)},
                              {"experts", std::move(plan)}});
  }
  return DumpJson(json);
}

std::string ExplanationToJson(const RoundExplanation& explanation) {
  const AlignmentPlan& plan = explanation.plan;
  Json json = {{"round", explanation.round},
               {"strategy", AlignmentStrategyName(plan.strategy)},
               {"objective", plan.objective},
               {"bound", plan.bound},
               {"gap", plan.gap},
               {"relaxed", plan.relaxed},
               {"conflict", plan.conflict},
               {"reproduced", explanation.reproduced},
               {"experts", Json::array()},
               {"clients", Json::array()}};
  for (const ExpertExplanation& expert : explanation.experts) {
    json["experts"].push_back(ExpertJson(expert));
  }
  for (const ClientExplanation& client : explanation.clients) {
    Json pairs = Json::array();
    for (const PairExplanation& pair : client.pairs) {
      pairs.push_back(PairJson(pair, explanation.reproduced));
    }
    json["clients"].push_back({{"client", client.client},
                               {"capacity", client.capacity},
                               {"capacity_reason", client.capacity_reason},
                               {"outcome", client.outcome},
                               {"held", client.held},
                               {"experts", client.experts},
                               {"pairs", std::move(pairs)}});
  }
  return DumpJson(json);
}

}  // namespace fedmoe
