// The experts' FFNs in autograd against a plain loop over tokens and slots in float64.
#include "moe/expert_ffn.h"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "moe/torch.h"
#include "tests/moe/model_fixture.h"

namespace fedmoe {
namespace {

constexpr ExpertActivation kActivations[] = {ExpertActivation::kRelu, ExpertActivation::kGelu,
                                             ExpertActivation::kSilu, ExpertActivation::kSwiGlu};
constexpr std::int64_t kTokens = 23;
constexpr std::int64_t kSlots = 3;
constexpr std::int64_t kWidth = 10;
constexpr std::int64_t kHidden = 7;
constexpr int kExperts = 4;
constexpr int kIdle = 2;         // chosen by no token
constexpr float kBefore = 0.5F;  // what stands in every gradient at first

torch::Tensor MakeParameter(at::IntArrayRef shape, CounterRng& rng) {
  torch::Tensor parameter = RandomTensor(shape, rng, 0.6).requires_grad_();
  parameter.mutable_grad() = torch::full(shape, kBefore);
  return parameter;
}

FfnParameters MakeExpert(ExpertActivation activation, CounterRng& rng) {
  FfnParameters expert;
  expert.up = MakeParameter({kHidden, kWidth}, rng);
  expert.down = MakeParameter({kWidth, kHidden}, rng);
  if (activation == ExpertActivation::kSwiGlu) {
    expert.gate = MakeParameter({kHidden, kWidth}, rng);
  } else {
    expert.up_bias = MakeParameter({kHidden}, rng);
    expert.down_bias = MakeParameter({kWidth}, rng);
  }
  return expert;
}

std::vector<torch::Tensor> PartsOf(const FfnParameters& expert) {
  std::vector<torch::Tensor> parts = {expert.up, expert.down};
  for (const torch::Tensor& part : {expert.gate, expert.up_bias, expert.down_bias}) {
    if (part.defined()) parts.push_back(part);
  }
  return parts;
}

torch::Tensor InFloat64(const torch::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  return tensor.detach().to(torch::kFloat64).requires_grad_();
}

FfnParameters InFloat64(const FfnParameters& expert) {
  return {InFloat64(expert.gate), InFloat64(expert.up), InFloat64(expert.up_bias),
          InFloat64(expert.down), InFloat64(expert.down_bias)};
}

torch::Tensor Activate(ExpertActivation activation, const torch::Tensor& x) {
  if (activation == ExpertActivation::kRelu) return x * (x > 0.0);
  if (activation == ExpertActivation::kGelu)
    return 0.5 * x * (1.0 + torch::erf(x / std::sqrt(2.0)));
  return x / (1.0 + torch::exp(-x));
}

// One FFN on one token, by its formula.
torch::Tensor PlainFfn(ExpertActivation activation, const FfnParameters& expert,
                       const torch::Tensor& token) {
  torch::Tensor hidden = expert.up.mv(token);
  if (activation == ExpertActivation::kSwiGlu) {
    return expert.down.mv(Activate(activation, expert.gate.mv(token)) * hidden);
  }
  return expert.down.mv(Activate(activation, hidden + expert.up_bias)) + expert.down_bias;
}

// A layer's worth of experts, tokens and slots, in float32 and again in float64.
struct ExpertCase {
  explicit ExpertCase(ExpertActivation with, std::uint64_t seed) : activation(with), rng(seed) {
    for (int e = 0; e < kExperts; ++e) experts.push_back(MakeExpert(activation, rng));
    tokens = RandomTensor({kTokens, kWidth}, rng).requires_grad_();
    weights = RandomTensor({kTokens, kSlots}, rng).requires_grad_();
    direction = RandomTensor({kTokens, kWidth}, rng);
    slots = RandomIds({kTokens, kSlots}, kExperts + 1, rng) - 1;
    slots.masked_fill_(slots == kIdle, -1);
    slots[0].fill_(-1);  // a token that no expert takes
  }

  torch::Tensor Run() const { return RunExperts(activation, experts, tokens, slots, weights); }
  void RunAndGoBack() const { (Run() * direction).sum().backward(); }

  // Fills the plain_ gradients and returns y.
  torch::Tensor RunPlainly() {
    for (const FfnParameters& expert : experts) plain_experts.push_back(InFloat64(expert));
    plain_tokens = InFloat64(tokens);
    plain_weights = InFloat64(weights);
    std::vector<torch::Tensor> rows;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      torch::Tensor row = torch::zeros({kWidth}, torch::kFloat64);
      for (std::int64_t j = 0; j < kSlots; ++j) {
        const auto expert = slots[t][j].item<std::int64_t>();
        if (expert < 0) continue;
        row = row + plain_weights[t][j] * PlainFfn(activation,
                                                   plain_experts[static_cast<std::size_t>(expert)],
                                                   plain_tokens[t]);
      }
      rows.push_back(row);
    }
    const torch::Tensor y = torch::stack(rows);
    (y * direction).sum().backward();
    return y;
  }

  ExpertActivation activation;
  CounterRng rng;
  std::vector<FfnParameters> experts, plain_experts;
  torch::Tensor tokens, weights, slots, direction, plain_tokens, plain_weights;
};

void ExpectClose(const torch::Tensor& is, const torch::Tensor& expected, const char* what) {
  const torch::Tensor difference = is.detach().to(torch::kFloat64) - expected.detach();
  EXPECT_LE(difference.norm().item<double>(), 1e-5 * expected.norm().item<double>()) << what;
}

// `times` backward passes were added to what stood there.
void ExpectGradients(const ExpertCase& c, double times) {
  for (int e = 0; e < kExperts; ++e) {
    SCOPED_TRACE("expert " + std::to_string(e));
    const auto index = static_cast<std::size_t>(e);
    const std::vector<torch::Tensor> parts = PartsOf(c.experts[index]);
    const std::vector<torch::Tensor> plain = PartsOf(c.plain_experts[index]);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (e == kIdle) {
        EXPECT_TRUE(parts[i].grad().eq(kBefore).all().item<bool>());
      } else {
        ExpectClose(parts[i].grad(), times * plain[i].grad() + kBefore, "parameter");
      }
    }
  }
}

TEST(RunExperts, ValuesAndAllGradientsEqualThePlainLoop) {
  for (const ExpertActivation activation : kActivations) {
    for (std::uint64_t seed = 1; seed <= 2; ++seed) {
      SCOPED_TRACE("activation " + std::to_string(static_cast<int>(activation)) + ", seed " +
                   std::to_string(seed));
      ExpertCase c(activation, seed);
      const torch::Tensor y = c.Run();
      ExpectClose(y, c.RunPlainly(), "y");
      EXPECT_EQ(y[0].abs().sum().item<float>(), 0.0F);
      (y * c.direction).sum().backward();
      ExpectClose(c.tokens.grad(), c.plain_tokens.grad(), "tokens");
      ExpectClose(c.weights.grad(), c.plain_weights.grad(), "weights");
      ExpectGradients(c, 1.0);
    }
  }
}

TEST(RunExperts, GradientsAddUpOverTwoPasses) {
  for (const ExpertActivation activation : kActivations) {
    ExpertCase c(activation, 5);
    c.RunPlainly();
    c.RunAndGoBack();
    c.RunAndGoBack();
    ExpectGradients(c, 2.0);
    // Two passes under way at once keep what each needs for itself.
    const torch::Tensor first = c.Run();
    const torch::Tensor second = c.Run();
    ((first + second) * c.direction).sum().backward();
    ExpectGradients(c, 4.0);
  }
}

TEST(RunExperts, EvaluationGivesTheSameValuesAndKeepsNoHistory) {
  for (const ExpertActivation activation : kActivations) {
    const ExpertCase c(activation, 6);
    const torch::Tensor trained = c.Run();
    const torch::NoGradGuard no_gradient;
    const torch::Tensor evaluated = c.Run();
    EXPECT_TRUE(evaluated.equal(trained));
    EXPECT_TRUE(trained.requires_grad());
    EXPECT_FALSE(evaluated.requires_grad());
  }
}

TEST(RunExperts, TokensNeedNoGradient) {
  ExpertCase c(ExpertActivation::kRelu, 7);
  c.RunPlainly();
  c.tokens = c.tokens.detach();
  c.RunAndGoBack();
  EXPECT_FALSE(c.tokens.grad().defined());
  ExpectClose(c.weights.grad(), c.plain_weights.grad(), "weights");
  ExpectGradients(c, 1.0);
}

TEST(RunExperts, TakesTensorsThatAreNotContiguous) {
  ExpertCase c(ExpertActivation::kGelu, 8);
  const torch::Tensor expected = c.Run();
  const auto turned = [](const torch::Tensor& tensor) {
    return tensor.detach().t().contiguous().t();
  };
  EXPECT_TRUE(
      RunExperts(c.activation, c.experts, turned(c.tokens), turned(c.slots), turned(c.weights))
          .equal(expected));
}

TEST(RunExperts, WithoutAnExpertItThrows) {
  EXPECT_THROW(RunExperts(ExpertActivation::kRelu, {}, torch::zeros({1, 2}),
                          torch::zeros({1, 1}, torch::kInt64), torch::zeros({1, 1})),
               c10::Error);
}

TEST(RunDenseFfn, IsOneExpertOverAllTokens) {
  for (const ExpertActivation activation : kActivations) {
    ExpertCase c(activation, 9);
    const FfnParameters plain = InFloat64(c.experts[0]);
    const torch::Tensor y = RunDenseFfn(activation, c.experts[0], c.tokens);
    const torch::Tensor tokens = InFloat64(c.tokens);
    std::vector<torch::Tensor> rows;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      rows.push_back(PlainFfn(activation, plain, tokens[t]));
    }
    const torch::Tensor expected = torch::stack(rows);
    ExpectClose(y, expected, "y");
    (y * c.direction).sum().backward();
    (expected * c.direction).sum().backward();
    ExpectClose(c.tokens.grad(), tokens.grad(), "tokens");
    ExpectClose(c.experts[0].up.grad(), plain.up.grad() + kBefore, "up");
    ExpectClose(c.experts[0].down.grad(), plain.down.grad() + kBefore, "down");
  }
}

}  // namespace
}  // namespace fedmoe
