#include "simulation/population.h"

#include <string>
#include <utility>

#include "client/data_path.h"
#include "simulation/device_profiles.h"

namespace fedmoe {
namespace {

Result<std::int64_t> CountExamples(const SharedData& data, int data_index) {
  const std::int64_t known = data.TrainExamples(data_index);
  if (known >= 0) return known;
  FEDMOE_ASSIGN_OR_RETURN(const LocalData own, data.ClientData(data_index));
  return own.train.size();
}

}  // namespace

Result<Population> LoadPopulation(const CoordinatorConfig& config) {
  Population population;
  const ClientConfig* evaluator = nullptr;
  std::vector<ClientId> names;
  for (const ClientConfig& client : config.fleet) {
    population.clients.push_back({.name = client.name,
                                  .role = client.role,
                                  .data_index = client.data.client_index,
                                  .profile = client.capacity});
    if (client.role == ClientRole::kTrainer) {
      ++population.trainers;
      names.push_back(client.name);
    } else {
      evaluator = &client;
    }
  }
  if (population.trainers == 0) {
    return InvalidArgument(
        "the configuration has no fleet section, so there is nobody to simulate");
  }
  FEDMOE_ASSIGN_OR_RETURN(population.availability,
                          Availability::Make(config.simulation, names, config.run.seed));
  FEDMOE_ASSIGN_OR_RETURN(
      population.data,
      SharedData::Load(WithDefaultPath(config.fleet.front().data), population.trainers));
  if (evaluator != nullptr) {
    FEDMOE_ASSIGN_OR_RETURN(population.test, LoadTestData(WithDefaultPath(evaluator->data)));
  }
  const auto devices = DealDevices(config.simulation.devices, population.trainers, config.run.seed);
  for (std::size_t i = 0; i < devices.size(); ++i) {
    VirtualClient& client = population.clients[i];
    client.profile = WithDevice(std::move(client.profile), devices[i]);
    FEDMOE_ASSIGN_OR_RETURN(client.profile.examples,
                            CountExamples(*population.data, client.data_index));
  }
  return population;
}

}  // namespace fedmoe
