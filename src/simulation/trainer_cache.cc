#include "simulation/trainer_cache.h"

#include <utility>

namespace fedmoe {
namespace {

// A byte and a float each of images, features or characters.
std::uint64_t BytesOf(const Dataset& data) {
  const auto elements = static_cast<std::uint64_t>(data.size() * data.ExampleElements());
  return (data.IsText() ? 0 : 5 * elements) + 2 * data.tokens.size() + 16 * data.windows.size();
}

}  // namespace

Result<TrainerCache::Held> TrainerCache::Take(std::size_t client) {
  {
    const std::lock_guard lock(mutex_);
    if (const auto place = places_.find(client); place != places_.end()) {
      Held held = std::move(place->second->held);
      bytes_ -= held.bytes;
      entries_.erase(place->second);
      places_.erase(place);
      return held;
    }
  }
  return Make(client);
}

Result<TrainerCache::Held> TrainerCache::Make(std::size_t client) const {
  Held held;
  const VirtualClient& own = population_.clients[client];
  if (own.role == ClientRole::kEvaluator) {
    held.bytes = BytesOf(*population_.test);
    held.trainer = std::make_unique<LocalTrainer>(*population_.test, options_.compute);
  } else {
    FEDMOE_ASSIGN_OR_RETURN(LocalData data, population_.data->ClientData(own.data_index));
    held.bytes = BytesOf(data.train) + BytesOf(data.holdout);
    held.trainer = std::make_unique<LocalTrainer>(std::move(data), options_.compute);
  }
  FEDMOE_RETURN_IF_ERROR(held.trainer->Prepare(spec_, options_.seed));
  return held;
}

void TrainerCache::Give(std::size_t client, Held held) {
  std::list<Entry> dropped;  // destroyed without the lock
  const std::lock_guard lock(mutex_);
  if (places_.contains(client)) return;  // another took part beside this one
  bytes_ += held.bytes;
  entries_.push_front({client, std::move(held)});
  places_[client] = entries_.begin();
  while (bytes_ > options_.max_bytes) {
    bytes_ -= entries_.back().held.bytes;
    places_.erase(entries_.back().client);
    dropped.splice(dropped.end(), entries_, std::prev(entries_.end()));
  }
}

}  // namespace fedmoe
