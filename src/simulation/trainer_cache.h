// Trainers with their examples in memory, as many as fit: a population may be far larger.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "client/local_trainer.h"
#include "common/result.h"
#include "federation/model_spec.h"
#include "simulation/population.h"

namespace fedmoe {

struct TrainerCacheOptions {
  std::uint64_t seed = 0;       // of the run
  std::uint64_t max_bytes = 0;  // of examples that are kept, beside those that are taken
  ComputeOptions compute;
};

// Thread-safe. What is taken is the taker's alone.
class TrainerCache {
 public:
  // `population` and `spec` outlive the cache.
  TrainerCache(const Population& population, const ModelSpec& spec, TrainerCacheOptions options)
      : population_(population), spec_(spec), options_(std::move(options)) {}

  struct Held {
    std::unique_ptr<LocalTrainer> trainer;  // prepared
    std::uint64_t bytes = 0;                // of examples, about
  };
  // The client's trainer, made where it is not there. INVALID_ARGUMENT where the data do not fit
  // the model.
  Result<Held> Take(std::size_t client);
  // For the next who takes it; the least recently given go first.
  void Give(std::size_t client, Held held);

 private:
  struct Entry {
    std::size_t client = 0;
    Held held;
  };
  Result<Held> Make(std::size_t client) const;

  const Population& population_;
  const ModelSpec& spec_;
  const TrainerCacheOptions options_;

  std::mutex mutex_;
  std::list<Entry> entries_;  // most recently given first
  std::map<std::size_t, std::list<Entry>::iterator> places_;
  std::uint64_t bytes_ = 0;
};

}  // namespace fedmoe
