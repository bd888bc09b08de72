// One dataset split over many clients that live in one process: what they have in common is read
// once.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/result.h"
#include "data/dataset.h"
#include "data/split.h"

namespace fedmoe {

// Thread-safe. Memory: of idx and cifar_binary the whole set as bytes and a list of indices a
// client; of the others, whose shares are generated or read anew for each call, nothing.
class SharedData {
 public:
  // `options` as for LoadLocalData of any of the `clients`; client_index is passed over. Errors as
  // there.
  static Result<std::unique_ptr<SharedData>> Load(const DataOptions& options, int clients);

  // What LoadLocalData gives for this client_index, example for example.
  Result<LocalData> ClientData(int client_index) const;
  // Training examples of a client, known without its data; -1 where only its data tell.
  std::int64_t TrainExamples(int client_index) const;

 private:
  explicit SharedData(DataOptions options) : options_(std::move(options)) {}
  Status LoadWhole(int clients);

  DataOptions options_;
  Dataset whole_;              // idx and cifar_binary
  std::vector<Split> splits_;  // of whole_, by client
  std::int64_t generated_ = -1;
};

}  // namespace fedmoe
