// The coordinator's listening sockets. gRPC's own takes connections without end, and listens no
// more once the process has no file descriptor left for one (CVE-2023-4785); this one takes a
// bounded number, hands them on, and goes on listening whatever happens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "common/result.h"

namespace fedmoe {

// Counts those of the connected sockets that it was told of which are still open, though another
// closes them: a descriptor that was closed, or is now of something else, has not the same inode.
class OpenSockets {
 public:
  explicit OpenSockets(std::size_t limit) : limit_(limit) {}
  // False: as many are open already. Costs a look at each only once the limit seems to be reached.
  bool HasRoom();
  void Add(int socket);
  std::size_t count() const { return sockets_.size(); }  // at most so many are open

 private:
  struct Socket {
    int descriptor = -1;
    ino_t inode = 0;
  };
  const std::size_t limit_;
  std::vector<Socket> sockets_;
};

// One thread accepts, from Start() to Stop().
class Listener {
 public:
  // Owns the connected socket that it is given: non-blocking, without Nagle's delay.
  using Sink = std::function<void(int socket)>;

  // Listens on every address that HOST of "HOST:PORT" has ("[::1]:7070" for IPv6); port 0 is any
  // free one. FAILED_PRECONDITION "cannot listen on 127.0.0.1:7070: address already in use".
  static Result<std::unique_ptr<Listener>> Open(const std::string& address,
                                                std::size_t max_connections);
  ~Listener();

  int port() const { return port_; }
  // Connections past the limit are closed at once, and logged now and then.
  void Start(Sink sink);
  // No connection is handed on once this has returned. Idempotent.
  void Stop();

 private:
  explicit Listener(std::size_t max_connections);
  Status Bind(const std::string& address);
  void Loop();
  void Accept(int listening);
  void Refuse(const char* why);

  OpenSockets open_;
  std::vector<int> listening_;
  int wake_ = -1;   // an event: the loop ends
  int spare_ = -1;  // given up to accept, and close, a connection when no descriptor is left
  int port_ = 0;
  Sink sink_;
  std::uint64_t refused_ = 0;  // since the last line of the log
  std::int64_t logged_ms_ = 0;
  std::thread thread_;
};

}  // namespace fedmoe
