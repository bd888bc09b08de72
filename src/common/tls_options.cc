#include "common/tls_options.h"

#include <arpa/inet.h>

namespace fedmoe {

bool IsLoopback(const std::string& address) {
  const std::string host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // A name may begin with "127.", too.
  in_addr parsed{};
  return ::inet_pton(AF_INET, host.c_str(), &parsed) == 1 && host.starts_with("127.");
}

}  // namespace fedmoe
