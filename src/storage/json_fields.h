// The fields of every struct that RoundState and Event consist of, in the order of declaration.
#pragma once

#include "federation/round_events.h"
#include "federation/round_state.h"
#include "storage/json_codec.h"

namespace fedmoe {

template <>
inline constexpr int kLastEnumerator<Phase> = static_cast<int>(Phase::kFinished);
template <>
inline constexpr int kLastEnumerator<RunStatus> = static_cast<int>(RunStatus::kFailed);
template <>
inline constexpr int kLastEnumerator<ClientRole> = static_cast<int>(ClientRole::kEvaluator);
template <>
inline constexpr int kLastEnumerator<CapacityReason> =
    static_cast<int>(CapacityReason::kTrunkDeadline);
template <>
inline constexpr int kLastEnumerator<AlignmentStrategy> =
    static_cast<int>(AlignmentStrategy::kBalanced);
template <>
inline constexpr int kLastEnumerator<AlignmentSolver> = static_cast<int>(AlignmentSolver::kPrices);
template <>
inline constexpr int kLastEnumerator<AssignmentReason> =
    static_cast<int>(AssignmentReason::kExplored);
template <>
inline constexpr int kLastEnumerator<TaskKind> = static_cast<int>(TaskKind::kEvaluate);
template <>
inline constexpr int kLastEnumerator<TaskStatus> = static_cast<int>(TaskStatus::kExpired);
template <>
inline constexpr int kLastEnumerator<RejectReason> = static_cast<int>(RejectReason::kBadFeedback);
template <>
inline constexpr int kLastEnumerator<LocalOptimizer> = static_cast<int>(LocalOptimizer::kAdamW);
template <>
inline constexpr int kLastEnumerator<LearningRateSchedule> =
    static_cast<int>(LearningRateSchedule::kCosine);
template <>
inline constexpr int kLastEnumerator<Encoding> = static_cast<int>(Encoding::kTopK);
template <>
inline constexpr int kLastEnumerator<CellState> = static_cast<int>(CellState::kAbandoned);

FEDMOE_JSON_FIELDS(CapacityProfile, memory_bytes, compute_flops_per_s, down_bytes_per_s,
                   up_bytes_per_s, examples, max_experts, device)
FEDMOE_JSON_FIELDS(CapacityDecision, experts, fits_trunk, reason, memory_bytes, round_s)
FEDMOE_JSON_FIELDS(TrainingFeedback, examples, steps, train_loss, train_accuracy, tokens,
                   expert_loss, expert_accuracy, affinity, train_s, down_bytes_per_s,
                   up_bytes_per_s)
FEDMOE_JSON_FIELDS(UploadOptions, encoding, top_k_fraction, zstd)
FEDMOE_JSON_FIELDS(DownloadOptions, encoding, zstd)
FEDMOE_JSON_FIELDS(TrainingOptions, optimizer, learning_rate, schedule,
                   final_learning_rate_fraction, momentum, adam_beta1, adam_beta2, adam_epsilon,
                   weight_decay, clip_norm, fedprox_mu, gate_learning_rate, held_mass_lambda,
                   balance_lambda, router_z_lambda, selection_bias_rate, gate_noise, random_flip,
                   random_crop, random_shift, trunk_lambda, batch_size, epochs, max_batches, upload,
                   download)
FEDMOE_JSON_FIELDS(ShardReference, shard, digest, bytes, encoding, zstd)
FEDMOE_JSON_FIELDS(TaskAssignment, task, kind, client, round, attempt, version, experts, shards,
                   training, seed, timeout_ms, last_committed_task, follows)
FEDMOE_JSON_FIELDS(UpdateHeader, task, client, round, total_bytes, feedback)
FEDMOE_JSON_FIELDS(Verdict, reason, detail)

FEDMOE_JSON_FIELDS(ExpertLoad, assignments, round_assignments, tokens, round_tokens, average_tokens,
                   deficit)
FEDMOE_JSON_FIELDS(LoadBounds, target, lower, upper)
FEDMOE_JSON_FIELDS(WeightedBounds, target, lower, upper)
FEDMOE_JSON_FIELDS(FitnessTable::Row, value, second, seen, second_seen, context, tried, trials)
FEDMOE_JSON_FIELDS(FitnessTable, experts, layers, rows)
FEDMOE_JSON_FIELDS(Assignment, client, expert, fitness, reason)
FEDMOE_JSON_FIELDS(AlignmentPlan, strategy, assignments, load, objective, bound, gap, cv, floor_cv,
                   coverage, bounds, relaxed, conflict, prices, solver, sweeps, repairs,
                   weighted_bounds, weighted_load, violation)
FEDMOE_JSON_FIELDS(AlignmentMemory, pinned, prices)
FEDMOE_JSON_FIELDS(ParticipationGap, since, gaps, mean)
FEDMOE_JSON_FIELDS(ParticipationTable, rows)

FEDMOE_JSON_FIELDS(ClientReport, client, profile, capacity, fitness, bonus, movement, held, experts,
                   outcome, examples, train_loss, train_s)
FEDMOE_JSON_FIELDS(Reassignment, expert, from, to, outcome)
FEDMOE_JSON_FIELDS(Metric, value, reason)
FEDMOE_JSON_FIELDS(RoundReport, round, attempts, started_ms, committed_ms, seconds,
                   connected_trainers, clients_per_round, min_clients, quorum, sat_out, clients,
                   accepted, rejected, cells, reassigned, train_loss, load, load_cv, load_cv_floor,
                   cumulative_load_cv, client_expert_information, consensus, plan, cohort,
                   global_accuracy, global_loss, personalised_accuracy, personalised_loss,
                   bytes_down, bytes_up, model_digest)

FEDMOE_JSON_FIELDS(ClientRecord, client, role, instance, session, connected, last_heard_ms, profile,
                   capacity, experts, last_committed_task, rounds_merged)
FEDMOE_JSON_FIELDS(TaskState, assignment, instance, status, reject, feedback)
FEDMOE_JSON_FIELDS(EvaluationResult, task, correct, loss, examples)
FEDMOE_JSON_FIELDS(EvaluationState, report, deadline_ms, tasks, evaluator_task, results)
FEDMOE_JSON_FIELDS(RoundState, phase, status, status_detail, now_ms, stop_requested, clients,
                   next_session, next_task, version, shards, fitness, load, participation,
                   alignment_memory, round, attempt, started_ms, first_started_ms, cohort, selected,
                   connected_trainers, plan, next_alignment_memory, tasks, cells, cell_quorum_ms,
                   new_shards, rejected, sitting_out, evaluations)

FEDMOE_JSON_FIELDS(ClientJoined, at_ms, client, role, instance, profile)
FEDMOE_JSON_FIELDS(Heartbeat, at_ms, client, session)
FEDMOE_JSON_FIELDS(ClientLeft, at_ms, client, session)
FEDMOE_JSON_FIELDS(UpdateReceived, at_ms, header, content)
FEDMOE_JSON_FIELDS(EvaluationReceived, at_ms, task, client, correct, loss, examples)
FEDMOE_JSON_FIELDS(TaskReturned, at_ms, task, client, why)
FEDMOE_JSON_FIELDS(Aggregated, at_ms, round, shards)
FEDMOE_JSON_FIELDS(AggregationFailed, at_ms, round, error)
FEDMOE_JSON_FIELDS(CheckpointWritten, at_ms, round)
FEDMOE_JSON_FIELDS(CheckpointFailed, at_ms, round, error)
FEDMOE_JSON_FIELDS(StopRequested, at_ms, drain)
FEDMOE_JSON_FIELDS(Resumed, at_ms)
FEDMOE_JSON_FIELDS(Tick, at_ms)

}  // namespace fedmoe
