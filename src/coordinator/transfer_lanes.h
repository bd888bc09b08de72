// A bound on the chunks that are in flight in one direction, over all transfers: the coordinator's
// memory does not grow with clients, and who is slow holds up nobody but the slow.
//
// A transfer asks for each of its chunks, and keeps the permit while the chunk takes memory: for a
// download from before it is read until gRPC has passed it on, for an upload from before it is
// asked for until it is in the spool. Transfers over fast links have a lane of their own. Who keeps
// a permit longer than a chunk may take, while others wait, is told to give up: it can go on later
// where it was.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "common/clock.h"

namespace fedmoe {

// Thread-safe. All permits must be gone before it is destroyed.
class TransferLanes {
 public:
  enum class Lane { kFast, kSlow };
  struct Options {
    std::array<std::uint64_t, 2> bytes = {std::uint64_t{4} << 20,
                                          std::uint64_t{8} << 20};  // by Lane
    std::array<Milliseconds, 2> patience_ms = {5'000, 30'000};
  };

  // Gives its bytes back when it is destroyed or reset. Movable.
  class Permit {
   public:
    Permit() = default;
    Permit(Permit&& other) noexcept { *this = std::move(other); }
    Permit& operator=(Permit&& other) noexcept {
      Reset();
      lanes_ = std::exchange(other.lanes_, nullptr);
      id_ = other.id_;
      return *this;
    }
    ~Permit() { Reset(); }
    // May call others' `granted` on this thread.
    void Reset() {
      if (TransferLanes* const lanes = std::exchange(lanes_, nullptr)) lanes->Release(id_);
    }

   private:
    friend class TransferLanes;
    Permit(TransferLanes& lanes, std::uint64_t id) : lanes_(&lanes), id_(id) {}
    TransferLanes* lanes_ = nullptr;
    std::uint64_t id_ = 0;
  };
  using Granted = std::function<void(Permit)>;
  using GiveUp = std::function<void()>;

  TransferLanes() : TransferLanes(Options()) {}
  explicit TransferLanes(const Options& options);
  ~TransferLanes();
  TransferLanes(const TransferLanes&) = delete;
  TransferLanes& operator=(const TransferLanes&) = delete;

  // Calls `granted` once: now, or on the thread that gives back what is needed; in the order of
  // asking within a lane. More bytes than the lane has count as all that it has. `give_up` comes
  // at most once, on a thread of its own: while the permit is kept, or just after.
  void Ask(Lane lane, std::uint64_t bytes, Granted granted, GiveUp give_up);

  // Transfers that are under way, waiting ones among them.
  void Join() { ++transfers_; }
  void Leave() { --transfers_; }
  std::size_t transfers() const { return transfers_; }

  // Of permits now, at most so far, and of all that were ever granted.
  std::uint64_t bytes() const;
  std::uint64_t peak_bytes() const;
  std::uint64_t granted_bytes() const;

 private:
  struct Holder {
    Lane lane;
    std::uint64_t bytes;
    std::int64_t since_ms;
    GiveUp give_up;  // null: was told
  };
  struct Waiter {
    std::uint64_t bytes;
    Granted granted;
    GiveUp give_up;
  };
  struct LaneState {
    std::uint64_t used = 0;
    std::deque<Waiter> waiting;
  };

  bool Fits(Lane lane, std::uint64_t bytes) const;
  Permit Hold(Lane lane, std::uint64_t bytes, GiveUp give_up);
  void Release(std::uint64_t id);
  void Watch();
  std::vector<GiveUp> TakeSlow();

  const Options options_;
  const SteadyClock clock_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::array<LaneState, 2> lanes_;
  std::map<std::uint64_t, Holder> holders_;
  std::uint64_t next_id_ = 0;
  std::uint64_t peak_ = 0;
  std::uint64_t granted_ = 0;
  std::atomic<std::size_t> transfers_{0};
  bool stopping_ = false;
  std::thread watch_;
};

// Bytes of shards that are on their way with tasks. Not a lane: what finds no room travels by a
// call of its own. Thread-safe.
class CarriedBytes {
 public:
  static constexpr std::uint64_t kMost = std::uint64_t{4} << 20;
  bool Take(std::uint64_t bytes);
  void Return(std::uint64_t bytes);
  // At most so far.
  std::uint64_t peak_bytes() const;

 private:
  mutable std::mutex mutex_;
  std::uint64_t bytes_ = 0;
  std::uint64_t peak_ = 0;
};

// What a coordinator's transfers have to share.
struct TransferBounds {
  explicit TransferBounds(const TransferLanes::Options& lanes) : down(lanes), up(lanes) {}
  TransferLanes down;
  TransferLanes up;
  CarriedBytes carried;
};

}  // namespace fedmoe
