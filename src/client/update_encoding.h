// From what training gave to what is sent: the encoding that the task asks for, and error feedback.
// Client and simulation share it, so that both send the same bytes.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "client/trainer.h"
#include "common/result.h"
#include "storage/update_format.h"

namespace fedmoe {

// A trained update, ready to be sent any number of times.
struct PreparedUpdate {
  struct Block {
    int parameter = 0;
    std::vector<float> delta;  // as it is, where `encoded` has no payload
    EncodedBlock encoded;
  };
  TrainingFeedback feedback;
  std::vector<Block> blocks;
  std::vector<std::byte> state;  // of the client, tentative

  // Refers to the blocks.
  std::vector<OutgoingBlock> Outgoing() const;
};

// Client state is the trainer's own, and in a run whose tasks (evaluations too) ask for topk:
//
//   trainer_bytes u64 | trainer's state | (parameter u32 | elements u64 | float32 x elements)*
//
// the residual of every block of topk that the task trains or holds: what was not sent so far.
// Little-endian. Residuals of experts that the client no longer holds are dropped: a client never
// keeps more than it could hold, and what is left of an expert's old version would come too late.

// The trainer's part of the committed `state`. DATA_LOSS where it is not one of this form.
Result<std::span<const std::byte>> TrainerState(const TaskAssignment& task,
                                                std::span<const std::byte> state);

// Encodes the result of training `task` from the committed client `state`. Draws are keyed (seed,
// client, round, block): the same task and state give the same bytes. OUT_OF_RANGE names a block
// that is not finite or does not fit its encoding. A second task in the same attempt takes no
// residual and leaves no state: what top-k does not send of its experts is lost.
Result<PreparedUpdate> PrepareUpdate(const TaskAssignment& task, const ModelSpec& spec,
                                     std::span<const std::byte> state, TrainResult result);

}  // namespace fedmoe
