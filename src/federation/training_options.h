// How a client trains; travels with every task and never comes from the client's own configuration.
#pragma once

#include "common/ids.h"
#include "federation/transfer_options.h"

namespace fedmoe {

enum class LocalOptimizer { kSgd, kAdamW };
enum class LearningRateSchedule { kConstant, kCosine };

struct TrainingOptions {
  LocalOptimizer optimizer = LocalOptimizer::kSgd;
  double learning_rate = 0.1;
  LearningRateSchedule schedule = LearningRateSchedule::kConstant;
  double final_learning_rate_fraction = 0.1;  // cosine: the last round's rate over the first's
  double momentum = 0.9;                      // SGD
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  double weight_decay = 0.0;
  double clip_norm = 1.0;   // of the whole gradient; 0 turns it off
  double fedprox_mu = 0.0;  // mu/2 ||w - w_global||^2; 0 turns it off
  // Of the gates' weights, which then take one step a task, against their mean gradient over its
  // batches at the values received; 0: as all parameters. A client that sees its own domain alone
  // learns within a few steps that everything is for its own experts, whatever the input, and then
  // nothing more; the mean of gradients at common values is the gradient of the whole federation.
  double gate_learning_rate = 0.0;
  double held_mass_lambda = 0.3;  // shared_all gates only; 0 turns it off
  double balance_lambda = 0.0;  // load-balancing loss (Fedus et al., 2021, arXiv 2101.03961, eq. 4)
  double router_z_lambda = 0.0;  // router z-loss (Zoph et al., 2022, arXiv 2202.08906, eq. 5)
  // Step of the loss-free selection bias (Wang et al., 2024, arXiv 2408.15664); models with
  // gate.selection_bias only.
  double selection_bias_rate = 0.001;
  double gate_noise = 0.0;  // standard deviation of the noise on the gate's logits when experts are
                            // chosen in training
  bool random_flip = false;  // images: mirrored with probability 1/2
  int random_crop = 0;       // images: px of padding on each side before a crop to size; 0 for none
  bool random_shift = false;  // text: windows start anywhere
  double trunk_lambda = 0.0;  // weight of the task's loss without any expert; 0 turns it off
  int batch_size = 32;
  int epochs = 1;
  int max_batches = 0;  // most mini-batches of a task, drawn anew each round; 0: all of its epochs
  UploadOptions upload;
  DownloadOptions download;  // stays with the coordinator: the shards of a task say it
};

// The rate of round 1 to `rounds`. Cosine: from learning_rate down to learning_rate *
// final_learning_rate_fraction at round `rounds`.
double LearningRateAt(const TrainingOptions& options, RoundNumber round, RoundNumber rounds);

}  // namespace fedmoe
