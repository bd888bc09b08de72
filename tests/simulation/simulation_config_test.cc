// The `simulation` section and what is wrong with it.
#include "config/simulation_config.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/config/load_yaml.h"

namespace fedmoe {
namespace {

const std::string kFleet = "fleet: {capacity: {measure: false}}\n";

TEST(SimulationConfigTest, EveryKeyIsReadAndWrittenBack) {
  const auto config = LoadCoordinator(kFleet +
                                      "simulation:\n"
                                      "  device: cuda:1\n"
                                      "  devices: {phone: 0.5, laptop: 3, gpu_server: 1}\n"
                                      "  availability: daily\n"
                                      "  online_share: 0.25\n"
                                      "  dropout: 0.1\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  const SimulationOptions& simulation = config->simulation;
  EXPECT_EQ(simulation.device, "cuda:1");
  EXPECT_EQ(simulation.devices.phone, 0.5);
  EXPECT_EQ(simulation.devices.single_board_computer, 0.0);
  EXPECT_EQ(simulation.devices.laptop, 3.0);
  EXPECT_EQ(simulation.devices.gpu_server, 1.0);
  EXPECT_EQ(simulation.availability, AvailabilityKind::kDaily);
  EXPECT_EQ(simulation.online_share, 0.25);
  EXPECT_EQ(simulation.dropout, 0.1);
  const auto again = LoadCoordinator(DumpCoordinatorConfig(*config));
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(DumpCoordinatorConfig(*again), DumpCoordinatorConfig(*config));
}

TEST(SimulationConfigTest, ATraceAndItsFileBelongTogether) {
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {availability: trace}\n"),
            "x.yaml:2: simulation.trace must name a file for simulation.availability trace");
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {trace: t.csv}\n"),
            "x.yaml:2: simulation.trace is for simulation.availability trace alone");
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {availability: trace, trace: t.csv}\n"),
            "accepted");
}

TEST(SimulationConfigTest, ADeterministicRunHasAllClientsAllTheTime) {
  EXPECT_EQ(CoordinatorErrors(kFleet + "run: {deterministic: true}\n"
                                       "simulation:\n"
                                       "  availability: daily\n"
                                       "  dropout: 0.5\n"),
            "x.yaml:4: run.deterministic needs every client in every round: set "
            "simulation.availability to always\n"
            "x.yaml:5: run.deterministic needs every client's update: set simulation.dropout to 0");
}

TEST(SimulationConfigTest, ValuesOutOfRangeAreRefused) {
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {dropout: 1}\n"),
            "x.yaml:2: simulation.dropout must be at least 0 and below 1 (got 1)");
  for (const std::string device : {"gpu", "cuda:", "cuda:1x", "cuda:-1", "cuda:100", "CUDA"}) {
    EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {device: '" + device + "'}\n"),
              "x.yaml:2: simulation.device must be cpu, cuda or cuda:N with N of 0 to 99 (got '" +
                  device + "')");
  }
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {online_share: 0}\n"),
            "x.yaml:2: simulation.online_share must be above 0 and at most 1 (got 0)");
  EXPECT_EQ(CoordinatorErrors(kFleet + "simulation: {devices: {tablet: 1}}\n"),
            "x.yaml:2: unknown key 'simulation.devices.tablet'");
}

TEST(SimulationConfigTest, WithoutAFleetItIsNotWritten) {
  const auto config =
      LoadCoordinator("model: {inputs: 2, classes: 2}\nsimulation: {dropout: 0.1}\n");
  ASSERT_TRUE(config.ok()) << config.status().message();
  EXPECT_EQ(DumpCoordinatorConfig(*config).find("simulation"), std::string::npos);
}

}  // namespace
}  // namespace fedmoe
