#include "loadgen/thin_fleet.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "wire/credentials.h"
#include "wire/grpc_log.h"

namespace fedmoe {

double Quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(std::floor(at));
  const auto above = static_cast<std::size_t>(std::ceil(at));
  return values[below] + (at - std::floor(at)) * (values[above] - values[below]);
}

class ThinFleet::Counter final : public ThinFleetObserver {
 public:
  Counter(std::int64_t clients, ThinFleetObserver* also) : clients_(clients), also_(also) {}

  void OnRegistered() override {
    Count([](ThinFleetTotals& totals) { ++totals.registered; });
    if (also_ != nullptr) also_->OnRegistered();
  }
  void OnTask(const TaskAssignment& task) override {
    Count([](ThinFleetTotals& totals) { ++totals.tasks; });
    if (also_ != nullptr) also_->OnTask(task);
  }
  void OnShards(std::uint64_t bytes, double seconds) override {
    Count([&](ThinFleetTotals& totals) {
      totals.bytes_down += bytes;
      totals.fetch_s.push_back(seconds);
    });
    if (also_ != nullptr) also_->OnShards(bytes, seconds);
  }
  void OnCarried(std::uint64_t bytes) override {
    Count([bytes](ThinFleetTotals& totals) { totals.bytes_down += bytes; });
    if (also_ != nullptr) also_->OnCarried(bytes);
  }
  void OnVerdict(const TaskAssignment& task, const Verdict& verdict,
                 const Upload& upload) override {
    Count([&](ThinFleetTotals& totals) {
      ++(verdict.accepted() ? totals.accepted : totals.rejected);
      totals.bytes_up += upload.sent_bytes;
      totals.submit_s.push_back(upload.seconds);
      totals.update_bytes.push_back(static_cast<double>(upload.update_bytes));
    });
    if (also_ != nullptr) also_->OnVerdict(task, verdict, upload);
  }
  void OnRetry(const Status& status) override {
    Count([](ThinFleetTotals& totals) { ++totals.retries; });
    if (also_ != nullptr) also_->OnRetry(status);
  }
  void OnEnd(const Status& status) override {
    if (also_ != nullptr) also_->OnEnd(status);
    const std::lock_guard lock(mutex_);
    ++totals_.ended;
    if (!status.ok() && status.code() != StatusCode::kCancelled) {
      ++totals_.failed;
      if (totals_.first_error.empty()) totals_.first_error = status.ToString();
    }
    all_ended_.notify_all();
  }

  void WaitForAll() {
    std::unique_lock lock(mutex_);
    all_ended_.wait(lock, [this] { return totals_.ended == clients_; });
  }
  ThinFleetTotals totals() const {
    const std::lock_guard lock(mutex_);
    return totals_;
  }
  // Of clients that were never started.
  void Forget(std::int64_t clients) {
    const std::lock_guard lock(mutex_);
    clients_ -= clients;
  }

 private:
  template <typename Change>
  void Count(Change change) {
    const std::lock_guard lock(mutex_);
    change(totals_);
  }

  mutable std::mutex mutex_;
  std::condition_variable all_ended_;
  ThinFleetTotals totals_;
  std::int64_t clients_;
  ThinFleetObserver* const also_;
};

ThinFleet::ThinFleet(ThinFleetOptions options, ThinFleetObserver* also)
    : options_(std::move(options)), counter_(std::make_unique<Counter>(options_.clients, also)) {}

ThinFleet::~ThinFleet() = default;

Status ThinFleet::Connect() {
  RouteGrpcLog();
  const int connections = options_.connections > 0 ? options_.connections : options_.clients;
  for (int i = 0; i < connections; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    FEDMOE_ASSIGN_OR_RETURN(const auto credentials,
                            MakeChannelCredentials(options_.tls, arguments));
    stubs_.push_back(v1::Coordinator::NewStub(
        grpc::CreateCustomChannel(options_.coordinator, credentials, arguments)));
  }
  const std::lock_guard lock(mutex_);
  for (int i = 0; i < options_.clients; ++i) {
    clients_.push_back(
        std::make_unique<ThinClient>(fmt::format("{}{:05}", options_.prefix, i),
                                     *stubs_[static_cast<std::size_t>(i % connections)],
                                     options_.behaviour, shared_, *counter_));
  }
  return Status::Ok();
}

bool ThinFleet::WaitForStop(Milliseconds timeout_ms) {
  std::unique_lock lock(mutex_);
  return stop_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [this] { return stopping_; });
}

Status ThinFleet::Run() {
  FEDMOE_RETURN_IF_ERROR(Connect());
  const auto begin = std::chrono::steady_clock::now();
  std::int64_t started = 0;
  for (const std::unique_ptr<ThinClient>& client : clients_) {
    if (options_.joins_per_second > 0) {
      const auto due =
          begin + std::chrono::microseconds(started * 1'000'000 / options_.joins_per_second);
      const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(
          due - std::chrono::steady_clock::now());
      if (wait.count() > 0) WaitForStop(wait.count());
    }
    if (WaitForStop(0)) break;
    client->Start();
    ++started;
  }
  counter_->Forget(options_.clients - started);
  counter_->WaitForAll();
  return Status::Ok();
}

void ThinFleet::Stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  stop_.notify_all();
  for (const std::unique_ptr<ThinClient>& client : clients_) client->Stop();
}

ThinFleetTotals ThinFleet::totals() const { return counter_->totals(); }

}  // namespace fedmoe
