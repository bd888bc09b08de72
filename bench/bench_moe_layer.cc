// The MoE layer, forward and backward in float32, against the same products through bare
// dnnl_sgemm and against a loop of per-expert libtorch products, in one run. Prints a table for
// each shape; the last line is one JSON object.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <dlfcn.h>
#include <dnnl.h>
#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <omp.h>

#include "common/counter_rng.h"
#include "kernels/gemm.h"
#include "kernels/moe_ffn.h"
#include "moe/torch.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kSlots = 2;
constexpr std::uint64_t kSeed = 1;

struct BenchShape {
  std::string name;
  std::int64_t tokens;
  std::int64_t width;
  std::int64_t hidden;
  int experts;
  bool skewed = false;  // expert 0 has 5 times the mean load
};

// Distinct uniform choices; skewed: expert 0 takes 5 / experts of all slots.
ExpertRouting Route(const BenchShape& shape) {
  CounterRng rng(kSeed);
  std::vector<std::int64_t> chosen;
  const double busy = shape.skewed ? 5.0 * kSlots / shape.experts : 0.0;
  for (std::int64_t t = 0; t < shape.tokens; ++t) {
    const auto others = static_cast<std::uint64_t>(shape.experts - (shape.skewed ? 1 : 0));
    const auto first = static_cast<std::int64_t>(rng.NextBelow(others));
    auto second = static_cast<std::int64_t>(rng.NextBelow(others - 1));
    if (second >= first) ++second;
    const std::int64_t offset = shape.skewed ? 1 : 0;
    const bool takes_busy = static_cast<double>(t) < busy * static_cast<double>(shape.tokens);
    chosen.push_back(takes_busy ? 0 : first + offset);
    chosen.push_back(second + offset);
  }
  return RouteTokens(chosen, kSlots, shape.experts);
}

torch::Tensor Draw(std::vector<std::int64_t> sizes, double deviation) {
  return torch::randn(sizes) * deviation;
}

// One expert's parameters, gradients and rows; the kernels and libtorch share the memory.
struct BenchExpert {
  torch::Tensor up, up_bias, down, down_bias;
  torch::Tensor d_up, d_up_bias, d_down, d_down_bias;
  torch::Tensor tokens, slots;  // its rows: token, and token * slots + slot
};

// A layer, its batch and what every variant writes.
struct Bench {
  BenchShape shape;
  ExpertRouting routing;
  std::vector<BenchExpert> experts;
  torch::Tensor x, weights, dy, y, dx, d_weights;
  std::vector<ExpertWeights<float>> weight_pointers;
  std::vector<ExpertGradients<float>> gradient_pointers;
  MoeFfnSaved<float> saved;
  std::vector<float> rows_width, rows_width2, rows_hidden, rows_hidden2;  // of the bare products

  explicit Bench(const BenchShape& with) : shape(with), routing(Route(with)) {
    torch::manual_seed(kSeed);
    const std::int64_t d = shape.width;
    const std::int64_t f = shape.hidden;
    for (int e = 0; e < shape.experts; ++e) {
      BenchExpert expert{.up = Draw({f, d}, 1.0 / std::sqrt(d)),
                         .up_bias = Draw({f}, 0.1),
                         .down = Draw({d, f}, 1.0 / std::sqrt(f)),
                         .down_bias = Draw({d}, 0.1),
                         .d_up = torch::zeros({f, d}),
                         .d_up_bias = torch::zeros({f}),
                         .d_down = torch::zeros({d, f}),
                         .d_down_bias = torch::zeros({d})};
      const auto begin = routing.slot_row.begin() + routing.offsets[static_cast<std::size_t>(e)];
      std::vector<std::int64_t> rows(begin, begin + routing.RowsOf(e));
      expert.slots = torch::tensor(rows, torch::kLong);
      for (std::int64_t& row : rows) row /= kSlots;
      expert.tokens = torch::tensor(rows, torch::kLong);
      experts.push_back(expert);
    }
    for (BenchExpert& expert : experts) {
      weight_pointers.push_back({.up = expert.up.data_ptr<float>(),
                                 .up_bias = expert.up_bias.data_ptr<float>(),
                                 .down = expert.down.data_ptr<float>(),
                                 .down_bias = expert.down_bias.data_ptr<float>()});
      gradient_pointers.push_back({.up = expert.d_up.data_ptr<float>(),
                                   .up_bias = expert.d_up_bias.data_ptr<float>(),
                                   .down = expert.d_down.data_ptr<float>(),
                                   .down_bias = expert.d_down_bias.data_ptr<float>()});
    }
    x = Draw({shape.tokens, d}, 1.0);
    dy = Draw({shape.tokens, d}, 1.0);
    weights = torch::rand({shape.tokens, kSlots});
    y = torch::empty_like(x);
    dx = torch::empty_like(x);
    d_weights = torch::empty_like(weights);
    const auto rows = static_cast<std::size_t>(routing.rows());
    rows_width.assign(rows * static_cast<std::size_t>(d), 0.5F);
    rows_width2 = rows_width;
    rows_hidden.assign(rows * static_cast<std::size_t>(f), 0.5F);
    rows_hidden2 = rows_hidden;
  }
  // Useful floating-point operations of the six products of every row.
  double Flops() const {
    return 12.0 * static_cast<double>(routing.rows() * shape.width * shape.hidden);
  }
};

std::span<float> Span(const torch::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

void RunOurs(Bench& bench, int threads) {
  const MoeFfnShape shape{.width = bench.shape.width, .hidden = bench.shape.hidden};
  MoeFfnForward<float>(shape, bench.routing, bench.weight_pointers, Span(bench.x),
                       Span(bench.weights), threads, Span(bench.y), &bench.saved);
  MoeFfnBackward<float>(shape, bench.routing, bench.weight_pointers, Span(bench.x),
                        Span(bench.weights), Span(bench.dy), bench.saved, threads, Span(bench.dx),
                        Span(bench.d_weights), bench.gradient_pointers);
}

// The six products of expert e with its true number of rows, and nothing else.
void BareProducts(Bench& bench, int e) {
  const std::int64_t d = bench.shape.width;
  const std::int64_t f = bench.shape.hidden;
  const std::int64_t rows = bench.routing.RowsOf(e);
  if (rows == 0) return;
  const std::int64_t first = bench.routing.offsets[static_cast<std::size_t>(e)];
  const ExpertWeights<float>& w = bench.weight_pointers[static_cast<std::size_t>(e)];
  const ExpertGradients<float>& g = bench.gradient_pointers[static_cast<std::size_t>(e)];
  float* const narrow = bench.rows_width.data() + first * d;
  float* const narrow2 = bench.rows_width2.data() + first * d;
  float* const wide = bench.rows_hidden.data() + first * f;
  float* const wide2 = bench.rows_hidden2.data() + first * f;
  dnnl_sgemm('N', 'T', rows, f, d, 1.0F, narrow, d, w.up, d, 0.0F, wide, f);
  dnnl_sgemm('N', 'T', rows, d, f, 1.0F, wide, f, w.down, f, 0.0F, narrow2, d);
  dnnl_sgemm('N', 'N', rows, f, d, 1.0F, narrow, d, w.down, f, 0.0F, wide2, f);
  dnnl_sgemm('N', 'N', rows, d, f, 1.0F, wide2, f, w.up, d, 0.0F, narrow2, d);
  dnnl_sgemm('T', 'N', f, d, rows, 1.0F, wide2, f, narrow, d, 0.0F, g.up, d);
  dnnl_sgemm('T', 'N', d, f, rows, 1.0F, narrow, d, wide, f, 0.0F, g.down, f);
}

// oneDNN's own threads inside each product.
void RunBareInside(Bench& bench, int threads) {
  omp_set_num_threads(threads);
  for (int e = 0; e < bench.shape.experts; ++e) BareProducts(bench, e);
}

// A thread for each expert, serial products; the experts with the most rows first.
void RunBareAcross(Bench& bench, int threads) {
  std::vector<int> order(static_cast<std::size_t>(bench.shape.experts));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return bench.routing.RowsOf(a) > bench.routing.RowsOf(b); });
#pragma omp parallel num_threads(threads)
  {
    omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < bench.shape.experts; ++i) {
      BareProducts(bench, order[static_cast<std::size_t>(i)]);
    }
  }
}

// The loop over experts that people write with libtorch, its backward by hand, without autograd.
void RunTorchByHand(Bench& bench, int threads) {
  const torch::InferenceMode guard;
  omp_set_num_threads(threads);
  const std::size_t experts = bench.experts.size();
  std::vector<torch::Tensor> inputs(experts), ups(experts), hiddens(experts), outputs(experts);
  const torch::Tensor weights = bench.weights.view({-1});
  bench.y.zero_();
  for (std::size_t e = 0; e < experts; ++e) {
    const BenchExpert& expert = bench.experts[e];
    inputs[e] = bench.x.index_select(0, expert.tokens);
    hiddens[e] = torch::addmm(expert.up_bias, inputs[e], expert.up.t()).relu_();
    outputs[e] = torch::addmm(expert.down_bias, hiddens[e], expert.down.t());
    const torch::Tensor weight = weights.index_select(0, expert.slots).unsqueeze(1);
    bench.y.index_add_(0, expert.tokens, outputs[e] * weight);
  }
  bench.dx.zero_();
  torch::Tensor d_weights = bench.d_weights.view({-1});
  for (std::size_t e = 0; e < experts; ++e) {
    BenchExpert& expert = bench.experts[e];
    const torch::Tensor weight = weights.index_select(0, expert.slots).unsqueeze(1);
    const torch::Tensor dy = bench.dy.index_select(0, expert.tokens);
    d_weights.index_copy_(0, expert.slots, (dy * outputs[e]).sum(1));
    const torch::Tensor d_output = dy * weight;
    expert.d_down.addmm_(d_output.t(), hiddens[e]);
    expert.d_down_bias.add_(d_output.sum(0));
    const torch::Tensor d_up = torch::mm(d_output, expert.down).mul_(hiddens[e].gt(0));
    expert.d_up.addmm_(d_up.t(), inputs[e]);
    expert.d_up_bias.add_(d_up.sum(0));
    bench.dx.index_add_(0, expert.tokens, torch::mm(d_up, expert.up));
  }
}

// The same with autograd: parameters of their own for each expert.
void RunTorchAutograd(Bench& bench, int threads) {
  omp_set_num_threads(threads);
  torch::Tensor x = bench.x.detach().requires_grad_();
  torch::Tensor weights = bench.weights.detach().requires_grad_();
  torch::Tensor y = torch::zeros_like(bench.x);
  std::vector<torch::Tensor> leaves{x, weights};
  for (const BenchExpert& expert : bench.experts) {
    const torch::Tensor up = expert.up.detach().requires_grad_();
    const torch::Tensor up_bias = expert.up_bias.detach().requires_grad_();
    const torch::Tensor down = expert.down.detach().requires_grad_();
    const torch::Tensor down_bias = expert.down_bias.detach().requires_grad_();
    leaves.insert(leaves.end(), {up, up_bias, down, down_bias});
    const torch::Tensor input = x.index_select(0, expert.tokens);
    const torch::Tensor hidden = torch::relu(torch::addmm(up_bias, input, up.t()));
    const torch::Tensor output = torch::addmm(down_bias, hidden, down.t());
    const torch::Tensor weight = weights.view({-1}).index_select(0, expert.slots).unsqueeze(1);
    y.index_add_(0, expert.tokens, output * weight);
  }
  y.backward(bench.dy);
}

struct Variant {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;

  double Median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    const std::size_t half = sorted.size() / 2;
    return sorted.size() % 2 == 1 ? sorted[half] : 0.5 * (sorted[half - 1] + sorted[half]);
  }
};

// Runs the variants in turn, so that noise hits all alike.
void Measure(std::vector<Variant>& variants, int repetitions) {
  constexpr int kWarmUps = 3;
  for (int i = 0; i < kWarmUps + repetitions; ++i) {
    for (Variant& variant : variants) {
      const auto start = std::chrono::steady_clock::now();
      variant.run();
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
      if (i >= kWarmUps) variant.seconds.push_back(taken.count());
    }
  }
}

// The layer and the hand-written loop give the same numbers, or the comparison is void.
bool SameResults(Bench& bench, int threads) {
  const auto results = [&](auto run) {
    for (BenchExpert& e : bench.experts) {
      for (torch::Tensor* t : {&e.d_up, &e.d_up_bias, &e.d_down, &e.d_down_bias}) t->zero_();
    }
    run(bench, threads);
    std::vector<torch::Tensor> all{bench.y.clone(), bench.dx.clone(), bench.d_weights.clone()};
    for (const BenchExpert& e : bench.experts) {
      for (const torch::Tensor& t : {e.d_up, e.d_up_bias, e.d_down, e.d_down_bias}) {
        all.push_back(t.clone());
      }
    }
    return all;
  };
  const std::vector<torch::Tensor> ours = results(RunOurs);
  const std::vector<torch::Tensor> theirs = results(RunTorchByHand);
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double error = ((ours[i] - theirs[i]).norm() / theirs[i].norm()).item<double>();
    // A value before the ReLU that rounding moves across zero costs about 1e-3 in one gradient.
    if (!(error < 1e-2)) {
      fmt::print(stderr, "bench_moe_layer: result {} differs from libtorch's by {}\n", i, error);
      return false;
    }
  }
  return true;
}

struct Figures {
  double fraction = 0.0;  // of bare dnnl_sgemm's speed
  double speedup = 0.0;   // over the loop of libtorch products
};

Figures MeasureShape(const BenchShape& shape, int threads, int repetitions) {
  Bench bench(shape);
  if (!SameResults(bench, threads)) std::exit(1);
  std::vector<Variant> variants{
      {"MoE layer", [&] { RunOurs(bench, threads); }, {}},
      {"bare dnnl_sgemm, threads inside", [&] { RunBareInside(bench, threads); }, {}},
      {"bare dnnl_sgemm, experts across", [&] { RunBareAcross(bench, threads); }, {}},
      {"libtorch loop, by hand", [&] { RunTorchByHand(bench, threads); }, {}},
      {"libtorch loop, autograd", [&] { RunTorchAutograd(bench, threads); }, {}}};
  Measure(variants, repetitions);
  fmt::print("\n{}: {} tokens, top-{}, d {}, ff {}, {} experts, {} thread{}\n", shape.name,
             shape.tokens, kSlots, shape.width, shape.hidden, shape.experts, threads,
             threads == 1 ? "" : "s");
  for (const Variant& variant : variants) {
    fmt::print("  {:34} {:8.3f} ms {:8.1f} GFLOP/s\n", variant.name, variant.Median() * 1e3,
               bench.Flops() / variant.Median() * 1e-9);
  }
  std::fflush(stdout);
  const double ours = variants[0].Median();
  return {.fraction = std::min(variants[1].Median(), variants[2].Median()) / ours,
          .speedup = std::min(variants[3].Median(), variants[4].Median()) / ours};
}

// The time of the skewed load over that of the uniform one, with as many rows.
double MeasureSkew(const BenchShape& shape, int threads, int repetitions) {
  BenchShape skewed_shape = shape;
  skewed_shape.skewed = true;
  Bench uniform(shape);
  Bench skewed(skewed_shape);
  std::vector<Variant> variants{{"uniform load", [&] { RunOurs(uniform, threads); }, {}},
                                {"skewed load", [&] { RunOurs(skewed, threads); }, {}}};
  Measure(variants, repetitions);
  fmt::print("\n{}, expert 0 with {:.2f} times the mean load, {} thread{}\n", shape.name,
             static_cast<double>(skewed.routing.RowsOf(0) * shape.experts) /
                 static_cast<double>(skewed.routing.rows()),
             threads, threads == 1 ? "" : "s");
  for (const Variant& variant : variants) {
    fmt::print("  {:34} {:8.3f} ms\n", variant.name, variant.Median() * 1e3);
  }
  return variants[1].Median() / variants[0].Median();
}

const char* LibraryOf(const char* symbol) {
  void* const address = dlsym(RTLD_DEFAULT, symbol);
  Dl_info info{};
  if (address == nullptr || dladdr(address, &info) == 0) return "not found";
  return info.dli_fname;
}

double Rounded(double value) { return std::round(value * 1000.0) / 1000.0; }

int Main(int argc, char** argv) {
  CLI::App app{"Measures the MoE layer against bare dnnl_sgemm and a loop of libtorch products."};
  int threads = 2;
  int repetitions = 40;
  app.add_option("--threads", threads, "threads of the main figures; those of 1 are printed too")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--repetitions", repetitions, "timed runs of each variant")
      ->check(CLI::Range(20, 100000))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const BenchShape a{.name = "shape A", .tokens = 2048, .width = 256, .hidden = 512, .experts = 16};
  const BenchShape b{.name = "shape B", .tokens = 512, .width = 128, .hidden = 256, .experts = 32};
  fmt::print("the layer's products: {}; libtorch's BLAS: {}\n",
             GemmIsOurs() ? "our own AVX2 kernel" : GemmLibrary(), LibraryOf("sgemm_"));
  nlohmann::ordered_json report;
  for (const int team : {threads, 1}) {
    const std::string suffix = team == threads ? "" : "_1_thread";
    if (team == 1 && threads == 1 && report.contains("shape_a_fraction")) break;
    const Figures on_a = MeasureShape(a, team, repetitions);
    const Figures on_b = MeasureShape(b, team, repetitions * 4);
    report["shape_a_fraction" + suffix] = Rounded(on_a.fraction);
    report["shape_b_fraction" + suffix] = Rounded(on_b.fraction);
    report["shape_b_speedup" + suffix] = Rounded(on_b.speedup);
    report["shape_a_speedup" + suffix] = Rounded(on_a.speedup);
    report["skew_slowdown" + suffix] = Rounded(MeasureSkew(a, team, repetitions));
  }
  report["bf16_speedup"] = nullptr;  // there is no bfloat16 version
  report["threads"] = threads;
  report["repetitions"] = repetitions;
  fmt::print("\n{}\n", report.dump());
  return 0;
}

}  // namespace
}  // namespace fedmoe

int main(int argc, char** argv) { return fedmoe::Main(argc, argv); }
