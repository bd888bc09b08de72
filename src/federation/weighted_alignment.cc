#include "federation/weighted_alignment.h"

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>

#include "federation/knapsack.h"

namespace fedmoe {
namespace {

constexpr int kMaxSteps = 80;
constexpr int kPatience = 12;
constexpr int kImprovements = 4;  // passes over the clients
constexpr int kParts = 16;
constexpr int kMaxNodes = 4000;  // of a client's search
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What a client takes at some prices.
struct Choice {
  std::vector<ExpertIndex> experts;  // best first
  double value = 0.0;                // an upper bound of what any choice is worth
  int inside = -1;                   // where the choice would change first, and how far off that is
  int outside = -1;
  double gap = 0.0;
};

class Weighted {
 public:
  explicit Weighted(const WeightedProblem& problem)
      : problem_(problem),
        clients_(problem.fitness.rows()),
        experts_(static_cast<std::size_t>(problem.fitness.cols())) {}

  WeightedSolution Solve(std::span<const double> start) {
    WeightedSolution solution;
    solution.price.assign(experts_, 0.0);
    if (start.size() == experts_) solution.price.assign(start.begin(), start.end());
    FindPrices(solution);
    Response chosen = Respond(solution.price);
    solution.load = chosen.load;
    solution.experts.resize(chosen.choices.size());
    for (std::size_t c = 0; c < chosen.choices.size(); ++c) {
      solution.experts[c] = std::move(chosen.choices[c].experts);
    }
    Repair(solution);
    Improve(solution);
    for (auto& experts : solution.experts) std::sort(experts.begin(), experts.end());
    solution.violation = TotalViolation(solution.load);
    return solution;
  }

 private:
  struct Response {
    std::vector<Choice> choices;
    std::vector<double> load;
    double dual = 0.0;
    double violation = 0.0;  // of what the prices want
  };

  double Weight(std::int64_t client) const {
    return problem_.weight[static_cast<std::size_t>(client)];
  }
  bool HasSizes() const { return !problem_.expert_bytes.empty(); }

  Choice Choose(std::int64_t client, const std::vector<double>& price) const {
    const int capacity = problem_.capacity[static_cast<std::size_t>(client)];
    std::vector<double> value(experts_);
    std::vector<ExpertIndex> order(experts_);
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t e = 0; e < experts_; ++e) {
      value[e] = problem_.fitness(client, static_cast<Eigen::Index>(e)) - Weight(client) * price[e];
    }
    return HasSizes() ? ChooseBySize(client, capacity, value, order)
                      : ChooseByCount(capacity, value, order);
  }

  static Choice ChooseByCount(int capacity, const std::vector<double>& value,
                              std::vector<ExpertIndex>& order) {
    const auto at = [&](ExpertIndex e) { return value[static_cast<std::size_t>(e)]; };
    const auto ranked = std::min(order.size(), static_cast<std::size_t>(capacity) + 1);
    std::partial_sort(
        order.begin(), order.begin() + static_cast<std::ptrdiff_t>(ranked), order.end(),
        [&](ExpertIndex a, ExpertIndex b) { return at(a) != at(b) ? at(a) > at(b) : a < b; });
    Choice choice;
    choice.experts.assign(order.begin(), order.begin() + capacity);
    for (const ExpertIndex e : choice.experts) choice.value += at(e);
    if (capacity > 0 && static_cast<std::size_t>(capacity) < order.size()) {
      choice.inside = choice.experts.back();
      choice.outside = order[static_cast<std::size_t>(capacity)];
      choice.gap = at(choice.inside) - at(choice.outside);
    }
    return choice;
  }

  // The margin is to the greatest value that is not taken.
  Choice ChooseBySize(std::int64_t client, int capacity, const std::vector<double>& value,
                      const std::vector<ExpertIndex>& order) const {
    KnapsackChoice best =
        SolveKnapsack(value, problem_.expert_bytes,
                      problem_.room_bytes[static_cast<std::size_t>(client)], capacity, kMaxNodes);
    Choice choice;
    choice.experts = std::move(best.experts);
    choice.value = best.bound;
    for (const ExpertIndex e : order) {
      if (Contains(choice.experts, static_cast<std::size_t>(e))) continue;
      if (choice.outside < 0 ||
          value[static_cast<std::size_t>(e)] > value[static_cast<std::size_t>(choice.outside)]) {
        choice.outside = e;
      }
    }
    if (choice.experts.empty() || choice.outside < 0) {
      choice.outside = -1;
      return choice;
    }
    choice.inside = choice.experts.back();
    choice.gap = std::abs(value[static_cast<std::size_t>(choice.inside)] -
                          value[static_cast<std::size_t>(choice.outside)]);
    return choice;
  }

  Response Respond(const std::vector<double>& price) const {
    Response response;
    response.choices.resize(static_cast<std::size_t>(clients_));
    RunParts(problem_.parallel, kParts, [&](int part) {
      for (std::int64_t c = clients_ * part / kParts; c < clients_ * (part + 1) / kParts; ++c) {
        response.choices[static_cast<std::size_t>(c)] = Choose(c, price);
      }
    });
    response.load.assign(experts_, 0.0);
    for (std::int64_t c = 0; c < clients_; ++c) {
      const Choice& choice = response.choices[static_cast<std::size_t>(c)];
      response.dual += choice.value;
      for (const ExpertIndex e : choice.experts) {
        response.load[static_cast<std::size_t>(e)] += Weight(c);
      }
    }
    for (std::size_t e = 0; e < experts_; ++e) {
      response.dual += std::max(problem_.upper[e] * price[e], problem_.lower[e] * price[e]);
      response.violation += std::abs(response.load[e] - Wanted(e, price[e], response.load[e]));
    }
    return response;
  }

  double Wanted(std::size_t expert, double price, double load) const {
    if (price > 0.0) return problem_.upper[expert];
    if (price < 0.0) return problem_.lower[expert];
    return std::clamp(load, problem_.lower[expert], problem_.upper[expert]);
  }

  void FindPrices(WeightedSolution& solution) const {
    Response best = Respond(solution.price);
    std::vector<double> best_price = solution.price;
    solution.bound = best.dual;
    double reach = 8.0;
    int stale = 0;
    for (; solution.steps < kMaxSteps && stale < kPatience && best.violation > 0.0;
         ++solution.steps) {
      std::vector<double> price = best_price;
      Step(best, reach, price);
      Response next = Respond(price);
      ++stale;
      if (next.dual < best.dual) {
        if (next.dual < best.dual - 1e-7 * std::abs(best.dual)) stale = 0;
        best = std::move(next);
        best_price = price;
        solution.bound = best.dual;
        reach = std::min(1024.0, 2.0 * reach);
      } else {
        reach *= 0.25;
      }
    }
    solution.price = best_price;
  }

  // The gap within which a quarter of the clients lie, at most.
  double Window(const Response& response) const {
    std::vector<double> gaps;
    for (const Choice& choice : response.choices) {
      if (choice.inside >= 0) gaps.push_back(choice.gap);
    }
    if (gaps.empty()) return 1.0;
    const std::size_t rank = std::min(gaps.size() - 1, std::max(gaps.size() / 4, 8 * experts_));
    std::nth_element(gaps.begin(), gaps.begin() + static_cast<std::ptrdiff_t>(rank), gaps.end());
    return std::max(gaps[rank], 1e-12 * problem_.fitness.cwiseAbs().maxCoeff()) + 1e-300;
  }

  // As in the prices of counts (price_solver.h), with a client's weight in its load and its price.
  void Step(const Response& response, double reach, std::vector<double>& price) const {
    const auto size = static_cast<Eigen::Index>(experts_);
    const double window = Window(response);
    Eigen::MatrixXd curvature = Eigen::MatrixXd::Zero(size, size);
    Eigen::VectorXd load = Eigen::Map<const Eigen::VectorXd>(response.load.data(), size);
    double heaviest = 0.0;
    for (std::int64_t c = 0; c < clients_; ++c) {
      const Choice& choice = response.choices[static_cast<std::size_t>(c)];
      heaviest = std::max(heaviest, Weight(c));
      if (choice.inside < 0 || choice.gap >= window) continue;
      const double share = Weight(c) * (0.5 - choice.gap / (2.0 * window));
      const double slope = Weight(c) * Weight(c) / (2.0 * window);
      load(choice.inside) -= share;
      load(choice.outside) += share;
      curvature(choice.inside, choice.outside) -= slope;
      curvature(choice.outside, choice.inside) -= slope;
      curvature(choice.inside, choice.inside) += slope;
      curvature(choice.outside, choice.outside) += slope;
    }
    if (heaviest == 0.0) return;
    const double mean = curvature.trace() / static_cast<double>(size);
    const double ridge = std::max(1e-3 * mean, 1e-6 * heaviest * heaviest / window);
    Eigen::VectorXd excess(size);
    for (Eigen::Index e = 0; e < size; ++e) {
      const auto index = static_cast<std::size_t>(e);
      excess(e) = load(e) - Wanted(index, price[index], load(e));
      const bool still = price[index] == 0.0 && excess(e) == 0.0;
      curvature(e, e) += still ? 1e6 * (ridge + curvature(e, e)) : ridge;
    }
    const Eigen::VectorXd step = curvature.ldlt().solve(excess);
    const double most = reach * window / heaviest;
    for (std::size_t e = 0; e < experts_; ++e) {
      double moved = price[e] + std::clamp(step(static_cast<Eigen::Index>(e)), -most, most);
      const bool crosses = (price[e] > 0.0 && moved < 0.0) || (price[e] < 0.0 && moved > 0.0);
      if (crosses && problem_.upper[e] > problem_.lower[e]) moved = 0.0;
      price[e] = moved;
    }
  }

  double Violation(std::size_t expert, double load) const {
    return std::max({0.0, load - problem_.upper[expert], problem_.lower[expert] - load});
  }
  double TotalViolation(const std::vector<double>& load) const {
    double total = 0.0;
    for (std::size_t e = 0; e < experts_; ++e) total += Violation(e, load[e]);
    return total;
  }

  // A change of one client: gives up `from` (-1: nothing), takes `to` (-1: nothing).
  struct Move {
    std::int64_t client = -1;
    int from = -1;
    int to = -1;
    double mended = 0.0;      // of the violation
    double rate = kInfinity;  // fitness lost for a unit mended
  };

  void Consider(std::int64_t client, int from, int to, const std::vector<double>& load,
                Move& best) const {
    const double mended = -Harm(client, from, to, load);
    const double lost = (from >= 0 ? problem_.fitness(client, from) : 0.0) -
                        (to >= 0 ? problem_.fitness(client, to) : 0.0);
    if (mended <= 1e-9 * Weight(client)) return;
    const double rate = lost / mended;
    if (rate < best.rate) best = {client, from, to, mended, rate};
  }

  Move BestMove(const WeightedSolution& solution) const {
    std::vector<Move> parts(kParts);
    RunParts(problem_.parallel, kParts, [&](int part) {
      Move& best = parts[static_cast<std::size_t>(part)];
      for (std::int64_t c = clients_ * part / kParts; c < clients_ * (part + 1) / kParts; ++c) {
        ConsiderClient(c, solution, best);
      }
    });
    Move best;
    for (const Move& move : parts) {
      if (move.client >= 0 && move.rate < best.rate) best = move;
    }
    return best;
  }

  void ConsiderClient(std::int64_t client, const WeightedSolution& solution, Move& best) const {
    ForEachMove(client, solution.experts[static_cast<std::size_t>(client)],
                [&](int from, int to) { Consider(client, from, to, solution.load, best); });
  }

  static bool Contains(const std::vector<ExpertIndex>& held, std::size_t expert) {
    return std::find(held.begin(), held.end(), static_cast<ExpertIndex>(expert)) != held.end();
  }

  // What the moves of one client are: calls visit(from, to), -1 for nothing, for all that fit.
  template <typename Visit>
  void ForEachMove(std::int64_t client, const std::vector<ExpertIndex>& held,
                   const Visit& visit) const {
    double room = kInfinity;
    if (HasSizes()) {
      room = problem_.room_bytes[static_cast<std::size_t>(client)];
      for (const ExpertIndex e : held) room -= problem_.expert_bytes[static_cast<std::size_t>(e)];
      const auto capacity =
          static_cast<std::size_t>(problem_.capacity[static_cast<std::size_t>(client)]);
      for (const ExpertIndex e : held) visit(e, -1);
      for (std::size_t to = 0; held.size() < capacity && to < experts_; ++to) {
        if (problem_.expert_bytes[to] <= room && !Contains(held, to)) {
          visit(-1, static_cast<int>(to));
        }
      }
    }
    for (std::size_t to = 0; to < experts_; ++to) {
      if (Contains(held, to)) continue;
      for (const ExpertIndex from : held) {
        if (!HasSizes() || problem_.expert_bytes[to] <=
                               room + problem_.expert_bytes[static_cast<std::size_t>(from)]) {
          visit(from, static_cast<int>(to));
        }
      }
    }
  }

  void Apply(const Move& move, WeightedSolution& solution) const {
    auto& held = solution.experts[static_cast<std::size_t>(move.client)];
    if (move.from >= 0) {
      held.erase(std::find(held.begin(), held.end(), move.from));
      solution.load[static_cast<std::size_t>(move.from)] -= Weight(move.client);
    }
    if (move.to >= 0) {
      held.push_back(move.to);
      solution.load[static_cast<std::size_t>(move.to)] += Weight(move.client);
    }
  }

  // Client after client, the move that gains most fitness and harms no bound, a few times over.
  void Improve(WeightedSolution& solution) const {
    bool changed = true;
    for (int pass = 0; changed && pass < kImprovements; ++pass) {
      changed = false;
      for (std::int64_t c = 0; c < clients_; ++c) {
        Move best{.client = c};
        double most = 0.0;
        ForEachMove(c, solution.experts[static_cast<std::size_t>(c)], [&](int from, int to) {
          const double gain = (to >= 0 ? problem_.fitness(c, to) : 0.0) -
                              (from >= 0 ? problem_.fitness(c, from) : 0.0);
          if (gain <= most || Harm(c, from, to, solution.load) > 0.0) return;
          most = gain;
          best.from = from;
          best.to = to;
        });
        if (most <= 0.0) continue;
        Apply(best, solution);
        ++solution.moves;
        changed = true;
      }
    }
  }

  // By how much the move would raise the violation; may be negative.
  double Harm(std::int64_t client, int from, int to, const std::vector<double>& load) const {
    double harm = 0.0;
    const auto add = [&](int expert, double change) {
      if (expert < 0) return;
      const auto index = static_cast<std::size_t>(expert);
      harm += Violation(index, load[index] + change) - Violation(index, load[index]);
    };
    add(from, -Weight(client));
    add(to, Weight(client));
    return harm;
  }

  // Every move mends something, by more than rounding, so this ends.
  void Repair(WeightedSolution& solution) const {
    while (TotalViolation(solution.load) > 0.0) {
      const Move move = BestMove(solution);
      if (move.client < 0) return;
      Apply(move, solution);
      ++solution.moves;
    }
  }

  const WeightedProblem& problem_;
  std::int64_t clients_;
  std::size_t experts_;
};

}  // namespace

WeightedSolution SolveWeighted(const WeightedProblem& problem, std::span<const double> start) {
  return Weighted(problem).Solve(start);
}

}  // namespace fedmoe
