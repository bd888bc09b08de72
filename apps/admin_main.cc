// fedmoe-admin: asks a running coordinator for its status, or to drain or stop.
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "apps/exit_codes.h"
#include "client/grpc_admin.h"
#include "common/version.h"

namespace fedmoe {
namespace {

int Main(int argc, char** argv) {
  CLI::App app{
      "Speaks to a running coordinator.\nExit codes: 0 done, 1 the coordinator did not answer, 2 "
      "usage."};
  std::string coordinator = "127.0.0.1:7070";
  app.add_option("--coordinator", coordinator, "HOST:PORT")->capture_default_str();
  app.set_version_flag("--version", std::string("fedmoe-admin ") + kVersion);
  app.fallthrough();  // inherited by the subcommands below: options may stand behind them
  app.add_subcommand("status", "print the run's state as one JSON object");
  app.add_subcommand("drain", "finish the round in hand, then end the run");
  app.add_subcommand("stop", "abort the round in hand and end the run");
  app.require_subcommand(1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  const std::string command = app.get_subcommands().front()->get_name();
  const Result<std::string> answer = CallAdmin(coordinator, command);
  if (!answer.ok()) {
    fmt::print(stderr, "fedmoe-admin: {}: {}\n", coordinator, answer.status().ToString());
    return kExitFailed;
  }
  if (!answer->empty()) fmt::print("{}\n", *answer);
  return kExitCompleted;
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
