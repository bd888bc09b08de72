// The coordinator's listening sockets. gRPC's own takes connections without end, and listens no
// more once the process has no file descriptor left for one (CVE-2023-4785); this one takes a
// bounded number, hands them on, and goes on listening whatever happens.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

// Counts those of the connected sockets that it was told of which are still open, though another
// closes them: a descriptor that was closed, or is now of something else, has not the same inode.
class OpenSockets {
 public:
  explicit OpenSockets(std::size_t limit) : limit_(limit) {}
  // False: as many are open already. Costs a look at each, if the limit seems to be reached and
  // some time has passed since the last: no more than a tenth of a processor, whoever connects.
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
  std::chrono::steady_clock::time_point next_look_;
};

// One thread accepts, from Start() to Stop(). Thread-safe.
class Listener {
 public:
  struct Options {
    std::size_t max_connections = 0;
    // Bytes that the other end does not acknowledge for so long end a connection; 0: the system's
    // own time, a quarter of an hour.
    Milliseconds unacknowledged_ms = 0;
    // Otherwise "localhost" must be this machine alone.
    bool is_encrypted = false;
  };
  // Owns the connected socket that it is given: non-blocking, without Nagle's delay.
  using Sink = std::function<void(int socket)>;

  // Listens on every address that HOST of "HOST:PORT" has ("[::1]:7070" for IPv6); "0.0.0.0" and
  // "[::]" both stand for every address of this machine, of IPv6 too if it has that. Port 0 is any
  // free one. FAILED_PRECONDITION "cannot listen on 127.0.0.1:7070: address already in use".
  static Result<std::unique_ptr<Listener>> Open(const std::string& address, const Options& options);
  ~Listener();

  int port() const { return port_; }
  // Connections past the limit are closed at once, and logged now and then.
  void Start(Sink sink);
  // Nothing listens, and no connection is handed on, once this has returned. Idempotent.
  void Stop();

 private:
  explicit Listener(const Options& options);
  Status Bind(const std::string& address);
  void CloseAll();
  void Loop();
  void Accept(int listening);
  bool AcceptedNothing(int listening, int error);
  void Refuse(const char* why);
  // False: it is too soon after the last one.
  bool LogNowAndThen(const std::string& line);

  const Options options_;
  OpenSockets open_;
  std::vector<int> listening_;
  int wake_ = -1;   // an event: the loop ends
  int spare_ = -1;  // given up to accept, and close, a connection when no descriptor is left
  int port_ = 0;
  Sink sink_;
  std::uint64_t refused_ = 0;  // since the last line of the log
  std::optional<std::chrono::steady_clock::time_point> logged_;
  std::mutex stopping_;
  std::thread thread_;
};

}  // namespace fedmoe
