#include "data/shared_data.h"

#include <algorithm>
#include <utility>

#include "data/partition.h"

namespace fedmoe {
namespace {

DataOptions OptionsOf(const DataOptions& options, int client_index) {
  DataOptions own = options;
  own.client_index = client_index;
  return own;
}

}  // namespace

Result<std::unique_ptr<SharedData>> SharedData::Load(const DataOptions& options, int clients) {
  std::unique_ptr<SharedData> shared(new SharedData(options));
  if (options.dataset == DatasetKind::kIdx || options.dataset == DatasetKind::kCifarBinary) {
    FEDMOE_RETURN_IF_ERROR(shared->LoadWhole(clients));
  } else {
    // What is wrong with the options or the files shows at the first client.
    FEDMOE_ASSIGN_OR_RETURN(const LocalData first, shared->ClientData(0));
    if (options.dataset == DatasetKind::kDomains) shared->generated_ = first.train.size();
  }
  return shared;
}

Status SharedData::LoadWhole(int clients) {
  DataOptions all = OptionsOf(options_, 0);
  all.partition.kind = PartitionKind::kNone;
  all.holdout_fraction = 0.0;
  all.max_examples = 0;
  FEDMOE_ASSIGN_OR_RETURN(LocalData whole, LoadLocalData(all));
  whole_ = std::move(whole.train);
  std::vector<std::vector<std::int64_t>> parts;
  if (options_.partition.kind == PartitionKind::kNone) {
    parts.assign(static_cast<std::size_t>(clients), AllIndices(whole_.labels.size()));
  } else {
    FEDMOE_ASSIGN_OR_RETURN(parts,
                            PartitionExamples(whole_.labels, whole_.classes, options_.partition));
  }
  for (int client = 0; client < clients; ++client) {
    FEDMOE_ASSIGN_OR_RETURN(Split split,
                            SplitOwn(std::move(parts.at(static_cast<std::size_t>(client))),
                                     OptionsOf(options_, client), options_.partition.seed));
    splits_.push_back(std::move(split));
  }
  return Status::Ok();
}

Result<LocalData> SharedData::ClientData(int client_index) const {
  if (splits_.empty()) return LoadLocalData(OptionsOf(options_, client_index));
  const Split& split = splits_.at(static_cast<std::size_t>(client_index));
  return LocalData{Subset(whole_, split.train), Subset(whole_, split.holdout)};
}

std::int64_t SharedData::TrainExamples(int client_index) const {
  if (splits_.empty()) return generated_;
  return static_cast<std::int64_t>(splits_.at(static_cast<std::size_t>(client_index)).train.size());
}

}  // namespace fedmoe
