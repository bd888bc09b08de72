// Keys that both daemons' configurations have.
#pragma once

#include <string>

#include "config/schema.h"
#include "data/data_options.h"

namespace fedmoe {

inline constexpr int kMaxThreads = 1024;
inline constexpr int kMaxExpertsKey = 4096;
inline constexpr double kMaxRate = 1e9;  // GFLOP/s and Mbit/s
inline constexpr double kFlopsPerGigaflop = 1e9;
inline constexpr double kBytesPerMegabit = 125'000.0;
// Written in the messages about a name that is missing or wrong.
inline constexpr const char* kNameRule =
    "1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-', the first no dot";

// Adds `name`: of a run or a client. It names a directory too, so it may not begin with a dot.
void AddName(const SchemaSection& section, std::string& name);
// Adds a "host:port" key.
void AddAddress(const SchemaSection& section, const std::string& key, std::string& address);
// The port of an address that AddAddress let through.
int PortOf(const std::string& address);
// Adds `level`.
void AddLogLevel(const SchemaSection& section, std::string& level);

// "cpu", "cuda" or "cuda:N": where libtorch computes. Whether it can is not the configuration's to
// know.
void AddDevice(const SchemaSection& section, std::string& device);

enum class DataOf { kClient, kFleet };
// Adds the keys of `data`. A fleet sets data.client_index and data.partition.clients itself.
void AddDataKeys(const SchemaSection& section, DataOptions& data, DataOf owner);
// Checks across the keys below `prefix` ("data." or "fleet.data.").
void CheckData(const DataOptions& data, const std::string& prefix, ReadKeys& keys);

// What the options tell of every example: its features (of text: its characters) and how many
// labels there can be. 0 where only the files do.
int InputsOf(const DataOptions& data);
int ClassesOf(const DataOptions& data);

}  // namespace fedmoe
