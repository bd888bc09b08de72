#include "tests/wire/network_fleet.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <utility>

#include <gtest/gtest.h>

namespace fedmoe {

CoreOptions NetworkOptions() {
  CoreOptions options = FleetOptions();
  options.run.rounds = 1'000'000;
  options.run.deterministic = false;
  options.run.participation = {.min_clients = 2,
                               .quorum = 0.5,
                               .grace_ms = 100,
                               .deadline_ms = 0,
                               .heartbeat_timeout_ms = 2'000,
                               .max_aborts = 1'000};
  options.run.evaluation.mode = EvaluationMode::kNone;
  options.poll_hold_ms = 500;
  options.heartbeat_interval_ms = 100;
  options.linger_ms = 0;
  return options;
}

ModelSpec NetworkSpec(int experts, std::int64_t expert_values) {
  ModelSpec spec;
  spec.preset = "network";
  spec.experts = experts;
  spec.top_k = 1;
  spec.trunk_flops = 1.0;
  spec.expert_flops = 1.0;
  spec.blocks.push_back({.name = "trunk",
                         .shape = {64},
                         .initializer = Initializer::kUniform,
                         .scale = 1.0,
                         .init_key = "trunk"});
  for (int expert = 0; expert < experts; ++expert) {
    const std::string name = "experts." + std::to_string(expert);
    spec.blocks.push_back({.name = name,
                           .shape = {expert_values},
                           .owner = BlockOwner::kExpert,
                           .expert = expert,
                           .merge = MergeRule::kByTokens,
                           .initializer = Initializer::kUniform,
                           .scale = 1.0,
                           .init_key = name});
  }
  return spec;
}

// ---- RoundLog.

void RoundLog::OnReport(const RoundReport& report) {
  const std::lock_guard lock(mutex_);
  reports_.push_back(report);
  changed_.notify_all();
}

void RoundLog::OnDispatch(const RoundState& state) {
  const std::lock_guard lock(mutex_);
  for (const auto& [id, task] : state.tasks) tasks_.emplace(id, task.assignment);
}

std::vector<RoundReport> RoundLog::reports() const {
  const std::lock_guard lock(mutex_);
  return reports_;
}

std::vector<TaskAssignment> RoundLog::tasks() const {
  const std::lock_guard lock(mutex_);
  std::vector<TaskAssignment> tasks;
  for (const auto& [id, task] : tasks_) tasks.push_back(task);
  return tasks;
}

RoundReport RoundLog::WaitFor(const std::function<bool(const RoundReport&)>& wanted) const {
  std::unique_lock lock(mutex_);
  RoundReport found;
  std::size_t seen = 0;
  const bool came = changed_.wait_for(lock, std::chrono::milliseconds(kNetworkLimitMs), [&] {
    for (; seen < reports_.size(); ++seen) {
      if (!wanted(reports_[seen])) continue;
      found = reports_[seen];
      return true;
    }
    return false;
  });
  EXPECT_TRUE(came) << "no such report among " << reports_.size();
  return found;
}

RoundReport RoundLog::WaitForRound(RoundNumber round) const {
  return WaitFor([round](const RoundReport& report) { return report.round == round; });
}

std::string OutcomeOf(const RoundReport& report, const ClientId& client) {
  for (const ClientReport& each : report.clients) {
    if (each.client == client) return each.outcome;
  }
  return "absent";
}

// ---- LinkedClient.

LinkedClient::LinkedClient(LinkedClientOptions options)
    : wrap([](std::unique_ptr<Transport> transport) { return transport; }),
      options_(std::move(options)),
      link_(FaultProxy::Start(options_.coordinator, options_.seed).value()),
      state_(ClientState::Open(PosixFileSystem(), options_.state_directory).value()),
      trainer_(options_.examples, options_.ledger) {}

void LinkedClient::Start() {
  transport_ = wrap(MakeGrpcTransport(link_->address(), {}, options_.keepalive).value());
  ClientLoopOptions loop = options_.loop;
  loop.coordinator = link_->address();
  loop.build_spec = [spec = options_.spec](const std::string&,
                                           const std::map<std::string, std::string>&) {
    return Result<ModelSpec>(spec);
  };
  loop_ = std::make_unique<ClientLoop>(*transport_, trainer_, *state_, clock_, std::move(loop));
  thread_ = std::thread([this] { outcome_ = loop_->Run(); });
}

void LinkedClient::Crash() {
  if (loop_ == nullptr) return;
  transport_->CancelAll();
  loop_->Stop();
  if (thread_.joinable()) thread_.join();
  loop_.reset();
}

ClientOutcome LinkedClient::Join() {
  if (thread_.joinable()) thread_.join();
  return outcome_;
}

// ---- NetworkFleet.

NetworkFleet::NetworkFleet(NetworkFleetOptions chosen) : options(std::move(chosen)) {
  run_directory_ = RunDirectory::Open(PosixFileSystem(), directory.File("run")).value();
  core_ = CoordinatorCore::Start(options.core, PosixFileSystem(), *run_directory_, clock_, &log)
              .value();
  gate_ = Gatekeeper::Open(PosixFileSystem(), run_directory_->path(), {}).value();
  server_ =
      GrpcServer::Start(*core_, *gate_, "127.0.0.1:0", {.keepalive = options.keepalive}).value();
  for (int i = 0; i < options.trainers; ++i) {
    LinkedClientOptions client{.coordinator = server_->address(),
                               .seed = MixKey({options.seed, static_cast<std::uint64_t>(i)}),
                               .spec = options.core.run.spec,
                               .state_directory = directory.File("client-" + std::to_string(i)),
                               .examples = 10 * (i + 1),
                               .keepalive = options.keepalive,
                               .ledger = &ledger};
    client.loop.name = "client-" + std::to_string(i);
    client.loop.profile.max_experts =
        options.max_experts.empty() ? 1 : options.max_experts[static_cast<std::size_t>(i)];
    client.loop.measure_bandwidth = false;
    client.loop.retry_initial_ms = 5;
    client.loop.retry_max_ms = 100;
    clients_.push_back(std::make_unique<LinkedClient>(std::move(client)));
  }
}

NetworkFleet::~NetworkFleet() {
  for (const auto& client : clients_) client->Crash();
  // The server answers from the core's callbacks, so that it must end first.
  server_.reset();
}

void NetworkFleet::Start() {
  for (const auto& client : clients_) client->Start();
}

std::string NetworkFleet::Status() {
  std::promise<std::string> status;
  core_->Status([&](const Result<std::string>& json) { status.set_value(json.ok() ? *json : ""); });
  return status.get_future().get();
}

void NetworkFleet::WaitForStatus(const std::string& what,
                                 const std::function<bool(const std::string&)>& wanted) {
  const Milliseconds until_ms = clock_.NowMs() + kNetworkLimitMs;
  std::string status = Status();
  while (!wanted(status)) {
    ASSERT_LT(clock_.NowMs(), until_ms) << what << " did not come: " << status;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    status = Status();
  }
}

}  // namespace fedmoe
