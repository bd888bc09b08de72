#include "config/coordinator_config.h"

#include <fmt/format.h>

#include "config/common_keys.h"
#include "config/fleet.h"
#include "config/schema.h"

namespace fedmoe {
namespace {

constexpr int kMaxExtent = 1 << 20;
constexpr double kDay_s = 86'400.0;

// Numbers above 0, and shares of one.
constexpr NumberRange Positive(double most) {
  return {.least = 0.0, .most = most, .above_least = true};
}
constexpr NumberRange kPositiveShare = {.least = 0.0, .most = 1.0, .above_least = true};
constexpr NumberRange kBelowHalf = {.least = 0.0, .most = 0.5, .below_most = true};
constexpr NumberRange kDecay = {.least = 0.0, .most = 1.0, .below_most = true};

void AddModel(const SchemaSection& section, ModelOptions& model) {
  section.Word("preset", model.preset, {"moe_mlp", "moe_cnn", "moe_transformer"});
  section.Integer("inputs", model.inputs, {1, kMaxExtent});
  section.Integer("classes", model.classes, {1, kMaxExtent});
  section.Integer("channels", model.channels, {0, 1024});
  section.Integer("embedding", model.embedding, {0, kMaxExtent});
  section.Integer("width", model.width, {1, kMaxExtent});
  section.Integer("depth", model.depth, {0, 256});
  section.Integer("heads", model.heads, {0, kMaxExtent});
  section.Integer("moe_layers", model.moe_layers, {0, 256});
  section.Integer("dense_width", model.dense_width, {0, kMaxExtent});
  section.Integer("expert_width", model.expert_width, {1, kMaxExtent});
  section.Integer("experts", model.experts, {1, kMaxExpertsKey});
  section.Integer("top_k", model.top_k, {1, kMaxExpertsKey});
  section.Choice<ExpertActivation>("expert_activation", model.expert_activation,
                                   {{"relu", ExpertActivation::kRelu},
                                    {"gelu", ExpertActivation::kGelu},
                                    {"silu", ExpertActivation::kSilu},
                                    {"swiglu", ExpertActivation::kSwiGlu}});
  section.Integer("shared_expert_width", model.shared_expert_width, {0, kMaxExtent});
  const SchemaSection free = section.In("zero_computation");
  free.Integer("zero", model.zero_experts, {0, 64});
  free.Integer("copy", model.copy_experts, {0, 64});
  free.Integer("constant", model.constant_experts, {0, 64});
  const SchemaSection gate = section.In("gate");
  gate.Choice<GateMode>("mode", model.gate_mode,
                        {{"shared_all", GateMode::kSharedAll},
                         {"shared_rows", GateMode::kSharedRows},
                         {"local", GateMode::kLocal}});
  gate.Choice<GateInput>("input", model.gate_input,
                         {{"token", GateInput::kToken},
                          {"sequence", GateInput::kSequence},
                          {"data", GateInput::kData}});
  gate.Choice<GateNormalisation>(
      "normalise", model.gate_normalisation,
      {{"example", GateNormalisation::kExample}, {"population", GateNormalisation::kPopulation}});
  gate.Integer("post_hoc_batches", model.post_hoc_batches, {0, kMaxExtent});
  gate.Boolean("selection_bias", model.selection_bias);
  section.Choice<ExpertInitialization>(
      "expert_initialization", model.expert_initialization,
      {{"alike", ExpertInitialization::kAlike}, {"apart", ExpertInitialization::kApart}});
  section.Number("soup", model.soup, {0.0, 1.0});
}

void AddRun(const SchemaSection& section, RunOptions& run) {
  ParticipationOptions& participation = run.participation;
  section.Integer("seed", run.seed, {});
  section.Integer("rounds", run.rounds, {1, 1'000'000});
  section.Boolean("deterministic", run.deterministic);
  section.Seconds("deadline_s", participation.deadline_ms, {0.0, 7 * kDay_s});
  section.Seconds("grace_s", participation.grace_ms, {0.0, kDay_s});
  section.Number("quorum", participation.quorum, kPositiveShare);
  section.Seconds("heartbeat_timeout_s", participation.heartbeat_timeout_ms, {0.01, kDay_s});
  section.Integer("max_aborts", participation.max_aborts, {1, 1000});
  section.Boolean("reassign", participation.reassign);
  const SchemaSection clients = section.In("clients");
  clients.Integer("per_round", participation.per_round, {0, 100'000});
  clients.Integer("min", participation.min_clients, {1, 100'000});
  clients.Choice<TooSmallPolicy>(
      "too_small", participation.too_small,
      {{"trunk_only", TooSmallPolicy::kTrunkOnly}, {"reject", TooSmallPolicy::kReject}});
}

void AddScore(const SchemaSection& section, ScoreOptions& score) {
  const SchemaSection exploration = section.In("exploration");
  exploration.Choice<ExplorationStrategy>("strategy", score.exploration.strategy,
                                          {{"none", ExplorationStrategy::kNone},
                                           {"age", ExplorationStrategy::kAge},
                                           {"ucb", ExplorationStrategy::kUcb},
                                           {"contextual", ExplorationStrategy::kContextual}});
  exploration.Number("bonus", score.exploration.bonus, {0.0, 1000.0});
  const SchemaSection movement = section.In("movement");
  movement.Number("weight", score.movement.weight, {0.0, 1000.0});
  movement.Choice<MovementCost>(
      "cost", score.movement.cost,
      {{"seconds", MovementCost::kSeconds}, {"bytes", MovementCost::kBytes}});
}

void AddAlignment(const SchemaSection& section, AlignmentOptions& alignment) {
  section.Choice<AlignmentStrategy>("strategy", alignment.strategy,
                                    {{"none", AlignmentStrategy::kNone},
                                     {"full", AlignmentStrategy::kFull},
                                     {"random", AlignmentStrategy::kRandom},
                                     {"static", AlignmentStrategy::kStatic},
                                     {"round_robin", AlignmentStrategy::kRoundRobin},
                                     {"greedy", AlignmentStrategy::kGreedy},
                                     {"load_only", AlignmentStrategy::kLoadOnly},
                                     {"balanced", AlignmentStrategy::kBalanced}});
  section.Choice<LoadUnit>("load", alignment.load.unit,
                           {{"clients", LoadUnit::kClients}, {"tokens", LoadUnit::kTokens}});
  section.Number("slack", alignment.load.slack, {0.0, 10.0});
  section.Choice<AlignmentSolver>("solver", alignment.solver,
                                  {{"auto", AlignmentSolver::kAuto},
                                   {"exact", AlignmentSolver::kExact},
                                   {"prices", AlignmentSolver::kPrices}});
  section.Boolean("relax_bounds", alignment.relax_bounds);
  section.Number("deficit_limit", alignment.load.deficit_limit, {0.0, 1000.0});
  section.Number("load_average_beta", alignment.load.average_beta, kPositiveShare);
}

void AddFitness(const SchemaSection& section, FitnessOptions& fitness) {
  section.Choice<FitnessSignal>("signal", fitness.signal,
                                {{"affinity", FitnessSignal::kAffinity},
                                 {"loss", FitnessSignal::kLoss},
                                 {"accuracy", FitnessSignal::kAccuracy},
                                 {"sum", FitnessSignal::kSum}});
  section.Number("beta", fitness.beta, kPositiveShare);
  section.Number("alpha", fitness.alpha, Positive(100.0));
  section.Choice<FitnessClaims>(
      "claims", fitness.claims,
      {{"bounded", FitnessClaims::kBounded}, {"raw", FitnessClaims::kRaw}});
  section.Number("trial_discount", fitness.trial_discount, kPositiveShare);
}

void AddTraining(const SchemaSection& section, TrainingOptions& training) {
  section.Choice<LocalOptimizer>(
      "optimizer", training.optimizer,
      {{"sgd", LocalOptimizer::kSgd}, {"adamw", LocalOptimizer::kAdamW}});
  section.Number("learning_rate", training.learning_rate, Positive(100.0));
  section.Choice<LearningRateSchedule>(
      "schedule", training.schedule,
      {{"constant", LearningRateSchedule::kConstant}, {"cosine", LearningRateSchedule::kCosine}});
  section.Number("final_learning_rate_fraction", training.final_learning_rate_fraction, {0.0, 1.0});
  section.Number("momentum", training.momentum, kDecay);
  section.Number("adam_beta1", training.adam_beta1, kDecay);
  section.Number("adam_beta2", training.adam_beta2, kDecay);
  section.Number("adam_epsilon", training.adam_epsilon, kPositiveShare);
  section.Number("weight_decay", training.weight_decay, {0.0, 10.0});
  section.Number("clip_norm", training.clip_norm, {0.0, 1e6});
  section.Number("fedprox_mu", training.fedprox_mu, {0.0, 1000.0});
  section.Number("gate_learning_rate", training.gate_learning_rate, {0.0, 1000.0});
  section.Number("held_mass_lambda", training.held_mass_lambda, {0.0, 100.0});
  section.Number("balance_lambda", training.balance_lambda, {0.0, 100.0});
  section.Number("router_z_lambda", training.router_z_lambda, {0.0, 100.0});
  section.Number("selection_bias_rate", training.selection_bias_rate, {0.0, 1.0});
  section.Number("gate_noise", training.gate_noise, {0.0, 100.0});
  section.Boolean("random_flip", training.random_flip);
  section.Integer("random_crop", training.random_crop, {0, 1024});
  section.Boolean("random_shift", training.random_shift);
  section.Number("trunk_lambda", training.trunk_lambda, {0.0, 100.0});
  section.Integer("batch_size", training.batch_size, {1, 1 << 20});
  section.Integer("epochs", training.epochs, {1, 1000});
  section.Integer("max_batches", training.max_batches, {0, 1'000'000'000});
}

void AddUpload(const SchemaSection& section, UploadOptions& upload) {
  section.Choice<Encoding>("encoding", upload.encoding,
                           {{"f32", Encoding::kFloat32},
                            {"bf16", Encoding::kBfloat16},
                            {"f16", Encoding::kFloat16},
                            {"int8", Encoding::kInt8},
                            {"int4", Encoding::kInt4},
                            {"topk", Encoding::kTopK}});
  section.Number("top_k_fraction", upload.top_k_fraction, kPositiveShare);
  section.Boolean("zstd", upload.zstd);
}

// Without topk: what it leaves out of an update comes later, of a model it would be missing.
void AddDownload(const SchemaSection& section, DownloadOptions& download) {
  section.Choice<Encoding>("encoding", download.encoding,
                           {{"f32", Encoding::kFloat32},
                            {"bf16", Encoding::kBfloat16},
                            {"f16", Encoding::kFloat16},
                            {"int8", Encoding::kInt8},
                            {"int4", Encoding::kInt4}});
  section.Boolean("zstd", download.zstd);
}

void AddAggregation(const SchemaSection& section, AggregationOptions& aggregation) {
  section.Choice<ServerOptimizer>("optimizer", aggregation.optimizer,
                                  {{"fedavg", ServerOptimizer::kFedAvg},
                                   {"fedavgm", ServerOptimizer::kFedAvgM},
                                   {"fedadam", ServerOptimizer::kFedAdam},
                                   {"fedyogi", ServerOptimizer::kFedYogi}});
  section.Choice<AggregationRule>("rule", aggregation.rule,
                                  {{"mean", AggregationRule::kMean},
                                   {"median", AggregationRule::kMedian},
                                   {"trimmed_mean", AggregationRule::kTrimmedMean},
                                   {"krum", AggregationRule::kKrum},
                                   {"multi_krum", AggregationRule::kMultiKrum},
                                   {"clip", AggregationRule::kClip}});
  section.Number("trim", aggregation.trim, kBelowHalf);
  section.Number("hostile", aggregation.hostile, kBelowHalf);
  section.Number("clip_norm", aggregation.clip_norm, {0.0, 1e30});
  section.Number("learning_rate", aggregation.learning_rate, Positive(100.0));
  section.Number("momentum", aggregation.momentum, kDecay);
  section.Number("beta2", aggregation.beta2, kDecay);
  section.Number("tau", aggregation.tau, kPositiveShare);
  section.Choice<ExpertWeighting>("expert_weighting", aggregation.expert_weighting,
                                  {{"tokens", ExpertWeighting::kTokens},
                                   {"examples", ExpertWeighting::kExamples},
                                   {"uniform", ExpertWeighting::kUniform}});
  section.Choice<ParticipationWeighting>(
      "participation", aggregation.participation,
      {{"plain", ParticipationWeighting::kPlain}, {"fedau", ParticipationWeighting::kFedAU}});
  section.Integer("gap_cutoff", aggregation.gap_cutoff, {1, 1'000'000});
  section.Number("consensus", aggregation.consensus, {0.0, 1.0});
  section.Number("consensus_information", aggregation.consensus_information, {0.0, 100.0});
}

void AddEvaluation(const SchemaSection& section, EvaluationOptions& evaluation) {
  section.Choice<EvaluationMode>("mode", evaluation.mode,
                                 {{"evaluator", EvaluationMode::kEvaluator},
                                  {"clients", EvaluationMode::kClients},
                                  {"both", EvaluationMode::kBoth},
                                  {"none", EvaluationMode::kNone}});
  section.Integer("every_rounds", evaluation.every_rounds, {1, 1'000'000});
  section.Seconds("deadline_s", evaluation.deadline_ms, {0.001, kDay_s});
}

void AddServer(const SchemaSection& section, ServerOptions& server) {
  AddAddress(section, "address", server.address);
  section.Seconds("poll_hold_s", server.poll_hold_ms, {0.01, 600.0});
  section.Seconds("heartbeat_interval_s", server.heartbeat_interval_ms, {0.001, 3600.0});
  section.Integer("max_clients", server.max_clients, {1, 100'000});
  section.Integer("max_connections", server.max_connections, {0, 1'000'000});
  section.Integer("worker_threads", server.worker_threads, {1, kMaxThreads});
  section.Boolean("allow_plaintext", server.allow_plaintext);
  const SchemaSection tls = section.In("tls");
  tls.Text("certificate", server.tls.certificate);
  tls.Text("key", server.tls.key);
  tls.Text("client_ca", server.tls.client_ca);
  tls.Text("admin", server.tls.admin);
}

// Binds every key; the keys of `fleet` and `simulation` are written only if there is a fleet.
Schema CoordinatorSchema(CoordinatorConfig& config, FleetOptions* fleet) {
  Schema schema;
  const SchemaSection root = schema.Root();
  AddName(root, config.name);
  AddModel(root.In("model"), config.model);
  const SchemaSection upcycle = root.In("model").In("upcycle");
  upcycle.Text("checkpoint", config.upcycle.checkpoint);
  upcycle.Number("noise", config.upcycle.noise, {0.0, 10.0});
  AddRun(root.In("run"), config.run);
  AddAlignment(root.In("alignment"), config.run.alignment);
  AddScore(root.In("alignment"), config.run.score);
  AddFitness(root.In("fitness"), config.run.fitness);
  AddTraining(root.In("training"), config.run.training);
  AddUpload(root.In("transfer").In("up"), config.run.training.upload);
  AddDownload(root.In("transfer").In("down"), config.run.training.download);
  AddAggregation(root.In("aggregation"), config.run.aggregation);
  AddEvaluation(root.In("evaluation"), config.run.evaluation);
  AddServer(root.In("server"), config.server);
  const SchemaSection storage = root.In("storage");
  storage.Text("directory", config.storage.directory);
  storage.Integer("keep_versions", config.storage.keep_versions, {0, 1'000'000});
  storage.Choice("durability", config.storage.durability,
                 {{"full", Durability::kFull}, {"none", Durability::kNone}});
  const SchemaSection log = root.In("log");
  AddLogLevel(log, config.log_level);
  log.Boolean("live_table", config.live_table);
  if (fleet != nullptr) {
    AddFleetKeys(root.In("fleet"), *fleet);
    AddSimulationKeys(root.In("simulation"), config.simulation);
  }

  for (const char* key : {"fleet.data.client_index", "fleet.data.partition.clients"}) {
    schema.Hint(key, "the fleet sets it for each client");
  }
  for (const char* key : {"role", "coordinator", "data", "capacity", "state_directory"}) {
    schema.Hint(key, "it belongs to a client's configuration; a local fleet is set in 'fleet'");
  }
  return schema;
}

double Seconds(Milliseconds ms) { return static_cast<double>(ms) / 1000.0; }

void CheckRun(const CoordinatorConfig& config, ReadKeys& keys) {
  const ParticipationOptions& participation = config.run.participation;
  if (config.model.top_k > config.model.experts) {
    keys.Complain({"model.top_k", "model.experts"},
                  fmt::format("model.top_k must be 1 to model.experts (got {} > {})",
                              config.model.top_k, config.model.experts));
  }
  if (config.upcycle.noise > 0.0 && config.upcycle.checkpoint.empty()) {
    keys.Complain({"model.upcycle.noise", "model.upcycle.checkpoint"},
                  fmt::format("model.upcycle.noise must be 0 without model.upcycle.checkpoint (got "
                              "{:g})",
                              config.upcycle.noise));
  }
  if (config.model.gate_normalisation == GateNormalisation::kPopulation &&
      (config.run.aggregation.optimizer != ServerOptimizer::kFedAvg ||
       config.run.aggregation.learning_rate != 1.0 ||
       config.run.aggregation.rule != AggregationRule::kMean)) {
    keys.Complain({"model.gate.normalise", "aggregation.optimizer", "aggregation.learning_rate",
                   "aggregation.rule"},
                  "model.gate.normalise population needs aggregation.optimizer fedavg, "
                  "aggregation.learning_rate 1 and aggregation.rule mean: moments are averaged, no "
                  "more");
  }
  const std::pair<const char*, Encoding> directions[] = {
      {"transfer.up.encoding", config.run.training.upload.encoding},
      {"transfer.down.encoding", config.run.training.download.encoding}};
  for (const auto& [key, encoding] : directions) {
    const bool coarse =
        encoding == Encoding::kInt8 || encoding == Encoding::kInt4 || encoding == Encoding::kTopK;
    if (!coarse || config.model.gate_normalisation != GateNormalisation::kPopulation) continue;
    keys.Complain({"model.gate.normalise", key},
                  fmt::format("model.gate.normalise population needs {} f32, bf16 or f16: moments "
                              "do not bear more rounding",
                              key));
  }
  if (participation.per_round != 0 && participation.per_round < participation.min_clients) {
    keys.Complain(
        {"run.clients.per_round", "run.clients.min"},
        fmt::format("run.clients.per_round must be 0 or at least run.clients.min (got {} < {})",
                    participation.per_round, participation.min_clients));
  }
  if (config.run.score.exploration.strategy == ExplorationStrategy::kContextual &&
      config.run.fitness.signal == FitnessSignal::kAffinity) {
    keys.Complain({"alignment.exploration.strategy", "fitness.signal"},
                  "alignment.exploration.strategy contextual predicts loss or accuracy: "
                  "fitness.signal must be loss, accuracy or sum (got affinity)");
  }
  if (config.server.heartbeat_interval_ms >= participation.heartbeat_timeout_ms) {
    keys.Complain(
        {"server.heartbeat_interval_s", "run.heartbeat_timeout_s"},
        fmt::format(
            "server.heartbeat_interval_s must be below run.heartbeat_timeout_s (got {:g} >= {:g})",
            Seconds(config.server.heartbeat_interval_ms),
            Seconds(participation.heartbeat_timeout_ms)));
  }
}

void CheckServer(const ServerOptions& server, bool has_fleet, ReadKeys& keys) {
  const ServerTlsOptions& tls = server.tls;
  if (tls.certificate.empty() != tls.key.empty()) {
    keys.Complain({"server.tls.certificate", "server.tls.key"},
                  "server.tls.certificate and server.tls.key must be given together");
  }
  if (tls.mutual() && !tls.enabled()) {
    keys.Complain({"server.tls.client_ca"},
                  "server.tls.client_ca needs server.tls.certificate and server.tls.key");
  }
  if (tls.admin.empty()) keys.Complain({"server.tls.admin"}, "server.tls.admin must not be empty");
  if (tls.enabled() && has_fleet) {
    keys.Complain(
        {"server.tls.certificate"},
        "server.tls is for clients on other machines: leave it out, or the fleet section, "
        "whose clients are started on this one");
  }
  if (server.max_connections > 0 && server.max_connections < server.max_clients) {
    keys.Complain(
        {"server.max_connections", "server.max_clients"},
        fmt::format(
            "server.max_connections must be 0, or no less than server.max_clients (got {} < {})",
            server.max_connections, server.max_clients));
  }
  if (tls.enabled() || server.allow_plaintext || IsLoopback(server.address)) return;
  keys.Complain({"server.address"},
                fmt::format("server.address must be of this machine alone without TLS (got '{}'): "
                            "set server.tls, or, within a network that you trust, "
                            "server.allow_plaintext to true",
                            server.address));
}

// Takes what the model needs to know of the data from the fleet, or asks for it.
void ResolveModel(ModelOptions& model, const FleetOptions* fleet, ReadKeys& keys) {
  if (fleet == nullptr) {
    keys.Require("model.inputs", "features of an example; a fleet's dataset would tell");
    keys.Require("model.classes", "labels that an example can have; a fleet's dataset would tell");
    return;
  }
  const DataOptions& data = fleet->data;
  const bool domains = data.dataset == DatasetKind::kDomains;
  const int inputs = InputsOf(data), classes = ClassesOf(data);
  if (inputs == 0) keys.Require("model.inputs", "features of an example; here the files decide");
  if (classes == 0) keys.Require("model.classes", "labels in use; here the files decide");
  if (!keys.Has("model.inputs") && inputs > 0) model.inputs = inputs;
  if (!keys.Has("model.classes") && classes > 0) model.classes = classes;
  const bool exact = data.dataset == DatasetKind::kImageFolder ||
                     data.dataset == DatasetKind::kCifarBinary ||
                     data.dataset == DatasetKind::kText;
  if (exact && inputs > 0 && model.inputs != inputs) {
    keys.Complain({"model.inputs"},
                  fmt::format("model.inputs must be {}, as the options of fleet.data say (got {})",
                              inputs, model.inputs));
  }
  if (data.dataset == DatasetKind::kText && model.classes != classes) {
    keys.Complain({"model.classes"},
                  fmt::format("model.classes must be {}, the ids of fleet.data.text.alphabet (got "
                              "{})",
                              classes, model.classes));
  }
  if (domains && model.inputs != data.domains.dimensions) {
    keys.Complain({"model.inputs", "fleet.data.domains.dimensions"},
                  fmt::format("model.inputs must be fleet.data.domains.dimensions (got {}, not {})",
                              model.inputs, data.domains.dimensions));
  }
  if (domains && model.classes < data.domains.classes) {
    keys.Complain(
        {"model.classes", "fleet.data.domains.classes"},
        fmt::format("model.classes must be at least fleet.data.domains.classes (got {} < {})",
                    model.classes, data.domains.classes));
  }
}

void CheckFleet(const CoordinatorConfig& config, const FleetOptions& fleet, ReadKeys& keys) {
  CheckData(fleet.data, "fleet.data.", keys);
  if (config.run.deterministic && fleet.measure_capacity) {
    keys.Complain({"run.deterministic", "fleet.capacity.measure"},
                  "run.deterministic needs declared capacity: set fleet.capacity.measure to false");
  }
}

}  // namespace

Result<CoordinatorConfig> LoadCoordinatorConfig(const ConfigSource& source) {
  FEDMOE_ASSIGN_OR_RETURN(const ConfigDocument document, ReadConfigDocument(source));
  CoordinatorConfig config;
  FleetOptions fleet;
  ReadKeys keys = CoordinatorSchema(config, &fleet).Read(document);
  const bool has_fleet = keys.HasSection("fleet");
  CheckRun(config, keys);
  CheckServer(config.server, has_fleet, keys);
  CheckSimulation(config.simulation, config.run.deterministic, keys);
  ResolveModel(config.model, has_fleet ? &fleet : nullptr, keys);
  if (has_fleet) CheckFleet(config, fleet, keys);
  FEDMOE_RETURN_IF_ERROR(JoinErrors(std::move(keys.errors)));
  if (has_fleet) config.fleet = ResolveFleet(fleet, config.server.address, config.log_level);
  return config;
}

std::string DumpCoordinatorConfig(const CoordinatorConfig& config) {
  CoordinatorConfig copy = config;
  FleetOptions fleet = DescribeFleet(config.fleet);
  return CoordinatorSchema(copy, config.fleet.empty() ? nullptr : &fleet).Write();
}

}  // namespace fedmoe
