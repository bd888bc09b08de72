// fedmoe-admin: asks a running coordinator for its status, to drain or stop, or to turn a client
// away.
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
  AdminCall call;
  call.address = "127.0.0.1:7070";
  app.add_option("--coordinator", call.address, "HOST:PORT")->capture_default_str();
  CLI::Option* authority = app.add_option(
      "--ca", call.tls.ca, "PEM certificates of those who may sign the coordinator's: TLS");
  CLI::Option* certificate =
      app.add_option("--certificate", call.tls.certificate,
                     "PEM certificate of this administrator (server.tls.admin)");
  CLI::Option* key = app.add_option("--key", call.tls.key, "its PEM private key");
  certificate->needs(key)->needs(authority);
  key->needs(certificate);
  app.add_option("--server-name", call.tls.server_name,
                 "name on the coordinator's certificate, if it is not the host")
      ->needs(authority);
  app.set_version_flag("--version", std::string("fedmoe-admin ") + kVersion);
  app.fallthrough();  // inherited by the subcommands below: options may stand behind them
  app.add_subcommand("status", "print the run's state as one JSON object");
  app.add_subcommand("drain", "finish the round in hand, then end the run");
  app.add_subcommand("stop", "abort the round in hand and end the run");
  for (const char* command : {"revoke", "restore"}) {
    const bool revokes = command == std::string("revoke");
    app.add_subcommand(command, revokes ? "turn a client away from now on, also after a restart"
                                        : "let a client in again that was revoked")
        ->add_option("NAME", call.client, "the client")
        ->required();
  }
  app.require_subcommand(1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? kExitCompleted : kExitConfiguration;
  }
  call.command = app.get_subcommands().front()->get_name();
  const Result<std::string> answer = CallAdmin(call);
  if (!answer.ok()) {
    fmt::print(stderr, "fedmoe-admin: {}: {}\n", call.address, answer.status().ToString());
    return kExitFailed;
  }
  if (!answer->empty()) fmt::print("{}\n", *answer);
  return kExitCompleted;
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
