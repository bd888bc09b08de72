// A unit of work for one client.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/ids.h"
#include "federation/training_options.h"

namespace fedmoe {

enum class TaskKind { kTrain, kEvaluate };
enum class ClientRole { kTrainer, kEvaluator };

// One shard of a model version, by content, and how it travels.
struct ShardReference {
  int shard = 0;
  Digest digest;           // of its float32 values
  std::int64_t bytes = 0;  // as it travels; with zstd the most
  Encoding encoding = Encoding::kFloat32;
  bool zstd = false;
  DownloadOptions download() const { return {.encoding = encoding, .zstd = zstd}; }
  bool encoded() const { return download().encoded(); }
  bool operator==(const ShardReference&) const = default;
};

// Names what travels: the digest, and of an encoded shard also the shard and how it is encoded
// ("DIGEST.trunk.int8", "DIGEST.expert.3.f16.zstd"). Equal names, equal bytes.
std::string ShardKey(const ShardReference& shard);

// The first 8 bytes of a digest, most significant first.
std::uint64_t DigestPrefix(const Digest& digest);

struct TaskAssignment {
  TaskId task = 0;
  TaskKind kind = TaskKind::kTrain;
  ClientId client;
  RoundNumber round =
      0;            // train: the round that the update belongs to; evaluate: the version evaluated
  int attempt = 1;  // of the round
  ModelVersion version = 0;            // the model to start from
  std::vector<ExpertIndex> experts;    // held, ascending; an evaluator holds all that are trained
  std::vector<ShardReference> shards;  // trunk, then the experts held
  TrainingOptions training;            // with the round's learning rate already in learning_rate
  std::uint64_t seed = 0;              // the run's seed: key for every draw of the client
  Milliseconds timeout_ms = 0;         // from receipt; 0 for none
  TaskId last_committed_task = 0;  // the client's last training task that a committed round merged;
                                   // state of any later is void
  // Of a second task in the same attempt, for an expert whose holder vanished: the client's first,
  // which was accepted; 0: this is the first. The trunk and the client's state are the first
  // task's: of a second one only the experts count, and it leaves no state.
  TaskId follows = 0;
};

enum class CancelReason {
  kRoundOver,  // committed or past its deadline without this task
  kRoundAborted,
  kSuperseded,  // another session of the client took over
  kRunOver,
  kTimedOut,  // the client was given up: no sign of life
};
const char* CancelReasonName(CancelReason reason);

}  // namespace fedmoe
