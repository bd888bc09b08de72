#include "federation/flow_repair.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/price_sweep.h"

namespace fedmoe {
namespace {

constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max() / 4;
constexpr int kParts = 64;
constexpr int kMaxRebuilds =
    40;  // the window grows eightfold each time, so that all is within soon
constexpr std::size_t kMaxCandidates = std::size_t{1} << 24;

// A client that may change one expert for another, and what it loses by that, in profit.
struct Change {
  std::int64_t loss = 0;
  std::int32_t client = 0;
};
// A heap's top is the least loss, ties the lower client.
bool Later(const Change& a, const Change& b) {
  return a.loss > b.loss || (a.loss == b.loss && a.client > b.client);
}

class Repair {
 public:
  Repair(const Transportation& problem, const PriceSolution& prices)
      : problem_(problem),
        experts_(static_cast<std::size_t>(problem.rows.experts)),
        outside_(experts_),
        price_(prices.price),
        margins_(prices.margins),
        load_(experts_, 0),
        target_(experts_, 0),
        heaps_(experts_ * experts_) {
    price_.push_back(0);
    Take();
    Aim();
  }

  Result<RepairedPlan> Run(std::int64_t window) {
    window_ = std::max<std::int64_t>(window, 1);
    bool built = false;
    RepairedPlan plan;
    for (int rebuilds = 0; HasSurplus();) {
      if (!built) {
        plan.exact = Build() && plan.exact;
        built = true;
      }
      const int end = ShortestPath();
      const bool may_widen = rebuilds < kMaxRebuilds && !complete_;
      if (end < 0 || distance_[static_cast<std::size_t>(end)] > Proven()) {
        if (may_widen) {
          window_ = window_ > kNever / 8 ? kNever : window_ * 8;
          built = false;
          ++rebuilds;
          continue;
        }
        if (end < 0) return FailedPrecondition("no plan meets the load bounds");
        if (!complete_) plan.exact = false;
      }
      Advance(end);
      plan.moves += Shift(end);
    }
    price_.pop_back();
    plan.price = price_;
    plan.experts = Lists();
    return plan;
  }

 private:
  struct Step {
    int from = -1;
    std::int32_t client = -1;  // -1: an arc to or from the outside
  };

  std::span<std::int32_t> Held(std::int32_t client) {
    const auto index = static_cast<std::size_t>(client);
    return std::span(held_).subspan(first_[index], first_[index + 1] - first_[index]);
  }
  bool Holds(std::int32_t client, std::size_t expert) {
    const auto held = Held(client);
    return std::find(held.begin(), held.end(), static_cast<std::int32_t>(expert)) != held.end();
  }
  std::vector<Change>& Heap(std::size_t from, std::size_t to) {
    return heaps_[from * experts_ + to];
  }
  std::int64_t Profit(std::int32_t client, std::size_t expert) const {
    return problem_.rows.profit[static_cast<std::size_t>(client) * experts_ + expert];
  }
  std::pair<std::int32_t, std::int32_t> PartOf(int part) const {
    const std::int64_t clients = problem_.rows.clients;
    return {static_cast<std::int32_t>(clients * part / kParts),
            static_cast<std::int32_t>(clients * (part + 1) / kParts)};
  }

  // What each client takes at the prices.
  void Take() {
    first_.assign(problem_.capacity.size() + 1, 0);
    for (std::size_t c = 0; c < problem_.capacity.size(); ++c) {
      first_[c + 1] = first_[c] + static_cast<std::size_t>(problem_.capacity[c]);
    }
    held_.assign(first_.back(), 0);
    RunParts(problem_.parallel, kParts, [&](int part) {
      std::vector<std::int64_t> values(experts_);
      std::vector<RankedValue> top(experts_ + 1);
      const std::span<const std::int64_t> price(price_.data(), experts_);
      const auto [begin, end] = PartOf(part);
      for (std::int32_t c = begin; c < end; ++c) {
        const auto held = Held(c);
        const ChoiceMargin& margin = margins_[static_cast<std::size_t>(c)];
        RankTop(problem_.rows.Row(c), price, static_cast<int>(held.size()), margin.outside_value,
                values, top);
        for (std::size_t i = 0; i < held.size(); ++i) held[i] = top[i].column;
      }
    });
    for (const std::int32_t expert : held_) ++load_[static_cast<std::size_t>(expert)];
  }

  // The load that goes with each price, within the bounds; what is over or under is to be moved.
  void Aim() {
    for (std::size_t e = 0; e < experts_; ++e) {
      const std::int64_t lower = problem_.lower[e];
      const std::int64_t upper = problem_.upper[e];
      target_[e] = price_[e] > 0   ? upper
                   : price_[e] < 0 ? lower
                                   : std::clamp(load_[e], lower, upper);
    }
  }

  // Too much above 0, too little below. The outside balances the experts.
  std::int64_t Surplus(std::size_t node) const {
    if (node < experts_) return load_[node] - target_[node];
    const auto total = static_cast<std::int64_t>(held_.size());
    return std::accumulate(target_.begin(), target_.end(), -total);
  }
  bool HasSurplus() const {
    for (std::size_t node = 0; node <= experts_; ++node) {
      if (Surplus(node) != 0) return true;
    }
    return false;
  }

  // All changes that lose at most the window at the present prices. False if there are so many that
  // not all were taken.
  bool Build() {
    std::vector<std::vector<std::pair<std::size_t, Change>>> found(kParts);
    std::vector<char> cut(kParts, 0);
    const bool first = base_price_.empty();
    base_price_ = price_;
    RunParts(problem_.parallel, kParts, [&](int part) {
      auto& changes = found[static_cast<std::size_t>(part)];
      std::vector<std::int64_t> values(experts_);
      const auto [begin, end] = PartOf(part);
      for (std::int32_t c = begin; c < end; ++c) {
        if (changes.size() > kMaxCandidates / kParts) {
          cut[static_cast<std::size_t>(part)] = 1;
          break;
        }
        // At the first prices the margin tells the least that any change of the client loses.
        if (first && margins_[static_cast<std::size_t>(c)].gap > window_) continue;
        FindChanges(c, values, changes);
      }
    });
    for (auto& heap : heaps_) heap.clear();
    for (const auto& changes : found) {
      for (const auto& [pair, change] : changes) heaps_[pair].push_back(change);
    }
    RunParts(problem_.parallel, kParts, [&](int part) {
      for (std::size_t i = static_cast<std::size_t>(part); i < heaps_.size(); i += kParts) {
        std::make_heap(heaps_[i].begin(), heaps_[i].end(), Later);
      }
    });
    const bool all = std::none_of(cut.begin(), cut.end(), [](char c) { return c != 0; });
    complete_ = window_ >= kNever || !all;
    return all;
  }

  void FindChanges(std::int32_t client, std::vector<std::int64_t>& values,
                   std::vector<std::pair<std::size_t, Change>>& changes) {
    const auto held = Held(client);
    if (held.empty() || held.size() == experts_) return;
    const std::span<const std::int64_t> profit = problem_.rows.Row(client);
    for (std::size_t e = 0; e < experts_; ++e) values[e] = profit[e] - price_[e];
    std::int64_t least = kNever;
    for (const std::int32_t e : held) {
      least = std::min(least, values[static_cast<std::size_t>(e)]);
    }
    const std::int64_t floor =
        least - window_;  // what is below is out of reach for all that is held
    for (std::size_t to = 0; to < experts_; ++to) {
      if (values[to] < floor) continue;
      if (std::find(held.begin(), held.end(), static_cast<std::int32_t>(to)) != held.end())
        continue;
      for (const std::int32_t from : held) {
        const auto index = static_cast<std::size_t>(from);
        if (values[index] - values[to] > window_) continue;
        changes.push_back({index * experts_ + to, {profit[index] - profit[to], client}});
      }
    }
  }

  // A path longer than this may have missed a shorter one outside of the window.
  std::int64_t Proven() const {
    if (complete_) return kNever;
    std::int64_t most = std::numeric_limits<std::int64_t>::min();
    std::int64_t least = kNever;
    for (std::size_t e = 0; e < experts_; ++e) {
      const std::int64_t drift = price_[e] - base_price_[e];
      most = std::max(most, drift);
      least = std::min(least, drift);
    }
    return window_ - (most - least);
  }

  // The top of a heap that still is possible, or null.
  const Change* Best(std::size_t from, std::size_t to) {
    std::vector<Change>& heap = Heap(from, to);
    while (!heap.empty()) {
      const std::int32_t client = heap.front().client;
      if (Holds(client, from) && !Holds(client, to)) return &heap.front();
      std::pop_heap(heap.begin(), heap.end(), Later);
      heap.pop_back();
    }
    return nullptr;
  }

  void Relax(std::size_t from, std::size_t to, std::int64_t length, std::int32_t client) {
    const std::int64_t total = distance_[from] + std::max<std::int64_t>(length, 0);
    if (total >= distance_[to]) return;
    distance_[to] = total;
    step_[to] = {static_cast<int>(from), client};
  }

  // Dijkstra from all that has too much to the nearest that has too little; -1 if there is no way.
  int ShortestPath() {
    distance_.assign(experts_ + 1, kNever);
    step_.assign(experts_ + 1, {});
    done_.assign(experts_ + 1, 0);
    for (std::size_t node = 0; node <= experts_; ++node) {
      if (Surplus(node) > 0) distance_[node] = 0;
    }
    for (;;) {
      std::size_t at = experts_ + 1;
      for (std::size_t node = 0; node <= experts_; ++node) {
        if (done_[node] == 0 && distance_[node] < kNever &&
            (at > experts_ || distance_[node] < distance_[at])) {
          at = node;
        }
      }
      if (at > experts_) return -1;
      if (Surplus(at) < 0) return static_cast<int>(at);
      done_[at] = 1;
      if (at == outside_) {
        for (std::size_t to = 0; to < experts_; ++to) {
          if (target_[to] > problem_.lower[to]) Relax(at, to, price_[to], -1);
        }
        continue;
      }
      if (target_[at] < problem_.upper[at]) Relax(at, outside_, -price_[at], -1);
      for (std::size_t to = 0; to < experts_; ++to) {
        if (done_[to] != 0 || to == at) continue;
        const Change* best = Best(at, to);
        if (best != nullptr) Relax(at, to, best->loss - price_[at] + price_[to], best->client);
      }
    }
  }

  // Prices under which the path costs nothing and no arc has a negative length. The outside stays
  // at 0.
  void Advance(int end) {
    const std::int64_t reached = distance_[static_cast<std::size_t>(end)];
    const std::int64_t shift = std::min(distance_[outside_], reached);
    for (std::size_t e = 0; e < experts_; ++e) {
      price_[e] += shift - std::min(distance_[e], reached);
    }
  }

  std::int64_t Shift(int end) {
    std::int64_t moves = 0;
    auto to = static_cast<std::size_t>(end);
    while (step_[to].from >= 0) {
      const auto from = static_cast<std::size_t>(step_[to].from);
      const std::int32_t client = step_[to].client;
      if (from == outside_) {
        --target_[to];
      } else if (to == outside_) {
        ++target_[from];
      } else {
        Exchange(client, from, to);
        ++moves;
      }
      to = from;
    }
    return moves;
  }

  void Exchange(std::int32_t client, std::size_t from, std::size_t to) {
    const auto held = Held(client);
    *std::find(held.begin(), held.end(), static_cast<std::int32_t>(from)) =
        static_cast<std::int32_t>(to);
    --load_[from];
    ++load_[to];
    for (std::size_t e = 0; e < experts_; ++e) {
      if (!Holds(client, e)) Offer(client, to, e);
    }
    for (const std::int32_t e : held) {
      if (static_cast<std::size_t>(e) != to) Offer(client, static_cast<std::size_t>(e), from);
    }
  }

  void Offer(std::int32_t client, std::size_t from, std::size_t to) {
    std::vector<Change>& heap = Heap(from, to);
    heap.push_back({Profit(client, from) - Profit(client, to), client});
    std::push_heap(heap.begin(), heap.end(), Later);
  }

  std::vector<std::vector<ExpertIndex>> Lists() {
    std::vector<std::vector<ExpertIndex>> lists(problem_.capacity.size());
    RunParts(problem_.parallel, kParts, [&](int part) {
      const auto [begin, end] = PartOf(part);
      for (std::int32_t c = begin; c < end; ++c) {
        const auto held = Held(c);
        auto& list = lists[static_cast<std::size_t>(c)];
        list.assign(held.begin(), held.end());
        std::sort(list.begin(), list.end());
      }
    });
    return lists;
  }

  const Transportation& problem_;
  std::size_t experts_;
  std::size_t outside_;
  std::vector<std::int64_t> price_;           // by expert, and 0 for the outside
  const std::vector<ChoiceMargin>& margins_;  // by client, before the first move
  std::vector<std::int64_t> base_price_;
  std::vector<std::int64_t> load_;
  std::vector<std::int64_t> target_;
  std::vector<std::size_t> first_;  // where a client's experts begin in held_
  std::vector<std::int32_t> held_;
  std::vector<std::vector<Change>> heaps_;  // by expert from, expert to; may hold what is past
  std::vector<std::int64_t> distance_;
  std::vector<Step> step_;
  std::vector<char> done_;
  std::int64_t window_ = 1;
  bool complete_ = false;  // no window can show more
};

}  // namespace

Result<RepairedPlan> RepairFlow(const Transportation& problem, const PriceSolution& prices) {
  return Repair(problem, prices).Run(prices.window);
}

}  // namespace fedmoe
