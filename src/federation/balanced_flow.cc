// Successive shortest paths on clients -> experts -> sink. The experts are few, so a path is sought
// among them alone: the arc from expert e to f stands for the client that loses least by giving up
// e for f. A step costs O(E^2) per pass of Bellman-Ford, and only arcs of the experts that share a
// moved client are computed anew.
#include "federation/balanced_flow.h"

#include <algorithm>
#include <cmath>
#include <compare>
#include <numeric>
#include <string>
#include <utility>

#include "federation/alignment.h"
#include "federation/bound_conflict.h"

namespace fedmoe {
namespace {

constexpr int kProfitBits = 40;

// Costs in order of weight: lower bounds left unmet, then profit lost, then preference lost. As the
// order is lexicographic and respects addition, shortest paths are defined as for plain numbers.
struct Cost {
  int unmet = 0;
  std::int64_t profit = 0;
  std::int64_t preference = 0;
  auto operator<=>(const Cost&) const = default;
};
Cost operator+(const Cost& a, const Cost& b) {
  return {a.unmet + b.unmet, a.profit + b.profit, a.preference + b.preference};
}

class BalancedFlow {
 public:
  BalancedFlow(const ProfitMatrix& profit, const ProfitMatrix& preference,
               std::span<const int> lower, std::span<const int> upper)
      : profit_(profit),
        preference_(preference),
        lower_(lower),
        upper_(upper),
        experts_(static_cast<int>(profit.cols())),
        held_(static_cast<std::size_t>(profit.rows()),
              std::vector<bool>(static_cast<std::size_t>(experts_), false)),
        load_(static_cast<std::size_t>(experts_), 0),
        arcs_(static_cast<std::size_t>(experts_) * static_cast<std::size_t>(experts_)) {}

  // Gives the client one more expert at the least cost to the whole plan; false if no plan can.
  bool AddUnit(int client) {
    std::vector<Node> nodes = ShortestPaths(client);
    int last = -1;
    Cost best;
    for (int e = 0; e < experts_; ++e) {
      const auto index = static_cast<std::size_t>(e);
      if (!nodes[index].reached || load_[index] >= upper_[index]) continue;
      const Cost total = nodes[index].cost + Cost{load_[index] < lower_[index] ? -1 : 0};
      if (last < 0 || total < best) {
        last = e;
        best = total;
      }
    }
    if (last < 0) return false;
    ++load_[static_cast<std::size_t>(last)];
    Shift(client, nodes, last);
    return true;
  }

  bool MeetsLowerBounds() const {
    for (std::size_t e = 0; e < load_.size(); ++e) {
      if (load_[e] < lower_[e]) return false;
    }
    return true;
  }

  // Bellman-Ford from everywhere at once, over the arcs between experts and those to and from the
  // outside: an expert below its upper bound may get more, one above its lower may give.
  std::vector<std::int64_t> Prices() const {
    const auto outside = static_cast<std::size_t>(experts_);
    std::vector<std::int64_t> distance(outside + 1, 0);
    for (bool changed = true; changed;) {
      changed = false;
      const auto relax = [&](std::size_t from, std::size_t to, std::int64_t length) {
        if (distance[from] + length >= distance[to]) return;
        distance[to] = distance[from] + length;
        changed = true;
      };
      for (std::size_t from = 0; from < outside; ++from) {
        if (load_[from] < upper_[from]) relax(from, outside, 0);
        if (load_[from] > lower_[from]) relax(outside, from, 0);
        for (std::size_t to = 0; to < outside; ++to) {
          const Arc& arc = arcs_[from * outside + to];
          if (arc.client >= 0) relax(from, to, arc.cost.profit);
        }
      }
    }
    std::vector<std::int64_t> price;
    for (std::size_t e = 0; e < outside; ++e) price.push_back(distance[outside] - distance[e]);
    return price;
  }

  std::vector<std::vector<ExpertIndex>> Plan() const {
    std::vector<std::vector<ExpertIndex>> plan(held_.size());
    for (std::size_t c = 0; c < held_.size(); ++c) plan[c] = HeldBy(static_cast<int>(c));
    return plan;
  }

 private:
  struct Arc {
    int client = -1;  // who moves; -1: nobody can
    Cost cost;
  };
  struct Node {
    bool reached = false;
    Cost cost;
    int from = -1;  // the expert before, -1 for the client itself
  };

  bool Holds(int client, int expert) const {
    return held_[static_cast<std::size_t>(client)][static_cast<std::size_t>(expert)];
  }
  void SetHeld(int client, int expert, bool held) {
    held_[static_cast<std::size_t>(client)][static_cast<std::size_t>(expert)] = held;
  }
  std::vector<ExpertIndex> HeldBy(int client) const {
    std::vector<ExpertIndex> experts;
    for (int e = 0; e < experts_; ++e) {
      if (Holds(client, e)) experts.push_back(e);
    }
    return experts;
  }
  Arc& ArcOf(int from, int to) {
    return arcs_[static_cast<std::size_t>(from) * static_cast<std::size_t>(experts_) +
                 static_cast<std::size_t>(to)];
  }
  // What it costs that the client takes the expert.
  Cost TakeCost(int client, int expert) const {
    return {0, -profit_(client, expert),
            preference_.size() > 0 ? -preference_(client, expert) : std::int64_t{0}};
  }

  // Bellman-Ford from the client over the experts. Costs may be negative, cycles never are: the
  // plan so far is optimal for its units.
  std::vector<Node> ShortestPaths(int client) {
    std::vector<Node> nodes(static_cast<std::size_t>(experts_));
    for (int e = 0; e < experts_; ++e) {
      if (!Holds(client, e)) nodes[static_cast<std::size_t>(e)] = {true, TakeCost(client, e), -1};
    }
    for (bool changed = true; changed;) {
      changed = false;
      for (int from = 0; from < experts_; ++from) {
        const Node& start = nodes[static_cast<std::size_t>(from)];
        if (!start.reached) continue;
        for (int to = 0; to < experts_; ++to) {
          const Arc& arc = ArcOf(from, to);
          if (arc.client < 0) continue;
          Node& end = nodes[static_cast<std::size_t>(to)];
          const Cost cost = start.cost + arc.cost;
          if (end.reached && end.cost <= cost) continue;
          end = {true, cost, from};
          changed = true;
        }
      }
    }
    return nodes;
  }

  // Moves the clients along the path that ends at `last`, and renews the arcs that this touches.
  void Shift(int client, const std::vector<Node>& nodes, int last) {
    std::vector<int> moved{client};
    std::vector<bool> touched(static_cast<std::size_t>(experts_), false);
    int expert = last;
    for (int from = nodes[static_cast<std::size_t>(expert)].from; from >= 0;
         from = nodes[static_cast<std::size_t>(expert)].from) {
      const int mover = ArcOf(from, expert).client;
      SetHeld(mover, from, false);
      SetHeld(mover, expert, true);
      moved.push_back(mover);
      touched[static_cast<std::size_t>(from)] = true;
      expert = from;
    }
    SetHeld(client, expert, true);
    for (const int mover : moved) {
      for (const ExpertIndex e : HeldBy(mover)) touched[static_cast<std::size_t>(e)] = true;
    }
    for (int e = 0; e < experts_; ++e) {
      if (touched[static_cast<std::size_t>(e)]) RenewArcs(e);
    }
  }

  void RenewArcs(int from) {
    for (int to = 0; to < experts_; ++to) ArcOf(from, to) = Arc{};
    for (int client = 0; client < static_cast<int>(held_.size()); ++client) {
      if (!Holds(client, from)) continue;
      const Cost take = TakeCost(client, from);
      const Cost release{-take.unmet, -take.profit, -take.preference};
      for (int to = 0; to < experts_; ++to) {
        if (Holds(client, to)) continue;
        const Cost cost = TakeCost(client, to) + release;
        Arc& arc = ArcOf(from, to);
        if (arc.client < 0 || cost < arc.cost) arc = {client, cost};
      }
    }
  }

  const ProfitMatrix& profit_;
  const ProfitMatrix& preference_;
  std::span<const int> lower_;
  std::span<const int> upper_;
  int experts_;
  std::vector<std::vector<bool>> held_;  // by client, by expert
  std::vector<int> load_;
  std::vector<Arc> arcs_;
};

Status ValidateProblem(const ProfitMatrix& profit, std::span<const int> capacity,
                       std::span<const int> lower, std::span<const int> upper) {
  const auto clients = static_cast<std::size_t>(profit.rows());
  const auto experts = static_cast<std::size_t>(profit.cols());
  if (capacity.size() != clients) {
    return InvalidArgument(std::to_string(capacity.size()) + " capacities for " +
                           std::to_string(clients) + " clients");
  }
  if (lower.size() != experts || upper.size() != experts) {
    return InvalidArgument(std::to_string(lower.size()) + " lower and " +
                           std::to_string(upper.size()) + " upper bounds for " +
                           std::to_string(experts) + " experts");
  }
  for (std::size_t c = 0; c < clients; ++c) {
    if (capacity[c] < 0 || capacity[c] > profit.cols()) {
      return InvalidArgument("capacity of client " + std::to_string(c) + " is " +
                             std::to_string(capacity[c]) + ", must be 0 to " +
                             std::to_string(experts));
    }
  }
  return Status::Ok();
}

// The reasons for which no plan exists that can be told in a line; OK if none of them applies.
Status NamedInfeasibility(std::span<const int> capacity, std::span<const int> lower,
                          std::span<const int> upper) {
  const std::string no_plan = "no plan meets the load bounds: ";
  const auto total = std::accumulate(capacity.begin(), capacity.end(), std::int64_t{0});
  const auto lowest = std::accumulate(lower.begin(), lower.end(), std::int64_t{0});
  const auto highest = std::accumulate(upper.begin(), upper.end(), std::int64_t{0});
  const std::string hold = no_plan + "clients hold " + std::to_string(total) + " assignments, ";
  if (highest < total) {
    return FailedPrecondition(hold + "the experts' upper bounds add up to " +
                              std::to_string(highest));
  }
  if (lowest > total) {
    return FailedPrecondition(hold + "the experts' lower bounds add up to " +
                              std::to_string(lowest));
  }
  const auto able = static_cast<int>(
      std::count_if(capacity.begin(), capacity.end(), [](int units) { return units > 0; }));
  for (std::size_t e = 0; e < lower.size(); ++e) {
    const int most = std::min(able, upper[e]);
    if (lower[e] > most) {
      return FailedPrecondition(no_plan + "expert " + std::to_string(e) + " can get at most " +
                                std::to_string(most) + " clients, its lower bound is " +
                                std::to_string(lower[e]));
    }
  }
  return Status::Ok();
}

}  // namespace

ProfitMatrix IntegerProfits(const FitnessMatrix& fitness) {
  ProfitMatrix profit = ProfitMatrix::Zero(fitness.rows(), fitness.cols());
  const double largest = fitness.size() > 0 ? fitness.cwiseAbs().maxCoeff() : 0.0;
  if (largest == 0.0) return profit;
  for (Eigen::Index c = 0; c < fitness.rows(); ++c) {
    for (Eigen::Index e = 0; e < fitness.cols(); ++e) {
      profit(c, e) = std::llround(std::ldexp(fitness(c, e) / largest, kProfitBits));
    }
  }
  return profit;
}

double ProfitUnit(const FitnessMatrix& fitness) {
  const double largest = fitness.size() > 0 ? fitness.cwiseAbs().maxCoeff() : 0.0;
  return std::ldexp(largest, -kProfitBits);
}

Result<TransportationPlan> SolveTransportation(const ProfitMatrix& profit,
                                               const ProfitMatrix& preference,
                                               std::span<const int> capacity,
                                               std::span<const int> lower,
                                               std::span<const int> upper) {
  FEDMOE_RETURN_IF_ERROR(ValidateProblem(profit, capacity, lower, upper));
  FEDMOE_RETURN_IF_ERROR(NamedInfeasibility(capacity, lower, upper));
  BalancedFlow flow(profit, preference, lower, upper);
  bool complete = true;
  for (int client = 0; client < static_cast<int>(capacity.size()); ++client) {
    for (int unit = 0; complete && unit < capacity[static_cast<std::size_t>(client)]; ++unit) {
      complete = flow.AddUnit(client);
    }
  }
  if (!complete || !flow.MeetsLowerBounds()) {
    const auto conflict = FindBoundConflict(capacity, lower, upper);
    return FailedPrecondition("no plan meets the load bounds" +
                              (conflict ? ": " + conflict->ToString() : std::string()));
  }
  return TransportationPlan{flow.Plan(), flow.Prices()};
}

Result<std::vector<std::vector<ExpertIndex>>> SolveBalanced(const FitnessMatrix& fitness,
                                                            std::span<const int> capacity,
                                                            std::span<const int> lower,
                                                            std::span<const int> upper) {
  if (!fitness.allFinite()) return InvalidArgument("the fitness holds a number that is not finite");
  FEDMOE_ASSIGN_OR_RETURN(
      TransportationPlan plan,
      SolveTransportation(IntegerProfits(fitness), ProfitMatrix(), capacity, lower, upper));
  return std::move(plan.experts);
}

}  // namespace fedmoe
