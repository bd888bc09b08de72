#include "data/partition.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>

#include <fmt/format.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

using Parts = std::vector<std::vector<std::int64_t>>;

constexpr int kMaxDirichletDraws = 1000;

Status Validate(std::span<const std::int32_t> labels, int classes,
                const PartitionOptions& options) {
  if (options.kind == PartitionKind::kNone) {
    return InvalidArgument("data.partition.kind must not be none to split a dataset over clients");
  }
  if (options.clients < 1) {
    return InvalidArgument(
        fmt::format("data.partition.clients must be at least 1 (got {})", options.clients));
  }
  if (options.min_examples < 0) {
    return InvalidArgument(fmt::format("data.partition.min_examples must be at least 0 (got {})",
                                       options.min_examples));
  }
  if (options.kind == PartitionKind::kDirichlet &&
      !(options.alpha > 0.0 && std::isfinite(options.alpha))) {
    return InvalidArgument(
        fmt::format("data.partition.alpha must be above 0 and finite (got {})", options.alpha));
  }
  const std::int64_t least = std::max(1, options.min_examples);
  const auto count = static_cast<std::int64_t>(labels.size());
  if (count < options.clients * least) {
    return InvalidArgument(fmt::format(
        "data.partition: {} examples are too few for {} clients of at least {} each; lower "
        "data.partition.clients or data.partition.min_examples",
        count, options.clients, least));
  }
  for (std::size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= classes) {
      return InvalidArgument(fmt::format(
          "data.partition: label {} of example {} is outside 0 to {}", labels[i], i, classes - 1));
    }
  }
  return Status::Ok();
}

CounterRng StreamOf(const PartitionOptions& options, std::string_view purpose) {
  return CounterRng::For(options.seed, "", 0, purpose);
}

// The examples of each class, in an order that the seed decides.
Parts ShuffledByClass(std::span<const std::int32_t> labels, int classes,
                      const PartitionOptions& options) {
  Parts by_class(static_cast<std::size_t>(classes));
  for (std::size_t i = 0; i < labels.size(); ++i) {
    by_class[static_cast<std::size_t>(labels[i])].push_back(static_cast<std::int64_t>(i));
  }
  CounterRng rng = StreamOf(options, "partition.examples");
  for (auto& examples : by_class) rng.Shuffle(examples);
  return by_class;
}

Parts PartitionIid(std::size_t examples, const PartitionOptions& options) {
  std::vector<std::int64_t> order(examples);
  std::iota(order.begin(), order.end(), 0);
  CounterRng rng = StreamOf(options, "partition.examples");
  rng.Shuffle(order);
  const auto clients = static_cast<std::size_t>(options.clients);
  Parts parts(clients);
  for (std::size_t client = 0; client < clients; ++client) {
    parts[client].assign(
        order.begin() + static_cast<std::ptrdiff_t>(examples * client / clients),
        order.begin() + static_cast<std::ptrdiff_t>(examples * (client + 1) / clients));
  }
  return parts;
}

// For each class the clients that hold it. Deals the classes in shuffled rounds, like cards, so
// that holders differ by at most one between classes; a client whose hand spans two rounds takes,
// from the new one, only classes that it lacks.
Parts DealClasses(const std::vector<std::size_t>& present, std::size_t classes,
                  const PartitionOptions& options) {
  CounterRng rng = StreamOf(options, "partition.classes");
  Parts holders(classes);
  std::vector<std::int64_t> clients(static_cast<std::size_t>(options.clients));
  std::iota(clients.begin(), clients.end(), 0);
  rng.Shuffle(clients);
  std::vector<std::size_t> deck;
  for (const std::int64_t client : clients) {
    for (int dealt = 0; dealt < options.classes_per_client; ++dealt) {
      if (deck.empty()) {
        deck = present;
        rng.Shuffle(deck);
      }
      const auto card = std::find_if(deck.begin(), deck.end(), [&](std::size_t label) {
        return holders[label].empty() || holders[label].back() != client;
      });
      const std::size_t label = *card;
      deck.erase(card);
      holders[label].push_back(client);
    }
  }
  return holders;
}

Result<Parts> PartitionByClasses(std::span<const std::int32_t> labels, int classes,
                                 const PartitionOptions& options) {
  const Parts by_class = ShuffledByClass(labels, classes, options);
  std::vector<std::size_t> present;
  for (std::size_t label = 0; label < by_class.size(); ++label) {
    if (!by_class[label].empty()) present.push_back(label);
  }
  const auto wanted = static_cast<std::int64_t>(options.classes_per_client);
  if (wanted < 1 || wanted > static_cast<std::int64_t>(present.size())) {
    return InvalidArgument(fmt::format(
        "data.partition.classes_per_client must be in 1 to {}, the classes that have examples "
        "(got {})",
        present.size(), wanted));
  }
  if (options.clients * wanted < static_cast<std::int64_t>(present.size())) {
    return InvalidArgument(fmt::format(
        "data.partition: {} clients of {} classes each leave some of {} classes to nobody; raise "
        "data.partition.classes_per_client or data.partition.clients",
        options.clients, wanted, present.size()));
  }
  const Parts holders = DealClasses(present, by_class.size(), options);
  Parts parts(static_cast<std::size_t>(options.clients));
  for (const std::size_t label : present) {
    const auto& examples = by_class[label];
    const std::size_t shares = holders[label].size();
    if (examples.size() < shares) {
      return InvalidArgument(fmt::format(
          "data.partition: class {} has {} examples for the {} clients that are to hold it; lower "
          "data.partition.clients or data.partition.classes_per_client",
          label, examples.size(), shares));
    }
    for (std::size_t i = 0; i < examples.size(); ++i) {
      parts[static_cast<std::size_t>(holders[label][i * shares / examples.size()])].push_back(
          examples[i]);
    }
  }
  return parts;
}

// Where each client's share of a class ends, for a class of `examples`; the last entry is
// `examples`.
std::vector<std::size_t> DrawCuts(std::size_t examples, const PartitionOptions& options,
                                  CounterRng& rng) {
  std::vector<double> shares(static_cast<std::size_t>(options.clients));
  double total = 0.0;
  for (double& share : shares) {
    share = rng.NextGamma(options.alpha);
    total += share;
  }
  // With a tiny alpha every draw may underflow (NextGamma then gives the smallest normal double);
  // the limit of the distribution gives all to one client.
  if (*std::max_element(shares.begin(), shares.end()) <= std::numeric_limits<double>::min()) {
    std::fill(shares.begin(), shares.end(), 0.0);
    total = 1.0;
    shares[static_cast<std::size_t>(rng.NextBelow(shares.size()))] = 1.0;
  }
  std::vector<std::size_t> cuts(shares.size());
  double sum = 0.0;
  for (std::size_t client = 0; client < shares.size(); ++client) {
    sum += shares[client];
    const double cut = std::floor(sum / total * static_cast<double>(examples) + 0.5);
    cuts[client] = std::min(examples, static_cast<std::size_t>(cut));
  }
  cuts.back() = examples;
  return cuts;
}

Result<Parts> PartitionDirichlet(std::span<const std::int32_t> labels, int classes,
                                 const PartitionOptions& options) {
  const Parts by_class = ShuffledByClass(labels, classes, options);
  const auto clients = static_cast<std::size_t>(options.clients);
  CounterRng rng = StreamOf(options, "partition.shares");
  for (int draw = 0; draw < kMaxDirichletDraws; ++draw) {
    std::vector<std::vector<std::size_t>> cuts;
    std::vector<std::size_t> sizes(clients);
    for (const auto& examples : by_class) {
      cuts.push_back(DrawCuts(examples.size(), options, rng));
      for (std::size_t client = 0; client < clients; ++client) {
        sizes[client] += cuts.back()[client] - (client == 0 ? 0 : cuts.back()[client - 1]);
      }
    }
    const auto least = static_cast<std::size_t>(std::max(1, options.min_examples));
    if (*std::min_element(sizes.begin(), sizes.end()) < least) continue;
    Parts parts(clients);
    for (std::size_t label = 0; label < by_class.size(); ++label) {
      std::size_t next = 0;
      for (std::size_t client = 0; client < clients; ++client) {
        while (next < cuts[label][client]) parts[client].push_back(by_class[label][next++]);
      }
    }
    return parts;
  }
  return InvalidArgument(fmt::format(
      "data.partition: no draw of {} gave each of {} clients {} of {} examples at alpha {}; raise "
      "data.partition.alpha, or lower data.partition.clients or data.partition.min_examples",
      kMaxDirichletDraws, clients, std::max(1, options.min_examples), labels.size(),
      options.alpha));
}

Result<Parts> PartitionByKind(std::span<const std::int32_t> labels, int classes,
                              const PartitionOptions& options) {
  switch (options.kind) {
    case PartitionKind::kIid:
      return PartitionIid(labels.size(), options);
    case PartitionKind::kClassesPerClient:
      return PartitionByClasses(labels, classes, options);
    case PartitionKind::kDirichlet:
      return PartitionDirichlet(labels, classes, options);
    case PartitionKind::kNone:
    case PartitionKind::kFiles:
    case PartitionKind::kSpeakers:
      break;
  }
  return Internal("data.partition.kind has a value outside its enumeration");
}

}  // namespace

Result<std::vector<std::vector<std::int64_t>>> PartitionExamples(
    std::span<const std::int32_t> labels, int classes, const PartitionOptions& options) {
  FEDMOE_RETURN_IF_ERROR(Validate(labels, classes, options));
  FEDMOE_ASSIGN_OR_RETURN(Parts parts, PartitionByKind(labels, classes, options));
  for (auto& part : parts) std::sort(part.begin(), part.end());
  return parts;
}

}  // namespace fedmoe
