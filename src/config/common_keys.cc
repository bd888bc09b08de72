#include "config/common_keys.h"

#include <algorithm>
#include <string_view>

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

// The keys of the datasets that are read from files and have options.
void AddFileDataKeys(const SchemaSection& section, DataOptions& data) {
  const SchemaSection image = section.In("image");
  image.Integer("size", data.image.size, {0, 16'384});
  image.Integer("channels", data.image.channels, {1, 3});
  image.Numbers("mean", data.image.mean, {-1000.0, 1000.0});
  image.Numbers("deviation", data.image.deviation,
                {.least = 0.0, .most = 1000.0, .above_least = true});
  image.Bytes("memory_bytes", data.image.memory_bytes);

  const SchemaSection csv = section.In("csv");
  csv.Text("label", data.csv.label);
  csv.Integer("classes", data.csv.classes, {0, 1 << 20});
  csv.Boolean("standardise", data.csv.standardise);

  const SchemaSection text = section.In("text");
  text.Integer("context", data.text.context, {1, 65'536});
  text.Choice<TextAlphabet>("alphabet", data.text.alphabet,
                            {{"ascii", TextAlphabet::kAscii},
                             {"latin", TextAlphabet::kLatin},
                             {"bytes", TextAlphabet::kBytes}});
  text.Number("test_fraction", data.text.test_fraction, {0.0, 0.9});
}

void CheckPartition(const DataOptions& data, const std::string& prefix, ReadKeys& keys) {
  const PartitionKind kind = data.partition.kind;
  if (kind == PartitionKind::kNone) return;
  const std::vector<std::string> paths = {prefix + "partition.kind", prefix + "dataset"};
  const bool for_text = kind == PartitionKind::kFiles || kind == PartitionKind::kSpeakers;
  if (data.dataset == DatasetKind::kDomains) {
    keys.Complain(paths, fmt::format("{}partition.kind must be none for the dataset domains, which "
                                     "generates each client's own examples",
                                     prefix));
  } else if (data.dataset == DatasetKind::kText && !for_text && kind != PartitionKind::kIid) {
    keys.Complain(paths, fmt::format("{}partition.kind must be none, iid, files or speakers for "
                                     "the dataset text, which has no labels to split by",
                                     prefix));
  } else if (data.dataset != DatasetKind::kText && for_text) {
    keys.Complain(paths, fmt::format("{}partition.kind may be files or speakers for the dataset "
                                     "text alone",
                                     prefix));
  } else if (data.client_index >= data.partition.clients) {
    keys.Complain({prefix + "client_index", prefix + "partition.clients"},
                  fmt::format("{0}client_index must be below {0}partition.clients (got {1} >= {2})",
                              prefix, data.client_index, data.partition.clients));
  }
}

void CheckImage(const DataOptions& data, const std::string& prefix, ReadKeys& keys) {
  const bool cifar = data.dataset == DatasetKind::kCifarBinary;
  if (data.image.channels == 2) {
    keys.Complain({prefix + "image.channels"},
                  fmt::format("{}image.channels must be 1 or 3 (got 2)", prefix));
    return;
  }
  const std::size_t channels = cifar ? 3 : static_cast<std::size_t>(data.image.channels);
  const auto check = [&](const std::string& key, const std::vector<double>& values) {
    if (values.size() == 1 || values.size() == channels) return;
    keys.Complain({prefix + key, prefix + "image.channels"},
                  fmt::format("{}{} must have one value, or one for each of {} channels (got {})",
                              prefix, key, channels, values.size()));
  };
  check("image.mean", data.image.mean);
  check("image.deviation", data.image.deviation);
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

void AddDevice(const SchemaSection& section, std::string& device) {
  section.Text("device", device, [](const std::string& text) -> std::string {
    constexpr std::string_view kNumbered = "cuda:";
    constexpr std::size_t kMostDigits = 2;
    if (text == "cpu" || text == "cuda") return "";
    const std::string digits = text.starts_with(kNumbered) ? text.substr(kNumbered.size()) : "";
    const bool number =
        !digits.empty() && digits.size() <= kMostDigits &&
        std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    if (number) return "";
    const ConfigValue value{.kind = ValueKind::kScalar, .text = text, .items = {}};
    return fmt::format("must be cpu, cuda or cuda:N with N of 0 to 99 (got {})", Describe(value));
  });
}

void AddDataKeys(const SchemaSection& section, DataOptions& data, DataOf owner) {
  section.Choice<DatasetKind>("dataset", data.dataset,
                              {{"domains", DatasetKind::kDomains},
                               {"idx", DatasetKind::kIdx},
                               {"image_folder", DatasetKind::kImageFolder},
                               {"cifar_binary", DatasetKind::kCifarBinary},
                               {"csv", DatasetKind::kCsv},
                               {"text", DatasetKind::kText}});
  section.Text("path", data.path);
  if (owner == DataOf::kClient) section.Integer("client_index", data.client_index, {0, 999'999});
  section.Number("holdout_fraction", data.holdout_fraction, {0.0, 0.9});
  section.Integer("max_examples", data.max_examples, {0, 1'000'000'000});
  section.Integer("max_test_examples", data.max_test_examples, {0, 1'000'000'000});

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

  AddFileDataKeys(section, data);

  const SchemaSection partition = section.In("partition");
  partition.Choice<PartitionKind>("kind", data.partition.kind,
                                  {{"none", PartitionKind::kNone},
                                   {"iid", PartitionKind::kIid},
                                   {"classes_per_client", PartitionKind::kClassesPerClient},
                                   {"dirichlet", PartitionKind::kDirichlet},
                                   {"files", PartitionKind::kFiles},
                                   {"speakers", PartitionKind::kSpeakers}});
  if (owner == DataOf::kClient) {
    partition.Integer("clients", data.partition.clients, {1, 1'000'000});
  }
  partition.Number("alpha", data.partition.alpha, {.least = 0.0, .most = 1e6, .above_least = true});
  partition.Integer("classes_per_client", data.partition.classes_per_client, {1, 1024});
  partition.Integer("min_examples", data.partition.min_examples, {0, 1'000'000});
  partition.Integer("seed", data.partition.seed, {});
}

void CheckData(const DataOptions& data, const std::string& prefix, ReadKeys& keys) {
  if (data.domains.latent_dimensions > data.domains.dimensions) {
    keys.Complain({prefix + "domains.latent_dimensions", prefix + "domains.dimensions"},
                  fmt::format("{0}domains.latent_dimensions must be at most {0}domains.dimensions "
                              "(got {1} > {2})",
                              prefix, data.domains.latent_dimensions, data.domains.dimensions));
  }
  CheckPartition(data, prefix, keys);
  CheckImage(data, prefix, keys);
}

int InputsOf(const DataOptions& data) {
  constexpr int kMnistInputs = 28 * 28;
  constexpr int kCifarInputs = 3 * 32 * 32;
  switch (data.dataset) {
    case DatasetKind::kDomains:
      return data.domains.dimensions;
    case DatasetKind::kIdx:
      return kMnistInputs;
    case DatasetKind::kImageFolder:
      return data.image.channels * data.image.size * data.image.size;
    case DatasetKind::kCifarBinary:
      return kCifarInputs;
    case DatasetKind::kText:
      return data.text.context;
    case DatasetKind::kCsv:
      break;
  }
  return 0;
}

int ClassesOf(const DataOptions& data) {
  constexpr int kMnistClasses = 10;
  switch (data.dataset) {
    case DatasetKind::kDomains:
      return data.domains.classes;
    case DatasetKind::kIdx:
      return kMnistClasses;
    case DatasetKind::kCsv:
      return data.csv.classes;
    case DatasetKind::kText:
      return AlphabetSize(data.text.alphabet);
    case DatasetKind::kImageFolder:
    case DatasetKind::kCifarBinary:
      break;
  }
  return 0;
}

}  // namespace fedmoe
