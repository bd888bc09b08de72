#include "federation/knapsack.h"

#include <algorithm>
#include <cstddef>

namespace fedmoe {
namespace {

class Search {
 public:
  Search(std::span<const double> value, std::span<const double> bytes, int max_nodes)
      : value_(value), bytes_(bytes), nodes_left_(max_nodes) {
    for (std::size_t e = 0; e < value.size(); ++e) {
      if (value[e] > 0.0) order_.push_back(static_cast<ExpertIndex>(e));
    }
    std::sort(order_.begin(), order_.end(), [&](ExpertIndex a, ExpertIndex b) {
      const double first = Value(a) / Bytes(a);
      const double second = Value(b) / Bytes(b);
      return first != second ? first > second : a < b;
    });
  }

  KnapsackChoice Run(double room, int count) {
    KnapsackChoice choice;
    const double fractional = Fractional(0, room, count);
    Visit(0, room, count, 0.0);
    choice.experts = best_;
    choice.value = best_value_;
    choice.bound = nodes_left_ > 0 ? best_value_ : fractional;
    return choice;
  }

 private:
  double Value(ExpertIndex e) const { return value_[static_cast<std::size_t>(e)]; }
  double Bytes(ExpertIndex e) const { return bytes_[static_cast<std::size_t>(e)]; }

  // At most what the experts from `at` on can add: by value a byte with a fraction of the last, and
  // no more than `count` of the most valuable.
  double Fractional(std::size_t at, double room, int count) const {
    double by_bytes = 0.0;
    double left = room;
    double most = 0.0;
    for (std::size_t i = at; i < order_.size(); ++i) {
      const double part = std::min(1.0, left / Bytes(order_[i]));
      by_bytes += part * Value(order_[i]);
      left -= part * Bytes(order_[i]);
      most = std::max(most, Value(order_[i]));
    }
    return std::min(by_bytes, most * count);
  }

  // NOLINTNEXTLINE(misc-no-recursion): as deep as there are experts
  void Visit(std::size_t at, double room, int count, double value) {
    if (value > best_value_) {
      best_value_ = value;
      best_ = taken_;
    }
    if (at == order_.size() || count == 0 || nodes_left_ <= 0) return;
    if (value + Fractional(at, room, count) <= best_value_) return;
    --nodes_left_;
    const ExpertIndex expert = order_[at];
    if (Bytes(expert) <= room) {
      taken_.push_back(expert);
      Visit(at + 1, room - Bytes(expert), count - 1, value + Value(expert));
      taken_.pop_back();
    }
    Visit(at + 1, room, count, value);
  }

  std::span<const double> value_;
  std::span<const double> bytes_;
  int nodes_left_;
  std::vector<ExpertIndex> order_;
  std::vector<ExpertIndex> taken_;
  std::vector<ExpertIndex> best_;
  double best_value_ = 0.0;
};

}  // namespace

KnapsackChoice SolveKnapsack(std::span<const double> value, std::span<const double> bytes,
                             double room, int count, int max_nodes) {
  return Search(value, bytes, max_nodes).Run(room, count);
}

}  // namespace fedmoe
