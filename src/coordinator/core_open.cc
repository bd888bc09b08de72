// Starting a run, and going on with one.
#include <limits>
#include <random>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "common/thread_loop.h"
#include "coordinator/aggregator.h"
#include "coordinator/core.h"
#include "storage/lines.h"

namespace fedmoe {
namespace {

constexpr int kSyncThreads = 4;
constexpr std::uint64_t kMaxSummaryBytes = std::uint64_t{1} << 20;

}  // namespace

Result<std::unique_ptr<CoordinatorCore>> CoordinatorCore::Start(CoreOptions options,
                                                                FileSystem& files,
                                                                RunDirectory& directory,
                                                                const Clock& clock,
                                                                CoreObserver* observer) {
  options.run.alignment.parallel = LoopOnThreads(options.worker_threads);
  std::unique_ptr<CoordinatorCore> core(
      new CoordinatorCore(std::move(options), files, directory, clock, observer));
  FEDMOE_RETURN_IF_ERROR(core->Open());
  core->thread_ = std::thread([raw = core.get()] { raw->Loop(); });
  return core;
}

fedmoe::Status CoordinatorCore::Open() {
  FEDMOE_RETURN_IF_ERROR(ValidateModelSpec(options_.run.spec));
  // First of all: what is in no use may be what the disk lacks.
  FEDMOE_RETURN_IF_ERROR(Spool::RemoveUnfinished(files_, directory_.SpoolPath()));
  FEDMOE_ASSIGN_OR_RETURN(journal_, Journal::Open(directory_.JournalPath(), options_.journal_hook,
                                                  options_.durability));
  FEDMOE_ASSIGN_OR_RETURN(std::optional<RecoveredRun> recovered, journal_->Recover());
  // Before the checkpoints are read, which are then of another model.
  if (recovered) FEDMOE_RETURN_IF_ERROR(CheckStoredSpec());
  pool_ = std::make_shared<WorkerPool>(options_.worker_threads);
  syncs_ = std::make_unique<WorkerPool>(kSyncThreads);
  writer_ = std::make_unique<WorkerPool>(1);
  origin_ms_ = clock_.NowMs();

  if (recovered) return ContinueRun(std::move(*recovered));

  FEDMOE_RETURN_IF_ERROR(OpenFiles(-1));
  FEDMOE_ASSIGN_OR_RETURN(const Manifest initial, StageInitial());
  FEDMOE_RETURN_IF_ERROR(store_->Commit(initial));
  // Of this run alone: clients keep state and finished updates by it, which another run with the
  // same seed and model must not be given.
  std::random_device source;
  run_id_ = Sha256Of(options_.run_name + "/" + std::to_string(source()) + "/" +
                     std::to_string(source()) + "/" + initial.model_digest)
                .substr(0, 16);
  FEDMOE_RETURN_IF_ERROR(journal_->SetFact("run_id", run_id_));
  FEDMOE_RETURN_IF_ERROR(journal_->SetFact("spec_digest", spec_digest_));
  FEDMOE_RETURN_IF_ERROR(journal_->SetFact("version", kVersion));
  state_ = InitialState(options_.run, initial.Digests());
  return journal_->Snapshot(state_);
}

// `newest`: the version that the journal knows; negative before the first.
fedmoe::Status CoordinatorCore::OpenFiles(ModelVersion newest) {
  const std::string checkpoints = directory_.CheckpointsPath();
  FEDMOE_ASSIGN_OR_RETURN(
      kept_, KeptFiles::Open(files_, checkpoints, {.segment_bytes = options_.segment_bytes}));
  FEDMOE_RETURN_IF_ERROR(kept_->Restore(quick_files_, newest));
  FEDMOE_ASSIGN_OR_RETURN(store_, ShardStore::Open(quick_files_, checkpoints, options_.run.spec,
                                                   {.newest = newest, .restored = kept_->Names()}));
  FEDMOE_RETURN_IF_ERROR(SettleKept());
  if (options_.run.training.download.encoded()) {
    FEDMOE_ASSIGN_OR_RETURN(encoded_, EncodedStore::Open(quick_files_, directory_.EncodedPath(),
                                                         options_.run.spec, *store_));
  }
  FEDMOE_ASSIGN_OR_RETURN(spool_, Spool::Open(files_, directory_.SpoolPath(),
                                              {.segment_update_bytes = options_.small_bytes,
                                               .incoming = quick_owner_,
                                               .spares = options_.spares,
                                               .segment_bytes = options_.segment_bytes}));
  return fedmoe::Status::Ok();
}

// What an earlier process kept stands by itself from here on, so that no record of it can ever take
// the place of what this one makes.
fedmoe::Status CoordinatorCore::SettleKept() {
  FEDMOE_RETURN_IF_ERROR(kept_->Settle(quick_files_, std::numeric_limits<ModelVersion>::max()));
  FEDMOE_RETURN_IF_ERROR(kept_->Seal());
  return files_.SyncDirectory(directory_.CheckpointsPath());
}

fedmoe::Status CoordinatorCore::CheckStoredSpec() const {
  FEDMOE_ASSIGN_OR_RETURN(const std::optional<std::string> stored_spec,
                          journal_->Fact("spec_digest"));
  if (stored_spec != spec_digest_) {
    return FailedPrecondition(
        "the run's model differs from the configuration's: its spec digest is " +
        stored_spec.value_or("not known") + ", this one's " + spec_digest_);
  }
  return fedmoe::Status::Ok();
}

Result<Manifest> CoordinatorCore::StageInitial() {
  const RunOptions& run = options_.run;
  if (options_.upcycle.checkpoint.empty()) return StageInitialModel(run.spec, run.seed, *store_);
  FEDMOE_ASSIGN_OR_RETURN(Upcycling upcycling, Upcycling::Open(files_, options_.upcycle, run.spec));
  if (!upcycling.unused().empty()) {
    spdlog::warn("{}: no block of the model starts from {}", options_.upcycle.checkpoint,
                 fmt::join(upcycling.unused(), ", "));
  }
  // For whoever asks where the run came from. A run that goes on has its model and reads no other.
  FEDMOE_RETURN_IF_ERROR(journal_->SetFact("upcycle_digest", upcycling.digest()));
  FEDMOE_ASSIGN_OR_RETURN(Manifest initial,
                          StageInitialModel(run.spec, run.seed, *store_, &upcycling));
  spdlog::info("started from the dense model in {} ({})", options_.upcycle.checkpoint,
               upcycling.digest());
  return initial;
}

fedmoe::Status CoordinatorCore::ContinueRun(RecoveredRun recovered) {
  FEDMOE_ASSIGN_OR_RETURN(const std::optional<std::string> run_id, journal_->Fact("run_id"));
  run_id_ = run_id.value_or("");
  FEDMOE_RETURN_IF_ERROR(ReadHistory());

  state_ = std::move(recovered.snapshot);
  base_ms_ = state_.now_ms;
  for (const Event& event : recovered.events) {
    StepResult result = Step(std::move(state_), event, options_.run);
    state_ = std::move(result.state);
    // Reports are written once, whether or not they were before the restart.
    for (Action& action : result.actions) {
      if (Report* report = std::get_if<Report>(&action)) On(*report);
    }
  }
  FEDMOE_RETURN_IF_ERROR(OpenFiles(state_.version));
  clean_up_due_ = true;  // what the last process left to do
  events_ = recovered.events.size();
  // The coordinator's own clock stood still while none ran.
  base_ms_ = state_.now_ms;
  spdlog::info("run {} goes on: version {}, {}, {} events replayed", options_.run_name,
               state_.version, PhaseName(state_.phase), recovered.events.size());
  const bool completed = state_.phase == Phase::kFinished && state_.status == RunStatus::kCompleted;
  if (completed && state_.version >= options_.run.rounds) FEDMOE_RETURN_IF_ERROR(ContinueTheEnd());
  for (Action& action : Outstanding(state_, options_.run)) Execute(std::move(action));
  Handle(Resumed{.at_ms = Now()});
  for (const auto& [id, client] : state_.clients) {
    if (client.connected) sessions_[id] = client.session;
  }
  // At once: the first command may be long in coming.
  Flush();
  return fatal_;
}

// The last round is committed. A crash or a full disk may have come before all that tells of it was
// written, or before the clients, who wait for the coordinator, knew.
fedmoe::Status CoordinatorCore::ContinueTheEnd() {
  FEDMOE_RETURN_IF_ERROR(KeepHouseNow());
  FEDMOE_ASSIGN_OR_RETURN(const std::optional<std::string> told, journal_->Fact(kToldFact));
  if (told != std::to_string(state_.version)) return fedmoe::Status::Ok();
  if (!SummarySaysCompleted()) Conclude(state_.status, state_.status_detail);
  return FailedPrecondition("the run in " + directory_.path() + " is completed (" +
                            std::to_string(state_.version) +
                            " rounds); raise run.rounds to train on, or choose another directory");
}

bool CoordinatorCore::SummarySaysCompleted() const {
  const Result<std::string> text =
      ReadFile(files_, JoinPath(directory_.path(), "summary.json"), kMaxSummaryBytes);
  if (!text.ok()) return false;
  const nlohmann::json summary = nlohmann::json::parse(*text, nullptr, false);
  return summary.is_object() && summary.contains("status") &&
         summary["status"] == RunStatusName(RunStatus::kCompleted);
}

fedmoe::Status CoordinatorCore::ReadHistory() {
  const std::string path = JoinPath(directory_.path(), "rounds.jsonl");
  if (!files_.Exists(path)) return fedmoe::Status::Ok();
  const auto read = [this](std::string_view text) {
    const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
    if (!line.is_object()) return fedmoe::Status::Ok();
    const auto number = [&line](const char* key) -> std::optional<double> {
      const auto value = line.find(key);
      return value != line.end() && value->is_number() ? std::optional(value->get<double>())
                                                       : std::nullopt;
    };
    summary_.final_accuracy = number("global_accuracy");
    if (summary_.final_accuracy > summary_.best_accuracy)
      summary_.best_accuracy = summary_.final_accuracy;
    summary_.personalised_accuracy = number("personalised_accuracy");
    summary_.final_loss = number("global_loss");
    if (!summary_.final_loss) summary_.final_loss = number("personalised_loss");
    summary_.load_cv = number("cumulative_load_cv").value_or(0.0);
    summary_.bytes_down += static_cast<std::uint64_t>(number("bytes_down").value_or(0.0));
    summary_.bytes_up += static_cast<std::uint64_t>(number("bytes_up").value_or(0.0));
    earlier_wall_s_ += number("seconds").value_or(0.0);
    return fedmoe::Status::Ok();
  };
  return ForEachLine(files_, path, read).status();
}

}  // namespace fedmoe
