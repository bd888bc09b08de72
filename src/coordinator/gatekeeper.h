// Who may do what at the coordinator. Knows no gRPC: the shell tells who calls.
#pragma once

#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "common/file_system.h"
#include "common/result.h"
#include "common/tls_options.h"
#include "storage/audit_log.h"

namespace fedmoe {

// The other end of a connection.
struct Caller {
  std::string name;  // common name on its certificate, which was verified; empty: it has none
  std::string peer;  // "ipv4:127.0.0.1:50212", "ipv6:[::1]:50212" or "unix:..."
  bool IsLocal() const;
};

// Thread-safe. What it decides, and what fedmoe-admin commands, goes to the audit log.
class Gatekeeper {
 public:
  // Reads the names that were revoked from `directory`/revoked.txt, if it is there, and opens
  // `directory`/audit.jsonl. INVALID_ARGUMENT "DIR/revoked.txt:3: 'a b' is no client's name".
  static Result<std::unique_ptr<Gatekeeper>> Open(FileSystem& files, const std::string& directory,
                                                  const ServerTlsOptions& options);

  // Whether the caller may speak for the client `name`. PERMISSION_DENIED:
  //   "the certificate is of 'a', the client calls itself 'b'; set its name to 'a'"
  //   "client 'a' has been revoked"
  // A refusal goes to the audit log; not that of Judge().
  Status CheckClient(const Caller& caller, const std::string& name) const;
  Status Judge(const Caller& caller, const std::string& name) const;
  // What became of a registration.
  void RecordRegistration(const Caller& caller, const std::string& name, const Status& outcome);

  // Whether the caller may command: with mutual TLS by its certificate's name, else from this
  // machine alone. PERMISSION_DENIED:
  //   "fedmoe-admin needs a certificate of 'admin' (server.tls.admin); this one is of 'a'"
  //   "without mutual TLS, fedmoe-admin works on the coordinator's own machine alone"
  // `client`: whom the command is about, if anyone. INVALID_ARGUMENT for what is no client's name.
  Status CheckAdmin(const Caller& caller, const std::string& command,
                    const std::string& client = "");

  // Durable when it returns, in the audit log, too. Revoking what is revoked is no error.
  // INVALID_ARGUMENT as CheckAdmin.
  Status Revoke(const Caller& caller, const std::string& name);
  Status Restore(const Caller& caller, const std::string& name);
  std::vector<std::string> Revoked() const;

  AuditLog& audit() { return *audit_; }

 private:
  Gatekeeper(FileSystem& files, std::string path, ServerTlsOptions options);
  void Record(const std::string& event, const Caller& caller, const std::string& client,
              const std::string& detail) const;
  Status Change(const Caller& caller, const std::string& name, bool revoke);
  Status Keep(const std::set<std::string>& names);

  FileSystem& files_;
  const std::string path_;  // of revoked.txt
  const ServerTlsOptions options_;
  std::unique_ptr<AuditLog> audit_;
  std::mutex changing_;  // held while a revocation is written, so that checks do not wait for it
  mutable std::mutex mutex_;
  std::set<std::string> revoked_;  // guarded by mutex_; changed with changing_ held
};

}  // namespace fedmoe
