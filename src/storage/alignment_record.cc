#include "storage/alignment_record.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "storage/json_object.h"
#include "storage/lines.h"

namespace fedmoe {
namespace {

constexpr char kOlder[] =
    "; rounds that an older build wrote do not say all that a plan was made from";

// The solver's name as AlignmentSolverName has it.
AlignmentSolver SolverOf(const std::string& name) {
  for (const AlignmentSolver solver : {AlignmentSolver::kExact, AlignmentSolver::kPrices}) {
    if (name == AlignmentSolverName(solver)) return solver;
  }
  return AlignmentSolver::kAuto;
}

Status CheckRow(const std::string& where, std::size_t numbers, std::size_t experts, bool optional) {
  if (numbers == experts || (optional && numbers == 0)) return Status::Ok();
  return InvalidArgument(
      fmt::format("{} has {} numbers, the model has {} experts", where, numbers, experts));
}

Status CheckExperts(const std::string& where, const std::vector<ExpertIndex>& list,
                    std::size_t experts) {
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (list[i] < 0 || static_cast<std::size_t>(list[i]) >= experts) {
      return InvalidArgument(fmt::format("{} names expert {}, the model has experts 0 to {}", where,
                                         list[i], experts - 1));
    }
    if (i > 0 && list[i - 1] >= list[i]) {
      return InvalidArgument(where + " must rise");
    }
  }
  return Status::Ok();
}

Status ReadClient(const nlohmann::json& json, const std::string& where, std::size_t experts,
                  RecordedClient& client) {
  JsonObjectReader reader(json, where);
  reader.Need("client", client.client)
      .Need("experts_capacity", client.capacity)
      .Need("capacity_reason", client.capacity_reason)
      .Need("predicted_round_s", client.round_s)
      .Need("fitness", client.fitness)
      .Need("bonus", client.bonus)
      .Need("movement", client.movement)
      .Need("held", client.held)
      .Need("experts", client.experts)
      .Need("outcome", client.outcome);
  const nlohmann::json* profile = reader.Find("profile");
  if (profile == nullptr) reader.Fail("profile is missing");
  FEDMOE_RETURN_IF_ERROR(reader.status());
  JsonObjectReader of_profile(*profile, where + "profile.");
  of_profile.Need("down_bytes_per_s", client.profile.down_bytes_per_s)
      .Need("examples", client.profile.examples);
  FEDMOE_RETURN_IF_ERROR(of_profile.status());
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "fitness", client.fitness.size(), experts, false));
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "bonus", client.bonus.size(), experts, true));
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "movement", client.movement.size(), experts, true));
  FEDMOE_RETURN_IF_ERROR(CheckExperts(where + "held", client.held, experts));
  return CheckExperts(where + "experts", client.experts, experts);
}

Status ReadClients(const nlohmann::json& list, const std::string& where, std::size_t experts,
                   RecordedRound& round) {
  if (!list.is_array()) return InvalidArgument(where + "clients: expected an array");
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string place = fmt::format("{}clients[{}].", where, i);
    RecordedClient& client = round.clients.emplace_back();
    FEDMOE_RETURN_IF_ERROR(ReadClient(list[i], place, experts, client));
    if (i == 0) continue;
    const RecordedClient& before = round.clients[i - 1];
    if (before.client >= client.client) {
      return InvalidArgument(place + "client must come after '" + before.client + "'");
    }
    if (before.bonus.empty() != client.bonus.empty() ||
        before.movement.empty() != client.movement.empty()) {
      return InvalidArgument(place + "bonus and movement must be there for all clients or none");
    }
  }
  return Status::Ok();
}

Status ReadLoad(const nlohmann::json& json, const std::string& where, std::size_t experts,
                ExpertLoad& load) {
  JsonObjectReader reader(json, where);
  reader.Need("assignments", load.assignments)
      .Need("round_assignments", load.round_assignments)
      .Need("tokens", load.tokens)
      .Need("round_tokens", load.round_tokens)
      .Need("average_tokens", load.average_tokens)
      .Need("deficit", load.deficit);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  for (const std::size_t size :
       {load.assignments.size(), load.round_assignments.size(), load.tokens.size(),
        load.round_tokens.size(), load.average_tokens.size(), load.deficit.size()}) {
    FEDMOE_RETURN_IF_ERROR(CheckRow(where + "*", size, experts, false));
  }
  return Status::Ok();
}

Status ReadPlan(const nlohmann::json& json, const std::string& where, std::size_t experts,
                AlignmentPlan& plan) {
  JsonObjectReader reader(json, where);
  std::string strategy;
  std::string solver;
  reader.Need("strategy", strategy)
      .Need("objective", plan.objective)
      .Need("bound", plan.bound)
      .Need("gap", plan.gap)
      .Need("solver", solver)
      .Need("cv", plan.cv)
      .Need("floor_cv", plan.floor_cv)
      .Need("coverage", plan.coverage)
      .Need("load", plan.load)
      .Need("relaxed", plan.relaxed)
      .Need("conflict", plan.conflict)
      .Need("prices", plan.prices)
      .Need("lower", plan.bounds.lower)
      .Need("upper", plan.bounds.upper);
  reader.Take("weighted_load", plan.weighted_load);
  reader.Take("weighted_lower", plan.weighted_bounds.lower);
  reader.Take("weighted_upper", plan.weighted_bounds.upper);
  reader.Take("violation", plan.violation);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "load", plan.load.size(), experts, false));
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "prices", plan.prices.size(), experts, true));
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "lower", plan.bounds.lower.size(), experts, true));
  FEDMOE_RETURN_IF_ERROR(CheckRow(where + "upper", plan.bounds.upper.size(), experts, true));
  for (const std::vector<double>* list :
       {&plan.weighted_load, &plan.weighted_bounds.lower, &plan.weighted_bounds.upper}) {
    FEDMOE_RETURN_IF_ERROR(CheckRow(where + "weighted_*", list->size(), experts, true));
  }
  Result<AlignmentStrategy> parsed = ParseAlignmentStrategy(strategy);
  if (!parsed.ok()) return parsed.status().WithContext(where + "strategy");
  plan.strategy = *parsed;
  plan.solver = SolverOf(solver);
  return Status::Ok();
}

Result<RecordedRound> ReadRound(std::string_view line, const std::string& place, int experts) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, false);
  if (json.is_discarded()) return InvalidArgument(place + " is not valid JSON");
  const std::string where = place + ": ";
  JsonObjectReader reader(json, where);
  RecordedRound round;
  reader.Need("round", round.round).Need("cumulative_load_cv", round.cumulative_cv);
  for (const char* name : {"clients", "load", "alignment"}) {
    if (reader.Find(name) == nullptr) reader.Fail(std::string(name) + " is missing");
  }
  FEDMOE_RETURN_IF_ERROR(reader.status());
  const auto count = static_cast<std::size_t>(experts);
  FEDMOE_RETURN_IF_ERROR(ReadClients(*reader.Find("clients"), where, count, round));
  FEDMOE_RETURN_IF_ERROR(ReadLoad(*reader.Find("load"), where + "load.", count, round.load));
  FEDMOE_RETURN_IF_ERROR(
      ReadPlan(*reader.Find("alignment"), where + "alignment.", count, round.plan));
  for (std::size_t c = 0; c < round.clients.size(); ++c) {
    for (const ExpertIndex expert : round.clients[c].experts) {
      round.plan.assignments.push_back(
          {.client = static_cast<int>(c),
           .expert = expert,
           .fitness = round.clients[c].fitness[static_cast<std::size_t>(expert)]});
    }
  }
  return round;
}

// Rounds count from 1 without a gap: the load history and what clients hold go on from each other.
Status CheckSequence(const std::string& path, std::vector<RecordedRound>& rounds) {
  std::sort(rounds.begin(), rounds.end(),
            [](const RecordedRound& a, const RecordedRound& b) { return a.round < b.round; });
  for (std::size_t i = 0; i < rounds.size(); ++i) {
    const auto expected = static_cast<RoundNumber>(i) + 1;
    if (rounds[i].round == expected) continue;
    if (rounds[i].round < expected) {
      return FailedPrecondition(fmt::format("{} has round {} twice", path, rounds[i].round));
    }
    return FailedPrecondition(
        fmt::format("{} has round {} but not round {}; what follows needs every round before", path,
                    rounds[i].round, expected));
  }
  return rounds.empty() ? FailedPrecondition(path + " has no whole line: no round was reported yet")
                        : Status::Ok();
}

Eigen::MatrixXd RowsOf(const RecordedRound& round, int experts,
                       std::vector<double> RecordedClient::*row) {
  if (round.clients.empty() || (round.clients.front().*row).empty()) return {};
  Eigen::MatrixXd matrix(static_cast<Eigen::Index>(round.clients.size()), experts);
  for (std::size_t c = 0; c < round.clients.size(); ++c) {
    matrix.row(static_cast<Eigen::Index>(c)) =
        Eigen::Map<const Eigen::RowVectorXd>((round.clients[c].*row).data(), experts);
  }
  return matrix;
}

}  // namespace

Result<std::vector<RecordedRound>> ReadRecordedRounds(FileSystem& files,
                                                      const std::string& directory,
                                                      const RunOptions& options) {
  const int experts = options.spec.experts;
  if (experts == 0) {
    return FailedPrecondition(directory + ": the model has no experts, so nothing was aligned");
  }
  const std::string path = JoinPath(directory, "rounds.jsonl");
  if (!files.Exists(path)) {
    return NotFound(path + ": no such file; --run is a run directory, such as runs/quickstart");
  }
  std::vector<RecordedRound> rounds;
  int number = 0;
  const auto use = [&](std::string_view line) -> Status {
    const std::string place = fmt::format("{}:{}", path, ++number);
    Result<RecordedRound> round = ReadRound(line, place, experts);
    if (!round.ok()) {
      const Status failed = round.status();
      const bool older = failed.message().ends_with("is missing");
      return InvalidArgument(failed.message() + (older ? kOlder : ""));
    }
    rounds.push_back(std::move(round).value());
    return Status::Ok();
  };
  FEDMOE_RETURN_IF_ERROR(ForEachLine(files, path, use).status());
  FEDMOE_RETURN_IF_ERROR(CheckSequence(path, rounds));
  return rounds;
}

ScoreMatrix RecordedScore(const RecordedRound& round, int experts) {
  return {.fitness = RowsOf(round, experts, &RecordedClient::fitness),
          .bonus = RowsOf(round, experts, &RecordedClient::bonus),
          .movement = RowsOf(round, experts, &RecordedClient::movement)};
}

AlignmentProblem RecordedProblem(const RecordedRound& round, const ScoreMatrix& score,
                                 const ExpertLoad& load, const RunOptions& options) {
  AlignmentProblem problem;
  for (const RecordedClient& client : round.clients) {
    problem.clients.push_back(client.client);
    problem.capacity.push_back(client.capacity);
  }
  problem.fitness = score.Total();
  problem.load = load;
  problem.layers = options.spec.layers;
  problem.seed = options.seed;
  problem.round = round.round;
  if (options.alignment.load.unit == LoadUnit::kTokens) {
    std::vector<TokenClient> cohort;
    for (const RecordedClient& client : round.clients) {
      cohort.push_back({.examples = client.profile.examples, .experts = client.capacity});
    }
    problem.weight = PredictTokens(cohort, options.spec, options.training);
  }
  return problem;
}

ExpertLoad LoadBefore(const std::vector<RecordedRound>& rounds, std::size_t index, int experts) {
  return index == 0 ? ExpertLoad::Of(experts) : rounds[index - 1].load;
}

}  // namespace fedmoe
