// fedmoe-align: solves alignment problems from files; explains and replays the alignment of runs.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/exit_codes.h"
#include "common/version.h"
#include "config/coordinator_config.h"
#include "storage/alignment_explain.h"
#include "storage/alignment_file.h"
#include "storage/alignment_replay.h"
#include "storage/alignment_text.h"

namespace fedmoe {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  fedmoe-align solve --problem fitness.csv --slack 0.25\n"
    "  fedmoe-align explain --run runs/quickstart --round 3 --client client-00\n"
    "  fedmoe-align replay --run runs/quickstart --strategy greedy\n"
    "  fedmoe-align replay --run runs/quickstart --set alignment.slack=0.5 --json\n"
    "  fedmoe-align problem --run runs/quickstart --round 3 > problem.json\n"
    "Formats: docs/alignment_file.md.\n"
    "Exit codes: 0 done, 1 no plan meets the load bounds, 2 usage, 3 run directory, 4 problem "
    "file.";

struct Arguments {
  std::string problem;
  std::optional<std::string> strategy;
  std::string solver = "auto";
  double slack = 0.0;
  bool no_relax = false;
  std::optional<int> layers;
  std::optional<std::uint64_t> seed;
  std::string plan_file;
  std::string run;
  RoundNumber round = 1;
  std::optional<std::string> client;
  std::optional<ExpertIndex> expert;
  bool no_exchanges = false;
  std::vector<std::string> sets;
  int threads = 1;
  bool json = false;
};

int Fail(const std::string& message, int code) {
  fmt::print(stderr, "fedmoe-align: {}\n", message);
  return code;
}

// Threads that live as long as one loop: starting them is nothing beside what they do.
ParallelFor LendThreads(int threads) {
  if (threads <= 1) return {};
  return [threads](int parts, const std::function<void(int)>& body) {
    std::atomic<int> next{0};
    const auto work = [&] {
      for (int part = next++; part < parts; part = next++) body(part);
    };
    std::vector<std::jthread> others;
    for (int i = 1; i < std::min(threads, parts); ++i) others.emplace_back(work);
    work();
  };
}

AlignmentSolver SolverOf(const std::string& name) {
  for (const AlignmentSolver solver : {AlignmentSolver::kExact, AlignmentSolver::kPrices}) {
    if (name == AlignmentSolverName(solver)) return solver;
  }
  return AlignmentSolver::kAuto;
}

int Solve(const Arguments& arguments) {
  AlignmentOptions options;
  if (arguments.strategy) {
    const Result<AlignmentStrategy> strategy = ParseAlignmentStrategy(*arguments.strategy);
    if (!strategy.ok())
      return Fail("--strategy: " + strategy.status().message(), kExitConfiguration);
    options.strategy = *strategy;
  }
  options.solver = SolverOf(arguments.solver);
  options.load.slack = arguments.slack;
  options.relax_bounds = !arguments.no_relax;
  options.parallel = LendThreads(arguments.threads);
  Result<AlignmentProblem> problem = ReadAlignmentProblem(PosixFileSystem(), arguments.problem);
  if (!problem.ok()) return Fail(problem.status().message(), kExitData);
  if (arguments.layers) problem->layers = *arguments.layers;
  if (arguments.seed) problem->seed = *arguments.seed;
  AlignmentMemory memory;
  const auto start = std::chrono::steady_clock::now();
  const Result<AlignmentPlan> plan = Align(*problem, options, memory);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (!plan.ok()) {
    const bool bounds = plan.status().code() == StatusCode::kFailedPrecondition;
    return Fail(arguments.problem + ": " + plan.status().message() +
                    (bounds ? " (here: --slack, or leave out --no-relax)" : ""),
                bounds ? kExitFailed : kExitData);
  }
  if (!arguments.plan_file.empty()) {
    const Status written = WriteFileAtomically(PosixFileSystem(), arguments.plan_file,
                                               AlignmentPlanToCsv(*problem, *plan));
    if (!written.ok()) return Fail(written.message(), kExitFailed);
  }
  fmt::print("{}", arguments.json ? AlignmentPlanToJson(*problem, *plan, seconds.count()) + "\n"
                                  : PlanText(*problem, *plan, seconds.count()));
  return kExitCompleted;
}

struct Run {
  RunOptions options;
  std::vector<RecordedRound> rounds;
};

Result<RunOptions> LoadOptions(const std::string& directory, const std::vector<std::string>& sets) {
  const ConfigSource source{.path = JoinPath(directory, "config.yaml"), .overrides = sets};
  FEDMOE_ASSIGN_OR_RETURN(const CoordinatorConfig config, LoadCoordinatorConfig(source));
  RunOptions options = config.run;
  FEDMOE_ASSIGN_OR_RETURN(options.spec, BuildModelSpec(config.model));
  return options;
}

Result<Run> LoadRun(const std::string& directory) {
  if (!PosixFileSystem().Exists(JoinPath(directory, "config.yaml"))) {
    return NotFound(directory +
                    " is no run directory: it has no config.yaml; --run is one such as "
                    "runs/quickstart");
  }
  Run run;
  FEDMOE_ASSIGN_OR_RETURN(run.options, LoadOptions(directory, {}));
  FEDMOE_ASSIGN_OR_RETURN(run.rounds,
                          ReadRecordedRounds(PosixFileSystem(), directory, run.options));
  return run;
}

int Explain(const Arguments& arguments) {
  const Result<Run> run = LoadRun(arguments.run);
  if (!run.ok()) return Fail(run.status().message(), kExitDirectory);
  const Result<RoundExplanation> explanation = ExplainRound(run->rounds, run->options,
                                                            {.round = arguments.round,
                                                             .client = arguments.client,
                                                             .expert = arguments.expert,
                                                             .exchanges = !arguments.no_exchanges});
  if (!explanation.ok()) {
    const bool not_there = explanation.status().code() == StatusCode::kNotFound;
    return Fail(arguments.run + ": " + explanation.status().message(),
                not_there ? kExitConfiguration : kExitFailed);
  }
  fmt::print("{}", arguments.json ? ExplanationToJson(*explanation) + "\n"
                                  : ExplanationText(*explanation));
  return kExitCompleted;
}

// What would change the record, not the alignment of it, is refused.
bool MayBeSet(const std::string& set) {
  return (set.starts_with("alignment.") && !set.starts_with("alignment.exploration.")) ||
         set.starts_with("run.seed=");
}

int ReplayRun(const Arguments& arguments) {
  std::vector<std::string> sets = arguments.sets;
  for (const std::string& set : sets) {
    if (MayBeSet(set)) continue;
    return Fail("--set " + set +
                    ": a replay can set alignment.* but alignment.exploration.*, and run.seed; the "
                    "rest is as recorded",
                kExitConfiguration);
  }
  if (arguments.strategy) sets.push_back("alignment.strategy=" + *arguments.strategy);
  const Result<Run> run = LoadRun(arguments.run);
  if (!run.ok()) return Fail(run.status().message(), kExitDirectory);
  Result<RunOptions> options = LoadOptions(arguments.run, sets);
  if (!options.ok()) return Fail(options.status().message(), kExitConfiguration);
  options->alignment.parallel = LendThreads(arguments.threads);
  const Result<Replay> replay = ReplayAlignment(run->rounds, *options);
  if (!replay.ok()) return Fail(arguments.run + ": " + replay.status().message(), kExitFailed);
  if (arguments.json) {
    fmt::print("{}\n", ReplayToJson(*replay));
    return kExitCompleted;
  }
  std::string what = AlignmentStrategyName(options->alignment.strategy);
  for (const std::string& set : arguments.sets) what += ", " + set + ",";
  fmt::print("{}", ReplayText(*replay, what));
  return kExitCompleted;
}

int Export(const Arguments& arguments) {
  const Result<Run> run = LoadRun(arguments.run);
  if (!run.ok()) return Fail(run.status().message(), kExitDirectory);
  const auto last = static_cast<RoundNumber>(run->rounds.size());
  if (arguments.round < 1 || arguments.round > last) {
    return Fail(fmt::format("{}: there is no round {}; the run has rounds 1 to {}", arguments.run,
                            arguments.round, last),
                kExitConfiguration);
  }
  const auto index = static_cast<std::size_t>(arguments.round - 1);
  const int experts = run->options.spec.experts;
  fmt::print("{}", AlignmentProblemToJson(RecordedProblem(
                       run->rounds[index], RecordedScore(run->rounds[index], experts),
                       LoadBefore(run->rounds, index, experts), run->options)));
  return kExitCompleted;
}

void AddRun(CLI::App& command, Arguments& arguments) {
  command.add_option("--run", arguments.run, "run directory")->required();
}

void AddJson(CLI::App& command, Arguments& arguments) {
  command.add_flag("--json", arguments.json, "print one JSON object");
}

void AddStrategy(CLI::App& command, Arguments& arguments, const std::string& preset) {
  command.add_option("--strategy", arguments.strategy,
                     "none, full, random, static, round_robin, greedy, load_only or balanced; "
                     "default: " +
                         preset);
}

void AddThreads(CLI::App& command, Arguments& arguments) {
  command
      .add_option("--threads", arguments.threads, "of the solver; the plan does not depend on it")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
}

void AddSolve(CLI::App& app, Arguments& arguments) {
  CLI::App& solve = *app.add_subcommand("solve", "solve a problem from a file");
  solve.add_option("--problem", arguments.problem, "FILE.json, or FILE.csv of a fitness matrix")
      ->required();
  AddStrategy(solve, arguments, "balanced");
  solve.add_option("--solver", arguments.solver, "of balanced")
      ->check(CLI::IsMember({"auto", "exact", "prices"}))
      ->capture_default_str();
  solve.add_option("--slack", arguments.slack, "s in the load bounds")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  solve.add_flag("--no-relax", arguments.no_relax,
                 "bounds that cannot be met are an error, not widened");
  solve.add_option("--layers", arguments.layers, "MoE layers; default: the file's, or 1");
  solve.add_option("--seed", arguments.seed, "of draws and ties; default: the file's, or 0");
  solve.add_option("--plan", arguments.plan_file, "write client,expert,fitness,reason to this CSV");
  AddThreads(solve, arguments);
  AddJson(solve, arguments);
}

void AddOfRuns(CLI::App& app, Arguments& arguments) {
  CLI::App& explain =
      *app.add_subcommand("explain", "why a client of a round has an expert, or has not");
  AddRun(explain, arguments);
  explain.add_option("--round", arguments.round, "from 1")->required();
  explain.add_option("--client", arguments.client, "one client, with all of its pairs");
  explain.add_option("--expert", arguments.expert, "one expert, for the client or for all");
  explain.add_flag("--no-exchanges", arguments.no_exchanges,
                   "leave out who would give up what; finding it takes a solve a pair");
  AddJson(explain, arguments);

  CLI::App& replay =
      *app.add_subcommand("replay", "what another strategy would have made of a whole run");
  AddRun(replay, arguments);
  AddStrategy(replay, arguments, "the run's");
  replay
      .add_option("--set", arguments.sets,
                  "KEY.PATH=VALUE: override a key of alignment, or run.seed; may be given again")
      ->allow_extra_args(false);
  AddThreads(replay, arguments);
  AddJson(replay, arguments);

  CLI::App& problem =
      *app.add_subcommand("problem", "print a round's problem as JSON, for solve --problem");
  AddRun(problem, arguments);
  problem.add_option("--round", arguments.round, "from 1")->required();
}

int Main(int argc, char** argv) {
  CLI::App app{"Solves alignment problems; explains and replays the alignment of runs."};
  Arguments arguments;
  app.footer(kExamples);
  app.set_version_flag("--version", std::string("fedmoe-align ") + kVersion);
  AddSolve(app, arguments);
  AddOfRuns(app, arguments);
  app.require_subcommand(1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  const std::string command = app.get_subcommands().front()->get_name();
  if (command == "solve") return Solve(arguments);
  if (command == "explain") return Explain(arguments);
  if (command == "replay") return ReplayRun(arguments);
  return Export(arguments);
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
