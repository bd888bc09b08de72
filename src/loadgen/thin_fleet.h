// Many thin clients against one coordinator, and what became of them.
#pragma once

#include <condition_variable>
#include <memory>
#include <string>
#include <vector>

#include "common/tls_options.h"
#include "loadgen/thin_client.h"

namespace fedmoe {

struct ThinFleetOptions {
  std::string coordinator;  // HOST:PORT
  ClientTlsOptions tls;
  int clients = 1;
  int connections = 0;       // TCP connections that they share; 0: one each
  int joins_per_second = 0;  // 0: all at once
  std::string prefix = "thin-";
  Behaviour behaviour;
};

// Running totals. Seconds are sorted on reading.
struct ThinFleetTotals {
  std::int64_t registered = 0;  // sessions opened
  std::int64_t tasks = 0;
  std::int64_t accepted = 0;
  std::int64_t rejected = 0;
  std::int64_t retries = 0;
  std::int64_t ended = 0;   // clients that are through
  std::int64_t failed = 0;  // of them with an error
  std::string first_error;
  std::uint64_t bytes_down = 0;
  std::uint64_t bytes_up = 0;
  std::vector<double> fetch_s;
  std::vector<double> submit_s;
  std::vector<double> update_bytes;  // of each update that had a verdict
};

// Run() once; the rest is thread-safe.
class ThinFleet {
 public:
  // `also` is told everything, too; may be null; outlives the fleet.
  explicit ThinFleet(ThinFleetOptions options, ThinFleetObserver* also = nullptr);
  ~ThinFleet();

  // Starts the clients and blocks until all are through. FAILED_PRECONDITION for bad credentials.
  Status Run();
  void Stop();
  ThinFleetTotals totals() const;

 private:
  class Counter;
  Status Connect();
  bool WaitForStop(Milliseconds timeout_ms);

  const ThinFleetOptions options_;
  SharedTemplate shared_;
  std::unique_ptr<Counter> counter_;
  std::vector<std::unique_ptr<v1::Coordinator::Stub>> stubs_;
  std::vector<std::unique_ptr<ThinClient>> clients_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopping_ = false;  // guarded by mutex_
};

// The q-th quantile, 0 to 1, of values in any order; 0 of none.
double Quantile(std::vector<double> values, double q);

}  // namespace fedmoe
