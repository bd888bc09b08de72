#include "federation/price_solver.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/counter_rng.h"
#include "federation/alignment_baselines.h"
#include "kernels/price_sweep.h"

namespace fedmoe {
namespace {

constexpr int kFitnessBits = 36;
constexpr int kTieBits = 16;
constexpr int kMaxParts = 64;
constexpr int kRowsOfAPart = 256;
constexpr int kSampleRows = 8192;         // of the smallest sample
constexpr int kSampleGrowth = 8;          // from one sample to the next
constexpr int kMaxSweeps = 60;            // of one level
constexpr int kPatience = 6;              // sweeps without a better point
constexpr double kWindowShare = 0.25;     // of the clients that a window holds at most
constexpr double kWindowPerExpert = 8.0;  // clients that a window holds at least, by expert

int PartsOf(std::size_t rows) {
  return static_cast<int>(std::clamp<std::size_t>(rows / kRowsOfAPart, 1, kMaxParts));
}

// The clients of one level: all of them or a sample, with bounds in proportion.
struct Level {
  std::vector<std::int32_t> rows;
  double total = 0.0;  // of the capacities
  std::vector<double> lower;
  std::vector<double> upper;
};

// What the clients of a level do at some prices.
struct Response {
  std::vector<std::int64_t> load;
  std::vector<ChoiceMargin> margins;
  double dual = 0.0;
  double violation = 0.0;  // sum over experts of how far the load is from what the prices want
};

class Newton {
 public:
  Newton(const Transportation& problem, const Level& level)
      : problem_(problem),
        level_(level),
        experts_(static_cast<std::size_t>(problem.rows.experts)) {}

  // Improves the solution's prices; sets its window and margins.
  void Run(PriceSolution& solution) {
    std::vector<std::int64_t>& price = solution.price;
    int& sweeps = solution.sweeps;
    Balance(price);
    Response best = Respond(price, {}, sweeps);
    std::vector<std::int64_t> best_price = price;
    std::vector<std::int64_t> least_price = price;  // of the least violation
    std::vector<ChoiceMargin> least_margins = best.margins;
    double least = best.violation;
    std::int64_t window = Window(best);
    double reach = 8.0;  // the longest step of a price, in windows
    int stale = 0;
    for (int step = 0; step < kMaxSweeps && least > Tolerance() && stale < kPatience; ++step) {
      window = Window(best);
      price = best_price;
      Move(best, window, reach, price);
      Response next = Respond(price, Floors(best, best_price, price), sweeps);
      ++stale;
      if (next.violation < least) {
        if (next.violation < 0.9 * least) stale = 0;
        least = next.violation;
        least_price = price;
        least_margins = next.margins;
      }
      if (next.dual < best.dual) {
        best = std::move(next);
        best_price = price;
        reach = std::min(1024.0, 2.0 * reach);
      } else {
        reach *= 0.25;
      }
    }
    price = least_price;
    solution.margins = std::move(least_margins);
    solution.window = window;
  }

 private:
  double Tolerance() const { return 2.0 * static_cast<double>(experts_); }

  // What is known of the choices at other prices before they are looked at: no value can have
  // fallen by more than the greatest rise of a price.
  static std::vector<ChoiceMargin> Floors(const Response& known,
                                          const std::vector<std::int64_t>& from,
                                          const std::vector<std::int64_t>& to) {
    std::int64_t rise = std::numeric_limits<std::int64_t>::min();
    for (std::size_t e = 0; e < from.size(); ++e) rise = std::max(rise, to[e] - from[e]);
    std::vector<ChoiceMargin> floors = known.margins;
    for (ChoiceMargin& margin : floors) {
      if (margin.outside_value != kNoFloor) margin.outside_value -= rise;
    }
    return floors;
  }

  // `floors` are margins as SweepPrices takes them, or empty.
  Response Respond(const std::vector<std::int64_t>& price, std::vector<ChoiceMargin> floors,
                   int& sweeps) const {
    const int parts = PartsOf(level_.rows.size());
    std::vector<std::vector<std::int64_t>> loads(static_cast<std::size_t>(parts),
                                                 std::vector<std::int64_t>(experts_, 0));
    std::vector<double> values(static_cast<std::size_t>(parts), 0.0);
    Response response;
    response.margins = std::move(floors);
    response.margins.resize(level_.rows.size());
    RunParts(problem_.parallel, parts, [&](int part) {
      const auto index = static_cast<std::size_t>(part);
      const std::size_t begin = level_.rows.size() * index / static_cast<std::size_t>(parts);
      const std::size_t end = level_.rows.size() * (index + 1) / static_cast<std::size_t>(parts);
      SweepTotals totals{loads[index]};
      SweepPrices(problem_.rows.profit, price, problem_.capacity,
                  std::span(level_.rows).subspan(begin, end - begin), totals,
                  std::span(response.margins).subspan(begin, end - begin));
      values[index] = totals.value;
    });
    ++sweeps;
    response.load.assign(experts_, 0);
    for (std::size_t part = 0; part < loads.size(); ++part) {
      response.dual += values[part];
      for (std::size_t e = 0; e < experts_; ++e) response.load[e] += loads[part][e];
    }
    for (std::size_t e = 0; e < experts_; ++e) {
      const double p = static_cast<double>(price[e]);
      response.dual += std::max(level_.upper[e] * p, level_.lower[e] * p);
      const double load = static_cast<double>(response.load[e]);
      response.violation += std::abs(load - Wanted(e, price[e], load));
    }
    return response;
  }

  // The load that goes with a price: the upper bound above 0, the lower below, either at 0.
  double Wanted(std::size_t expert, std::int64_t price, double load) const {
    if (price > 0) return level_.upper[expert];
    if (price < 0) return level_.lower[expert];
    return std::clamp(load, level_.lower[expert], level_.upper[expert]);
  }

  // A margin within which so many clients lie that they can make up for the violation, some times
  // over, and that the experts hang together.
  std::int64_t Window(const Response& response) const {
    std::vector<std::int64_t> gaps;
    gaps.reserve(response.margins.size());
    for (const ChoiceMargin& margin : response.margins) {
      if (margin.inside >= 0) gaps.push_back(margin.gap);
    }
    if (gaps.empty()) return 1;
    const double least = kWindowPerExpert * static_cast<double>(experts_);
    const double count = static_cast<double>(gaps.size());
    const double wanted = std::max(least, std::min(1.5 * response.violation, kWindowShare * count));
    const auto rank = static_cast<std::size_t>(std::min(wanted, count - 1.0));
    std::nth_element(gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(rank), gaps.end());
    return gaps[rank] + 1;
  }

  // One Newton step. A client within the window counts as divided between the two experts of its
  // margin, in proportion to the gap, which makes the load a smooth function of the prices.
  void Move(const Response& response, std::int64_t window, double reach,
            std::vector<std::int64_t>& price) const {
    const auto size = static_cast<Eigen::Index>(experts_);
    Eigen::MatrixXd curvature = Eigen::MatrixXd::Zero(size, size);
    Eigen::VectorXd load(size);
    for (Eigen::Index e = 0; e < size; ++e) {
      load(e) = static_cast<double>(response.load[static_cast<std::size_t>(e)]);
    }
    const double width = 2.0 * static_cast<double>(window);
    for (const ChoiceMargin& margin : response.margins) {
      if (margin.inside < 0 || margin.gap >= window) continue;
      const double share = 0.5 - static_cast<double>(margin.gap) / width;
      load(margin.inside) -= share;
      load(margin.outside) += share;
      curvature(margin.inside, margin.outside) -= 1.0;
      curvature(margin.outside, margin.inside) -= 1.0;
      curvature(margin.inside, margin.inside) += 1.0;
      curvature(margin.outside, margin.outside) += 1.0;
    }
    const double ridge = std::max(1e-3 * curvature.trace() / static_cast<double>(experts_), 1e-3);
    Eigen::VectorXd excess(size);
    bool grounded = false;
    for (Eigen::Index e = 0; e < size; ++e) {
      const auto index = static_cast<std::size_t>(e);
      excess(e) = load(e) - Wanted(index, price[index], load(e));
      // At price 0 and within its bounds an expert stays as it is.
      const bool still = price[index] == 0 && excess(e) == 0.0;
      grounded = grounded || still;
      curvature(e, e) += still ? 1e6 * (1.0 + curvature(e, e)) : ridge;
    }
    // The same amount on every price is Balance's to find.
    if (!grounded) curvature.array() += curvature.trace() / static_cast<double>(size * size);
    const Eigen::VectorXd step = curvature.ldlt().solve(excess);
    for (std::size_t e = 0; e < experts_; ++e) {
      // In units of the window: curvature counts clients, each worth 1 / width.
      const double most = reach * static_cast<double>(window);
      const double change = std::clamp(step(static_cast<Eigen::Index>(e)) * width, -most, most);
      std::int64_t moved = price[e] + std::llround(change);
      const bool crosses = (price[e] > 0 && moved < 0) || (price[e] < 0 && moved > 0);
      if (crosses && level_.upper[e] > level_.lower[e]) moved = 0;
      price[e] = moved;
    }
    Balance(price);
  }

  // The same amount on every price changes no client's choice: the amount that is best for the
  // bounds. The slope rises by U - L at each price; where it passes 0, that price becomes 0.
  void Balance(std::vector<std::int64_t>& price) const {
    std::vector<std::size_t> order(experts_);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return price[a] != price[b] ? price[a] > price[b] : a < b;
    });
    double slope = std::accumulate(level_.lower.begin(), level_.lower.end(), -level_.total);
    for (const std::size_t e : order) {
      slope += level_.upper[e] - level_.lower[e];
      if (slope < 0.0) continue;
      const std::int64_t shift = price[e];
      for (std::int64_t& each : price) each -= shift;
      return;
    }
  }

  const Transportation& problem_;
  const Level& level_;
  std::size_t experts_;
};

// Every client whose hash falls into 1 / `share`.
Level MakeLevel(const Transportation& problem, std::uint64_t share) {
  Level level;
  for (std::int32_t c = 0; c < problem.rows.clients; ++c) {
    if (share > 1 && MixKey({static_cast<std::uint64_t>(c)}) % share != 0) continue;
    level.rows.push_back(c);
    level.total += problem.capacity[static_cast<std::size_t>(c)];
  }
  const double all = std::accumulate(problem.capacity.begin(), problem.capacity.end(), 0.0);
  const double scale = all > 0.0 ? level.total / all : 0.0;
  for (std::size_t e = 0; e < problem.lower.size(); ++e) {
    level.lower.push_back(problem.lower[e] * scale);
    level.upper.push_back(problem.upper[e] * scale);
  }
  return level;
}

}  // namespace

ProfitRows MakeProfitRows(const AlignmentProblem& problem, const ParallelFor& parallel) {
  ProfitRows rows;
  rows.clients = static_cast<int>(problem.fitness.rows());
  rows.experts = static_cast<int>(problem.fitness.cols());
  const auto experts = static_cast<std::size_t>(rows.experts);
  const double largest = problem.fitness.size() > 0 ? problem.fitness.cwiseAbs().maxCoeff() : 0.0;
  rows.unit = std::ldexp(largest, -kFitnessBits - kTieBits);
  const double scale = largest == 0.0 ? 0.0 : std::ldexp(1.0, kFitnessBits) / largest;
  rows.profit.resize(static_cast<std::size_t>(rows.clients) * experts);
  const int parts = PartsOf(static_cast<std::size_t>(rows.clients));
  RunParts(parallel, parts, [&](int part) {
    const int begin = static_cast<int>(std::int64_t{rows.clients} * part / parts);
    const int end = static_cast<int>(std::int64_t{rows.clients} * (part + 1) / parts);
    for (int c = begin; c < end; ++c) {
      const PairPreferences ties(problem.seed, problem.clients[static_cast<std::size_t>(c)]);
      std::int64_t* row = rows.profit.data() + static_cast<std::size_t>(c) * experts;
      for (ExpertIndex e = 0; e < rows.experts; ++e) {
        const auto whole =
            static_cast<std::int64_t>(std::floor(problem.fitness(c, e) * scale + 0.5));
        row[e] =
            whole * (std::int64_t{1} << kTieBits) + (ties.Of(e) >> (kPreferenceBits - kTieBits));
      }
    }
  });
  return rows;
}

PriceSolution SolvePrices(const Transportation& problem, std::span<const std::int64_t> start) {
  PriceSolution solution;
  solution.price.assign(static_cast<std::size_t>(problem.rows.experts), 0);
  if (start.size() == solution.price.size()) {
    std::copy(start.begin(), start.end(), solution.price.begin());
  }
  std::vector<std::uint64_t> shares;
  const bool warm = !start.empty();
  for (std::uint64_t share = 1;
       !warm && static_cast<std::uint64_t>(problem.rows.clients) / share > 2 * kSampleRows;) {
    share *= kSampleGrowth;
    shares.insert(shares.begin(), share);
  }
  for (const std::uint64_t share : shares) {
    const Level sample = MakeLevel(problem, share);
    Newton(problem, sample).Run(solution);
    solution.sweeps = 0;
  }
  const Level all = MakeLevel(problem, 1);
  Newton(problem, all).Run(solution);
  return solution;
}

}  // namespace fedmoe
