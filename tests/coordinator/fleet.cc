#include "tests/coordinator/fleet.h"

#include <chrono>
#include <future>
#include <thread>

namespace fedmoe {

ModelSpec FleetSpec(int experts, int layers) {
  ModelSpec spec;
  spec.preset = "fleet";
  spec.experts = experts;
  spec.layers = layers;
  spec.top_k = 1;
  spec.gate_mode = GateMode::kSharedRows;
  spec.blocks.push_back({.name = "trunk.weight",
                         .shape = {4, 3},
                         .initializer = Initializer::kNormal,
                         .scale = 0.5,
                         .init_key = "trunk"});
  for (int layer = 0; layer < layers; ++layer) {
    const std::string name = layer == 0 ? "gate" : "gate" + std::to_string(layer);
    spec.blocks.push_back({.name = name + ".weight",
                           .shape = {spec.ExpertsPerLayer() + (layers > 1 ? 1 : 0), 2},
                           .expert = layer * spec.ExpertsPerLayer(),
                           .merge = MergeRule::kRowsByTokens,
                           .initializer = Initializer::kUniform,
                           .scale = 0.5,
                           .init_key = name});
  }
  for (int expert = 0; expert < experts; ++expert) {
    const std::string name = "experts." + std::to_string(expert);
    spec.blocks.push_back({.name = name + ".weight",
                           .shape = {5, 4},
                           .owner = BlockOwner::kExpert,
                           .expert = expert,
                           .merge = MergeRule::kByTokens,
                           .initializer = Initializer::kNormal,
                           .scale = 0.5,
                           .init_key = name});
    spec.blocks.push_back({.name = name + ".bias",
                           .shape = {3},
                           .owner = BlockOwner::kExpert,
                           .expert = expert,
                           .merge = MergeRule::kByTokens,
                           .init_key = name + ".bias"});
  }
  spec.blocks.push_back({.name = "head.bias", .shape = {5}, .init_key = "head"});
  return spec;
}

CoreOptions FleetOptions() {
  CoreOptions options;
  options.run.seed = 11;
  options.run.rounds = 3;
  options.run.deterministic = true;
  options.run.spec = FleetSpec();
  options.run.training.learning_rate = 0.1;
  options.run.participation = {.min_clients = 4,
                               .quorum = 1.0,
                               .grace_ms = 0,
                               .deadline_ms = 0,
                               .heartbeat_timeout_ms = 60'000,
                               .max_aborts = 1'000};
  options.run.evaluation.deadline_ms = 0;
  options.run_name = "fleet";
  options.poll_hold_ms = 50;
  options.heartbeat_interval_ms = 20;
  options.linger_ms = 5'000;
  // So short that even these runs write files anew.
  options.spares.least_bytes = 1;
  options.segment_bytes = 300;
  return options;
}

Status TestCoordinator::Start(CoreObserver* observer) {
  FEDMOE_ASSIGN_OR_RETURN(run_directory_, RunDirectory::Open(*files_, directory_));
  Result<std::unique_ptr<CoordinatorCore>> core =
      CoordinatorCore::Start(options, *files_, *run_directory_, *clock, observer);
  if (!core.ok()) {
    run_directory_.reset();
    return core.status();
  }
  core_ = std::move(core).value();
  slot.Set(core_.get());
  return Status::Ok();
}

void TestCoordinator::Kill() {
  slot.Set(nullptr);
  core_.reset();
  run_directory_.reset();
}

FleetClient::FleetClient(CoordinatorSlot& slot, const ModelSpec& spec, ClientLoopOptions options,
                         std::string state_directory, std::int64_t examples, AnswerLedger* ledger)
    : slot_(slot),
      spec_(spec),
      options_(std::move(options)),
      state_directory_(std::move(state_directory)),
      examples_(examples),
      ledger_(ledger) {}

void FleetClient::Start() {
  Result<std::unique_ptr<ClientState>> state =
      ClientState::Open(PosixFileSystem(), state_directory_);
  ASSERT_OK(state.status());
  state_ = std::move(state).value();
  TransportFaults faults_of_life = faults;
  faults_of_life.seed = MixKey({faults.seed, ++lives_});
  transport_ = std::make_unique<InProcessTransport>(slot_, faults_of_life);
  transport_->before_submit = before_submit;
  transport_->after_submit = after_submit;
  trainer_ = std::make_unique<FakeTrainer>(examples_, ledger_);
  trainer_->before_answer = before_answer;
  ClientLoopOptions options = options_;
  options.build_spec = [this](const std::string&, const std::map<std::string, std::string>&) {
    return Result<ModelSpec>(spec_);
  };
  loop_ = std::make_unique<ClientLoop>(*transport_, *trainer_, *state_, clock_, options);
  ended_ = false;
  thread_ = std::thread([this] {
    outcome_ = loop_->Run();
    ended_ = true;
  });
}

void FleetClient::Crash() {
  if (loop_ == nullptr) return;
  transport_->CancelAll();
  loop_->Stop();
  if (thread_.joinable()) thread_.join();
  loop_.reset();
  state_.reset();
}

ClientOutcome FleetClient::Join() {
  if (thread_.joinable()) thread_.join();
  return outcome_;
}

Fleet::Fleet(CoreOptions options, int trainers, FileSystem& files)
    : coordinator(std::move(options), directory.File("run"), files) {
  for (int i = 0; i <= trainers; ++i) {
    ClientLoopOptions client;
    client.name = i == trainers ? "evaluator" : "client-" + std::to_string(i);
    client.role = i == trainers ? ClientRole::kEvaluator : ClientRole::kTrainer;
    client.profile.max_experts = 1 + i % 3;
    client.measure_bandwidth = false;
    client.retry_initial_ms = 1;
    client.retry_max_ms = 8;
    clients.push_back(std::make_unique<FleetClient>(coordinator.slot, coordinator.options.run.spec,
                                                    client, directory.File(client.name),
                                                    10 * (i + 1), &ledger));
  }
}

void Fleet::StartClients() {
  for (const auto& client : clients) client->Start();
}

void Fleet::CrashClients() {
  for (const auto& client : clients) client->Crash();
}

void Fleet::Revive() {
  for (const auto& client : clients) {
    if (!client->ended()) continue;
    client->Crash();
    client->Start();
  }
}

bool Fleet::Knows(const ClientId& client) {
  std::promise<std::string> status;
  coordinator.core().Status([&](const Result<std::string>& text) {
    status.set_value(text.ok() ? *text : std::string());
  });
  return status.get_future().get().find("\"client\":\"" + client + "\"") != std::string::npos;
}

RunSummary Fleet::RunToEnd() {
  EXPECT_OK(coordinator.Start());
  // The evaluator first: rounds do not wait for it.
  clients.back()->Start();
  while (!Knows("evaluator")) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (std::size_t i = 0; i + 1 < clients.size(); ++i) clients[i]->Start();
  return coordinator.core().Wait();
}

}  // namespace fedmoe
