#include "federation/training_options.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fedmoe {

double LearningRateAt(const TrainingOptions& options, RoundNumber round, RoundNumber rounds) {
  if (options.schedule == LearningRateSchedule::kConstant || rounds <= 1) {
    return options.learning_rate;
  }
  const double progress =
      std::clamp(static_cast<double>(round - 1) / static_cast<double>(rounds - 1), 0.0, 1.0);
  const double fraction = options.final_learning_rate_fraction;
  return options.learning_rate *
         (fraction + (1.0 - fraction) * 0.5 * (1.0 + std::cos(std::numbers::pi * progress)));
}

}  // namespace fedmoe
