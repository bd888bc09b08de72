// Who may speak to a coordinator, and how a client knows that it is the right one: PEM files.
#pragma once

#include <string>

namespace fedmoe {

struct ServerTlsOptions {
  std::string certificate;  // chain, the coordinator's own first; empty: no TLS
  std::string key;          // its private key
  // Certificates of those who may sign clients' certificates; empty: clients need none. Otherwise a
  // client's name is its certificate's common name, whatever it says of itself.
  std::string client_ca;
  std::string admin = "admin";  // common name of the certificates that fedmoe-admin may use

  bool enabled() const { return !certificate.empty(); }
  bool mutual() const { return !client_ca.empty(); }
};

struct ClientTlsOptions {
  std::string ca;           // certificates of those who may sign the coordinator's; empty: no TLS
  std::string certificate;  // the client's own chain; empty: none
  std::string key;
  // The name that the coordinator's certificate must bear; empty: the host of its address.
  std::string server_name;

  bool enabled() const { return !ca.empty(); }
};

// Whether only this machine can reach "HOST:PORT": an address of 127.0.0.0/8 in full, [::1], or
// localhost, of which who listens makes sure (Listener).
bool IsLoopback(const std::string& address);

}  // namespace fedmoe
