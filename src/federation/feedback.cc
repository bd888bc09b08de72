#include "federation/feedback.h"

#include <algorithm>
#include <numeric>

#include "federation/claims.h"

namespace fedmoe {
namespace {

// Passes over the data times tokens of an example: no honest task has more of one expert.
constexpr double kMaxTokensPerExample = 1e6;
constexpr double kMaxTokens = kMaxTokensPerExample * static_cast<double>(kMaxClaimedCount);

Status CheckShare(const std::string& field, double value) {
  if (value >= 0.0 && value <= 1.0) return Status::Ok();
  return InvalidArgument("feedback." + field + " is " + NumberText(value) + ", must be 0 to 1");
}

Status CheckSize(const std::string& field, const std::vector<double>& values, int experts) {
  if (values.size() == static_cast<std::size_t>(experts)) return Status::Ok();
  return InvalidArgument("feedback." + field + " has " + std::to_string(values.size()) +
                         " entries, the model has " + std::to_string(experts) + " experts");
}

std::string Entry(const std::string& field, int expert) {
  return field + "[" + std::to_string(expert) + "]";
}

Status CheckTokens(const TrainingFeedback& feedback, int expert, const std::vector<int>& held) {
  const double tokens = feedback.tokens[static_cast<std::size_t>(expert)];
  FEDMOE_RETURN_IF_ERROR(CheckAmount("feedback." + Entry("tokens", expert), tokens, kMaxTokens));
  if (tokens > 0.0 && std::find(held.begin(), held.end(), expert) == held.end()) {
    return InvalidArgument("feedback." + Entry("tokens", expert) + " is " + NumberText(tokens) +
                           ", but the task does not hold expert " + std::to_string(expert));
  }
  const double most = static_cast<double>(feedback.examples) * kMaxTokensPerExample;
  if (tokens > most) {
    return InvalidArgument("feedback." + Entry("tokens", expert) + " is " + NumberText(tokens) +
                           ", more than " + NumberText(most) + " for " +
                           std::to_string(feedback.examples) + " examples");
  }
  return Status::Ok();
}

Status CheckAffinity(const std::vector<double>& affinity, const ModelSpec& spec) {
  if (affinity.empty()) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(CheckSize("affinity", affinity, spec.experts));
  for (int e = 0; e < spec.experts; ++e) {
    FEDMOE_RETURN_IF_ERROR(CheckShare(Entry("affinity", e), affinity[static_cast<std::size_t>(e)]));
  }
  for (int layer = 0; layer < spec.layers; ++layer) {
    const auto first = affinity.begin() + layer * spec.ExpertsPerLayer();
    const double sum = std::accumulate(first, first + spec.ExpertsPerLayer(), 0.0);
    if (sum < 0.99 || sum > 1.01) {
      const std::string of = spec.layers > 1 ? " of layer " + std::to_string(layer) : "";
      return InvalidArgument("feedback.affinity" + of + " sums to " + NumberText(sum) +
                             ", must be 0.99 to 1.01");
    }
  }
  return Status::Ok();
}

}  // namespace

Status ValidateFeedback(const TrainingFeedback& feedback, const ModelSpec& spec,
                        const std::vector<ExpertIndex>& held) {
  const int experts = spec.experts;
  FEDMOE_RETURN_IF_ERROR(CheckCount("feedback.examples", feedback.examples));
  FEDMOE_RETURN_IF_ERROR(CheckCount("feedback.steps", feedback.steps));
  FEDMOE_RETURN_IF_ERROR(CheckAmount("feedback.train_loss", feedback.train_loss, kMaxClaimedLoss));
  FEDMOE_RETURN_IF_ERROR(CheckShare("train_accuracy", feedback.train_accuracy));
  FEDMOE_RETURN_IF_ERROR(CheckSize("tokens", feedback.tokens, experts));
  FEDMOE_RETURN_IF_ERROR(CheckSize("expert_loss", feedback.expert_loss, experts));
  FEDMOE_RETURN_IF_ERROR(CheckSize("expert_accuracy", feedback.expert_accuracy, experts));
  for (int e = 0; e < experts; ++e) {
    const auto index = static_cast<std::size_t>(e);
    FEDMOE_RETURN_IF_ERROR(CheckTokens(feedback, e, held));
    FEDMOE_RETURN_IF_ERROR(CheckAmount("feedback." + Entry("expert_loss", e),
                                       feedback.expert_loss[index], kMaxClaimedLoss));
    FEDMOE_RETURN_IF_ERROR(
        CheckShare(Entry("expert_accuracy", e), feedback.expert_accuracy[index]));
  }
  FEDMOE_RETURN_IF_ERROR(CheckAffinity(feedback.affinity, spec));
  FEDMOE_RETURN_IF_ERROR(CheckAmount("feedback.train_s", feedback.train_s, kMaxClaimedSeconds));
  FEDMOE_RETURN_IF_ERROR(
      CheckRate("feedback.down_bytes_per_s", feedback.down_bytes_per_s, kMaxClaimedBytesPerSecond));
  return CheckRate("feedback.up_bytes_per_s", feedback.up_bytes_per_s, kMaxClaimedBytesPerSecond);
}

}  // namespace fedmoe
