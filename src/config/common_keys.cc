#include "config/common_keys.h"

#include <algorithm>

#include <fmt/format.h>

#include "common/ids.h"

namespace fedmoe {
namespace {

constexpr int kMaxPort = 65'535;

// -1 for text that is no "host:port".
int ParsePort(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return -1;
  const std::string digits = address.substr(colon + 1);
  const bool number =
      !digits.empty() && digits.size() <= 5 &&
      std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
  const int port = number ? std::stoi(digits) : -1;
  return port <= kMaxPort ? port : -1;
}

}  // namespace

void AddName(const SchemaSection& section, std::string& name) {
  section.Text("name", name, [](const std::string& text) -> std::string {
    if (IsValidClientId(text) && text.front() != '.') return "";
    const ConfigValue value{.kind = ValueKind::kScalar, .text = text, .items = {}};
    return fmt::format("must be {} (got {})", kNameRule, Describe(value));
  });
}

void AddAddress(const SchemaSection& section, const std::string& key, std::string& address) {
  section.Text(key, address, [](const std::string& text) -> std::string {
    if (ParsePort(text) >= 0) return "";
    const ConfigValue value{.kind = ValueKind::kScalar, .text = text, .items = {}};
    return fmt::format("must read host:port with a port of 0 to {} (got {})", kMaxPort,
                       Describe(value));
  });
}

int PortOf(const std::string& address) { return ParsePort(address); }

void AddLogLevel(const SchemaSection& section, std::string& level) {
  section.Word("level", level, {"trace", "debug", "info", "warning", "error", "off"});
}

void AddDataKeys(const SchemaSection& section, DataOptions& data, DataOf owner) {
  section.Choice<DatasetKind>("dataset", data.dataset,
                              {{"domains", DatasetKind::kDomains}, {"idx", DatasetKind::kIdx}});
  section.Text("path", data.path);
  if (owner == DataOf::kClient) section.Integer("client_index", data.client_index, {0, 999'999});
  section.Number("holdout_fraction", data.holdout_fraction, {0.0, 0.9});

  const SchemaSection domains = section.In("domains");
  domains.Choice<DomainsVariant>("variant", data.domains.variant,
                                 {{"permuted", DomainsVariant::kPermuted},
                                  {"concept", DomainsVariant::kConcept},
                                  {"covariate", DomainsVariant::kCovariate},
                                  {"hidden", DomainsVariant::kHidden}});
  domains.Integer("domains", data.domains.domains, {1, 1024});
  domains.Integer("latent_dimensions", data.domains.latent_dimensions, {1, 4096});
  domains.Integer("dimensions", data.domains.dimensions, {1, 4096});
  domains.Integer("classes", data.domains.classes, {2, 1024});
  domains.Integer("teacher_width", data.domains.teacher_width, {1, 4096});
  domains.Number("separation", data.domains.separation, {0.0, 1000.0});
  domains.Number("noise", data.domains.noise, {0.0, 1000.0});
  domains.Number("mix", data.domains.mix, {0.0, 1.0});
  domains.Integer("examples", data.domains.examples, {1, 10'000'000});
  domains.Integer("seed", data.domains.seed, {});

  const SchemaSection partition = section.In("partition");
  partition.Choice<PartitionKind>("kind", data.partition.kind,
                                  {{"none", PartitionKind::kNone},
                                   {"iid", PartitionKind::kIid},
                                   {"classes_per_client", PartitionKind::kClassesPerClient},
                                   {"dirichlet", PartitionKind::kDirichlet}});
  if (owner == DataOf::kClient) {
    partition.Integer("clients", data.partition.clients, {1, 1'000'000});
  }
  partition.Number("alpha", data.partition.alpha, {.least = 0.0, .most = 1e6, .above_least = true});
  partition.Integer("classes_per_client", data.partition.classes_per_client, {1, 1024});
  partition.Integer("min_examples", data.partition.min_examples, {0, 1'000'000});
  partition.Integer("seed", data.partition.seed, {});
}

void CheckData(const DataOptions& data, const std::string& prefix, ReadKeys& keys) {
  const bool partitioned = data.partition.kind != PartitionKind::kNone;
  if (data.domains.latent_dimensions > data.domains.dimensions) {
    keys.Complain({prefix + "domains.latent_dimensions", prefix + "domains.dimensions"},
                  fmt::format("{0}domains.latent_dimensions must be at most {0}domains.dimensions "
                              "(got {1} > {2})",
                              prefix, data.domains.latent_dimensions, data.domains.dimensions));
  }
  if (data.dataset == DatasetKind::kDomains && partitioned) {
    keys.Complain({prefix + "partition.kind", prefix + "dataset"},
                  fmt::format("{}partition.kind must be none for the dataset domains, which "
                              "generates each client's own examples",
                              prefix));
  }
  if (data.dataset == DatasetKind::kIdx && partitioned &&
      data.client_index >= data.partition.clients) {
    keys.Complain({prefix + "client_index", prefix + "partition.clients"},
                  fmt::format("{0}client_index must be below {0}partition.clients (got {1} >= {2})",
                              prefix, data.client_index, data.partition.clients));
  }
}

}  // namespace fedmoe
