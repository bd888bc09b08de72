// How many transfers of a kind each client has under way.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/result.h"

namespace fedmoe {

// Not thread-safe, but places may be given up on any thread.
class TransferCount {
 public:
  // A place, to be held while the transfer is under way. RESOURCE_EXHAUSTED where the client holds
  // `most` already; `kind` as in "uploads".
  Result<std::shared_ptr<void>> Take(const ClientId& client, std::size_t most,
                                     const std::string& kind) {
    if (places_.size() >= sweep_at_) Sweep();
    std::vector<std::weak_ptr<void>>& held = places_[client];
    DropGone(held);
    if (held.size() >= most) {
      return ResourceExhausted("client '" + client + "' has " + std::to_string(held.size()) + " " +
                               kind + " under way already; ask again when one has ended");
    }
    std::shared_ptr<void> place = std::make_shared<char>();
    held.push_back(place);
    return place;
  }
  std::size_t clients() const { return places_.size(); }  // some of which may hold none any more

 private:
  static void DropGone(std::vector<std::weak_ptr<void>>& held) {
    std::erase_if(held, [](const auto& place) { return place.expired(); });
  }
  // So seldom that it costs nothing, however many clients there are.
  void Sweep() {
    for (auto entry = places_.begin(); entry != places_.end();) {
      DropGone(entry->second);
      entry = entry->second.empty() ? places_.erase(entry) : std::next(entry);
    }
    sweep_at_ = std::max<std::size_t>(64, 2 * places_.size());
  }

  std::map<ClientId, std::vector<std::weak_ptr<void>>> places_;
  std::size_t sweep_at_ = 64;
};

}  // namespace fedmoe
