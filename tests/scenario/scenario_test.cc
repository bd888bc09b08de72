// Runs the scripts beside it: events for the round machine, and the actions that they lead to.
//
// A script is blocks of commands, a line "----", the output expected of them, and a blank line.
// Lines of commands that start with # are comments. The commands are listed in docs/laws.md.
// FEDMOE_REWRITE=1 in the environment writes what comes out into the script instead of comparing.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/federation/round_driver.h"

namespace fedmoe {
namespace {

namespace fs = std::filesystem;

// A command line: words, "quoted words" as one, and key=value pairs apart.
struct Command {
  std::vector<std::string> words;
  std::map<std::string, std::string> values;

  std::string Word(std::size_t index) const { return index < words.size() ? words[index] : ""; }
  std::string Value(const std::string& key, const std::string& fallback) const {
    const auto found = values.find(key);
    return found == values.end() ? fallback : found->second;
  }
  double Number(const std::string& key, double fallback) const {
    const auto found = values.find(key);
    return found == values.end() ? fallback : std::stod(found->second);
  }
};

Command ParseCommand(const std::string& line) {
  Command command;
  std::string word;
  bool quoted = false;
  bool any = false;
  const auto finish = [&] {
    if (!any) return;
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos || quoted) {
      command.words.push_back(word);
    } else {
      command.values[word.substr(0, equals)] = word.substr(equals + 1);
    }
    word.clear();
    any = false;
  };
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
      any = true;
    } else if (c == ' ' && !quoted) {
      finish();
    } else {
      word += c;
      any = true;
    }
  }
  finish();
  return command;
}

std::optional<RejectReason> RejectReasonOf(const std::string& name) {
  for (int i = 1; i <= static_cast<int>(RejectReason::kBadFeedback); ++i) {
    const auto reason = static_cast<RejectReason>(i);
    if (name == RejectReasonName(reason)) return reason;
  }
  return std::nullopt;
}

// Sets what `options` names; returns an unknown key, or nothing.
std::string SetOptions(const Command& command, RunOptions& options) {
  const std::map<std::string, std::function<void(const std::string&)>> keys = {
      {"rounds", [&](const std::string& v) { options.rounds = std::stoll(v); }},
      {"experts", [&](const std::string& v) { options.spec = TinySpec(std::stoi(v)); }},
      {"layers",  // after "experts"
       [&](const std::string& v) { options.spec = TinySpec(options.spec.experts, std::stoi(v)); }},
      {"deterministic", [&](const std::string& v) { options.deterministic = v == "true"; }},
      {"strategy",
       [&](const std::string& v) {
         options.alignment.strategy = ParseAlignmentStrategy(v).value();
       }},
      {"clients.min",
       [&](const std::string& v) { options.participation.min_clients = std::stoi(v); }},
      {"clients.per_round",
       [&](const std::string& v) { options.participation.per_round = std::stoi(v); }},
      {"quorum", [&](const std::string& v) { options.participation.quorum = std::stod(v); }},
      {"grace", [&](const std::string& v) { options.participation.grace_ms = std::stoll(v); }},
      {"deadline",
       [&](const std::string& v) { options.participation.deadline_ms = std::stoll(v); }},
      {"heartbeat_timeout",
       [&](const std::string& v) { options.participation.heartbeat_timeout_ms = std::stoll(v); }},
      {"max_aborts",
       [&](const std::string& v) { options.participation.max_aborts = std::stoi(v); }},
      {"reassign", [&](const std::string& v) { options.participation.reassign = v == "true"; }},
      {"too_small",
       [&](const std::string& v) {
         options.participation.too_small =
             v == "reject" ? TooSmallPolicy::kReject : TooSmallPolicy::kTrunkOnly;
       }},
      {"evaluation",
       [&](const std::string& v) {
         options.evaluation.mode = v == "both"        ? EvaluationMode::kBoth
                                   : v == "clients"   ? EvaluationMode::kClients
                                   : v == "evaluator" ? EvaluationMode::kEvaluator
                                                      : EvaluationMode::kNone;
       }},
      {"evaluation.every",
       [&](const std::string& v) { options.evaluation.every_rounds = std::stoi(v); }},
      {"evaluation.deadline",
       [&](const std::string& v) { options.evaluation.deadline_ms = std::stoll(v); }},
  };
  for (const auto& [key, value] : command.values) {
    const auto set = keys.find(key);
    if (set == keys.end()) return key;
    set->second(value);
  }
  return "";
}

class Scenario {
 public:
  std::string Run(const std::string& line) {
    const Command command = ParseCommand(line);
    const auto handler = Handlers().find(command.Word(0));
    if (handler == Handlers().end()) return "unknown command '" + command.Word(0) + "'\n";
    return handler->second(*this, command);
  }

 private:
  using Handler = std::function<std::string(Scenario&, const Command&)>;

  static const std::map<std::string, Handler>& Handlers() {
    static const std::map<std::string, Handler> handlers = {
        {"options", &Scenario::Options},
        {"join", &Scenario::Join},
        {"evaluator",
         [](Scenario& s, const Command& c) { return s.run_.JoinEvaluator(c.Word(1)); }},
        {"tick", &Scenario::Tick},
        {"update", &Scenario::Update},
        {"resend", &Scenario::Resend},
        {"return", [](Scenario& s, const Command& c) { return s.run_.Return(c.Word(1)); }},
        {"leave", [](Scenario& s, const Command& c) { return s.run_.Leave(c.Word(1)); }},
        {"evaluate",
         [](Scenario& s, const Command& c) {
           return s.run_.Evaluate(c.Word(1), c.Number("correct", 50), c.Number("examples", 100));
         }},
        {"aggregated", [](Scenario& s, const Command&) { return s.run_.Aggregate(); }},
        {"checkpoint", [](Scenario& s, const Command&) { return s.run_.Checkpoint(); }},
        {"checkpoint-failed",
         [](Scenario& s, const Command& c) { return s.run_.FailCheckpoint(c.Word(1)); }},
        {"stop", [](Scenario& s, const Command& c) { return s.run_.Stop(c.Word(1) != "now"); }},
        {"resume", &Scenario::Resume},
        {"state", &Scenario::State},
    };
    return handlers;
  }

  std::string Options(const Command& command) {
    RunOptions options = TinyOptions();
    const std::string unknown = SetOptions(command, options);
    if (!unknown.empty()) return "unknown option '" + unknown + "'\n";
    run_ = RoundDriver(options);
    return "";
  }

  // join NAME k=EXPERTS memory=BYTES instance=KEY
  std::string Join(const Command& command) {
    CapacityProfile profile;
    profile.examples = 10;
    profile.max_experts = static_cast<int>(command.Number("k", 0));
    profile.memory_bytes = static_cast<std::uint64_t>(command.Number("memory", 0));
    return run_.JoinWith(command.Word(1), profile, command.Value("instance", "1"));
  }

  // tick MILLISECONDS silent=NAME,NAME: the others are heard at the end of it.
  std::string Tick(const Command& command) {
    std::vector<ClientId> silent;
    std::istringstream names(command.Value("silent", ""));
    for (std::string name; std::getline(names, name, ',');) silent.push_back(name);
    return run_.Tick(std::stoll(command.Word(1)), silent);
  }

  // update NAME bad=REASON task=ID: of the client's task of the round in hand, unless `task` says
  // another.
  std::string Update(const Command& command) {
    const ClientId client = command.Word(1);
    TaskAssignment task = run_.TaskOf(client);
    task.client = client;
    task.task = static_cast<TaskId>(command.Number("task", static_cast<double>(task.task)));
    Verdict content;
    if (const std::string bad = command.Value("bad", ""); !bad.empty()) {
      const std::optional<RejectReason> reason = RejectReasonOf(bad);
      if (!reason) return "unknown reason '" + bad + "'\n";
      content = Verdict{*reason, "found by the reader"};
    }
    last_ = run_.UpdateFor(task, content);
    return run_.Apply(last_);
  }

  // resend: the last update once more.
  std::string Resend(const Command&) {
    last_.at_ms = run_.now_ms;
    return run_.Apply(last_);
  }

  // resume DOWN_MS: what is outstanding, then the event.
  std::string Resume(const Command& command) {
    std::string text = ToText(Outstanding(run_.state, run_.options));
    run_.now_ms += command.words.size() > 1 ? std::stoll(command.Word(1)) : 0;
    return text + run_.Resume();
  }

  std::string State(const Command&) {
    const RoundState& state = run_.state;
    std::string text = std::string(PhaseName(state.phase)) + " " + RunStatusName(state.status) +
                       " version=" + std::to_string(state.version);
    if (state.round != 0) {
      text += " round=" + std::to_string(state.round) +
              " attempt=" + std::to_string(state.attempt) + " cells=" + CellsText(state.cells);
    }
    text += "\n";
    for (const auto& [id, client] : state.clients) {
      text += id + (client.connected ? " connected" : " lost") +
              " merged=" + std::to_string(client.rounds_merged) + "\n";
    }
    for (const auto& [id, task] : state.tasks) {
      text += "task=" + std::to_string(id) + " " + task.assignment.client + " " +
              TaskStatusText(task.status) + "\n";
    }
    return text + "next tick " + std::to_string(NextTickMs(state, run_.options)) + "\n";
  }

  RoundDriver run_{TinyOptions()};
  UpdateReceived last_;
};

// The script with its outputs replaced by what comes out now.
std::string Replay(const std::string& script) {
  Scenario scenario;
  std::istringstream lines(script);
  std::string produced;
  bool in_output = false;
  std::string pending;
  for (std::string line; std::getline(lines, line);) {
    if (in_output) {
      if (!line.empty()) continue;
      in_output = false;
      produced += "\n";
    } else if (line == "----") {
      produced += line + "\n" + pending;
      pending.clear();
      in_output = true;
    } else {
      produced += line + "\n";
      if (!line.empty() && line[0] != '#') pending += scenario.Run(line);
    }
  }
  return produced;
}

class ScenarioScript : public ::testing::TestWithParam<std::string> {};

TEST_P(ScenarioScript, GivesTheExpectedActions) {
  const fs::path path = fs::path(FEDMOE_SOURCE_DIR) / "tests/scenario" / (GetParam() + ".txt");
  std::ifstream file(path);
  ASSERT_TRUE(file) << path << " cannot be read";
  std::stringstream content;
  content << file.rdbuf();
  const std::string produced = Replay(content.str());
  if (std::getenv("FEDMOE_REWRITE") != nullptr) {
    std::ofstream(path) << produced;
    return;
  }
  EXPECT_EQ(produced, content.str()) << "FEDMOE_REWRITE=1 accepts the new output";
}

std::vector<std::string> Scripts() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(fs::path(FEDMOE_SOURCE_DIR) / "tests/scenario")) {
    if (entry.path().extension() == ".txt") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

INSTANTIATE_TEST_SUITE_P(Scripts, ScenarioScript, ::testing::ValuesIn(Scripts()),
                         [](const auto& parameter) { return parameter.param; });

TEST(ScenarioRunner, NoticesWhatItDoesNotKnow) {
  Scenario scenario;
  EXPECT_EQ(scenario.Run("jion a"), "unknown command 'jion'\n");
  EXPECT_EQ(scenario.Run("options ruonds=1"), "unknown option 'ruonds'\n");
  EXPECT_EQ(scenario.Run("update a bad=ugly"), "unknown reason 'ugly'\n");
  EXPECT_GE(Scripts().size(), 12u);
}

}  // namespace
}  // namespace fedmoe
