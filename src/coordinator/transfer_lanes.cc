#include "coordinator/transfer_lanes.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>
#include <vector>

namespace fedmoe {
namespace {

constexpr std::size_t IndexOf(TransferLanes::Lane lane) { return static_cast<std::size_t>(lane); }

}  // namespace

TransferLanes::TransferLanes(const Options& options)
    : options_(options), watch_([this] { Watch(); }) {}

TransferLanes::~TransferLanes() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  watch_.join();
}

bool TransferLanes::Fits(Lane lane, std::uint64_t bytes) const {
  return lanes_[IndexOf(lane)].used + bytes <= options_.bytes[IndexOf(lane)];
}

TransferLanes::Permit TransferLanes::Hold(Lane lane, std::uint64_t bytes, GiveUp give_up) {
  lanes_[IndexOf(lane)].used += bytes;
  peak_ = std::max(peak_, lanes_[0].used + lanes_[1].used);
  granted_ += bytes;
  const std::uint64_t id = ++next_id_;
  holders_.emplace(id, Holder{lane, bytes, clock_.NowMs(), std::move(give_up)});
  return {*this, id};
}

void TransferLanes::Ask(Lane lane, std::uint64_t bytes, Granted granted, GiveUp give_up) {
  bytes = std::min(bytes, options_.bytes[IndexOf(lane)]);
  Permit permit;
  {
    const std::lock_guard lock(mutex_);
    std::deque<Waiter>& waiting = lanes_[IndexOf(lane)].waiting;
    if (!waiting.empty() || !Fits(lane, bytes)) {
      waiting.push_back({bytes, std::move(granted), std::move(give_up)});
      wake_.notify_all();
      return;
    }
    permit = Hold(lane, bytes, std::move(give_up));
  }
  granted(std::move(permit));
}

// A grant may end with the release of what it was given, and that with the next grant: only the
// outermost release on a thread calls, so that the stack does not grow with those who wait.
void TransferLanes::Release(std::uint64_t id) {
  using Grants = std::deque<std::pair<Granted, Permit>>;
  thread_local Grants* under_way = nullptr;
  Grants mine;
  Grants& next = under_way != nullptr ? *under_way : mine;
  {
    const std::lock_guard lock(mutex_);
    const auto holder = holders_.find(id);
    const Lane lane = holder->second.lane;
    LaneState& state = lanes_[IndexOf(lane)];
    state.used -= holder->second.bytes;
    holders_.erase(holder);
    while (!state.waiting.empty() && Fits(lane, state.waiting.front().bytes)) {
      Waiter waiter = std::move(state.waiting.front());
      state.waiting.pop_front();
      Permit permit = Hold(lane, waiter.bytes, std::move(waiter.give_up));
      next.emplace_back(std::move(waiter.granted), std::move(permit));
    }
  }
  if (under_way != nullptr) return;
  struct Outermost {
    explicit Outermost(Grants& grants) { under_way = &grants; }
    ~Outermost() { under_way = nullptr; }  // also where a grant throws
  } outermost(mine);
  while (!mine.empty()) {
    auto [granted, permit] = std::move(mine.front());
    mine.pop_front();
    granted(std::move(permit));
  }
}

std::uint64_t TransferLanes::bytes() const {
  const std::lock_guard lock(mutex_);
  return lanes_[0].used + lanes_[1].used;
}

std::uint64_t TransferLanes::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

std::uint64_t TransferLanes::granted_bytes() const {
  const std::lock_guard lock(mutex_);
  return granted_;
}

// While someone waits: a lane that no one waits for may be slow.
void TransferLanes::Watch() {
  const std::chrono::milliseconds step(
      std::clamp<Milliseconds>(options_.patience_ms[0] / 10, 1, 500));
  std::unique_lock lock(mutex_);
  const auto waited_for = [this] {
    return std::any_of(lanes_.begin(), lanes_.end(),
                       [](const LaneState& lane) { return !lane.waiting.empty(); });
  };
  while (!stopping_) {
    wake_.wait(lock, [&] { return stopping_ || waited_for(); });
    if (wake_.wait_for(lock, step, [this] { return stopping_; })) return;
    std::vector<GiveUp> slow = TakeSlow();
    lock.unlock();
    for (const GiveUp& give_up : slow) give_up();
    slow.clear();
    lock.lock();
  }
}

std::vector<TransferLanes::GiveUp> TransferLanes::TakeSlow() {
  std::vector<GiveUp> slow;
  const std::int64_t now = clock_.NowMs();
  for (auto& [id, holder] : holders_) {
    const std::size_t lane = IndexOf(holder.lane);
    if (!holder.give_up || lanes_[lane].waiting.empty()) continue;
    if (now - holder.since_ms < options_.patience_ms[lane]) continue;
    slow.push_back(std::exchange(holder.give_up, nullptr));
  }
  return slow;
}

bool CarriedBytes::Take(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > kMost - bytes_) return false;
  bytes_ += bytes;
  peak_ = std::max(peak_, bytes_);
  return true;
}

void CarriedBytes::Return(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes_ -= bytes;
}

std::uint64_t CarriedBytes::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

}  // namespace fedmoe
