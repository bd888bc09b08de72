#include "coordinator/gatekeeper.h"

#include <sstream>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/ids.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxRevokedBytes = std::uint64_t{64} << 20;

Status Denied(std::string why) { return {StatusCode::kPermissionDenied, std::move(why)}; }

Status CheckName(const std::string& name) {
  if (IsValidClientId(name)) return Status::Ok();
  return InvalidArgument("client name must be 1 to 64 characters of [A-Za-z0-9._-] (got '" +
                         name.substr(0, 80) + "')");
}

}  // namespace

bool Caller::IsLocal() const {
  return peer.starts_with("ipv4:127.") || peer.starts_with("ipv6:[::1]") ||
         peer.starts_with("ipv6:%5B::1%5D") || peer.starts_with("unix:");
}

Gatekeeper::Gatekeeper(FileSystem& files, std::string path, ServerTlsOptions options)
    : files_(files), path_(std::move(path)), options_(std::move(options)) {}

Result<std::unique_ptr<Gatekeeper>> Gatekeeper::Open(FileSystem& files,
                                                     const std::string& directory,
                                                     const ServerTlsOptions& options) {
  std::unique_ptr<Gatekeeper> gate(
      new Gatekeeper(files, JoinPath(directory, "revoked.txt"), options));
  if (files.Exists(gate->path_)) {
    FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, gate->path_, kMaxRevokedBytes));
    std::istringstream lines(text);
    int number = 0;
    for (std::string name; std::getline(lines, name);) {
      ++number;
      // As an editor may leave it.
      name.erase(name.find_last_not_of(" \t\r") + 1);
      if (name.empty()) continue;
      if (!IsValidClientId(name)) {
        return InvalidArgument(fmt::format("{}:{}: '{}' is no client's name", gate->path_, number,
                                           name.substr(0, 80)));
      }
      gate->revoked_.insert(name);
    }
  }
  FEDMOE_ASSIGN_OR_RETURN(gate->audit_, AuditLog::Open(files, JoinPath(directory, "audit.jsonl")));
  return gate;
}

Status Gatekeeper::CheckClient(const Caller& caller, const std::string& name) const {
  const Status status = Judge(caller, name);
  if (!status.ok()) Record("rejected", caller, name, status.message());
  return status;
}

void Gatekeeper::Record(const std::string& event, const Caller& caller, const std::string& client,
                        const std::string& detail) const {
  audit_->Record({.event = event,
                  .client = client,
                  .certificate = caller.name,
                  .peer = caller.peer,
                  .detail = detail});
}

Status Gatekeeper::Judge(const Caller& caller, const std::string& name) const {
  if (options_.mutual() && caller.name != name) {
    return Denied(
        fmt::format("the certificate is of '{}', the client calls itself '{}'; set its name to "
                    "'{}'",
                    caller.name, name, caller.name));
  }
  const std::lock_guard lock(mutex_);
  if (!revoked_.contains(name)) return Status::Ok();
  return Denied(fmt::format("client '{}' has been revoked", name));
}

void Gatekeeper::RecordRegistration(const Caller& caller, const std::string& name,
                                    const Status& outcome) {
  Record(outcome.ok() ? "admitted" : "rejected", caller, name, outcome.message());
}

Status Gatekeeper::CheckAdmin(const Caller& caller, const std::string& command,
                              const std::string& client) {
  Status status;
  if (options_.mutual()) {
    if (caller.name != options_.admin) {
      status = Denied(
          fmt::format("fedmoe-admin needs a certificate of '{}' (server.tls.admin); this one is of "
                      "'{}'",
                      options_.admin, caller.name));
    }
  } else if (!caller.IsLocal()) {
    status =
        Denied("without mutual TLS, fedmoe-admin works on the coordinator's own machine alone");
  }
  if (status.ok() && !client.empty()) status = CheckName(client);
  // Status is asked for every second by some, and changes nothing.
  if (!status.ok() || command != "status") {
    Record(status.ok() ? "commanded" : "rejected", caller, client,
           status.ok() ? command : command + ": " + status.message());
  }
  return status;
}

Status Gatekeeper::Revoke(const Caller& caller, const std::string& name) {
  return Change(caller, name, /*revoke=*/true);
}

Status Gatekeeper::Restore(const Caller& caller, const std::string& name) {
  return Change(caller, name, /*revoke=*/false);
}

Status Gatekeeper::Keep(const std::set<std::string>& names) {
  std::string text;
  for (const std::string& each : names) text += each + "\n";
  return WriteFileAtomically(files_, path_, std::string_view(text));
}

Status Gatekeeper::Change(const Caller& caller, const std::string& name, bool revoke) {
  FEDMOE_RETURN_IF_ERROR(CheckName(name));
  const std::lock_guard changing(changing_);
  std::set<std::string> before;
  {
    const std::lock_guard lock(mutex_);
    before = revoked_;
  }
  std::set<std::string> names = before;
  const bool changed = revoke ? names.insert(name).second : names.erase(name) > 0;
  if (!changed) return Status::Ok();
  if (const Status kept = Keep(names); !kept.ok()) {
    // Whatever it left there, after a restart no other names must hold than do now.
    if (const Status back = Keep(before); !back.ok()) {
      spdlog::error("{} may not say who is revoked: {}", path_, back.message());
    }
    return kept;
  }
  {
    const std::lock_guard lock(mutex_);
    revoked_ = std::move(names);
  }
  spdlog::info("client {} is {}", name, revoke ? "revoked" : "restored");
  Record(revoke ? "revoked" : "restored", caller, name, "");
  audit_->Flush();
  return Status::Ok();
}

std::vector<std::string> Gatekeeper::Revoked() const {
  const std::lock_guard lock(mutex_);
  return {revoked_.begin(), revoked_.end()};
}

}  // namespace fedmoe
