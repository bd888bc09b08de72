#include "data/domains.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "common/counter_rng.h"

namespace fedmoe {
namespace {

constexpr int kCentringDraws = 4096;
constexpr int kMaxPermutationDraws = 1000;

// What all clients and the test set share: a function of the options alone.
struct World {
  std::vector<std::vector<double>> offsets;  // domains x dimensions: separation * mu_k
  std::vector<std::vector<std::int32_t>>
      labels;              // domains x classes: the label for a teacher's class
  std::vector<int> order;  // main domain of client i is order[i mod domains]
};

// latent-width(ReLU)-classes, logits centred over z ~ N(0, I).
class Teacher {
 public:
  Teacher(const DomainsOptions& options, int index)
      : latent_(static_cast<std::size_t>(options.latent_dimensions)),
        width_(static_cast<std::size_t>(options.teacher_width)),
        centres_(static_cast<std::size_t>(options.classes)) {
    CounterRng rng = CounterRng::For(options.seed, "world", index, "domains.teacher");
    hidden_weights_ = Normals(rng, width_ * latent_);
    hidden_biases_ = Normals(rng, width_);
    output_weights_ = Normals(rng, centres_.size() * width_);
    CounterRng draws = CounterRng::For(options.seed, "world", 0, "domains.centring");
    std::vector<double> sums(centres_.size());
    for (int draw = 0; draw < kCentringDraws; ++draw) {
      const std::vector<double> logits = Logits(Normals(draws, latent_));
      for (std::size_t c = 0; c < sums.size(); ++c) sums[c] += logits[c];
    }
    for (std::size_t c = 0; c < sums.size(); ++c) centres_[c] = sums[c] / kCentringDraws;
  }

  static std::vector<double> Normals(CounterRng& rng, std::size_t count) {
    std::vector<double> values(count);
    for (double& value : values) value = rng.NextNormal();
    return values;
  }

  // The first of the largest centred logits.
  std::size_t ClassOf(const std::vector<double>& z) const {
    const std::vector<double> logits = Logits(z);
    return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) -
                                    logits.begin());
  }

 private:
  std::vector<double> Logits(const std::vector<double>& z) const {
    std::vector<double> hidden(width_);
    for (std::size_t h = 0; h < width_; ++h) {
      const auto row = hidden_weights_.begin() + static_cast<std::ptrdiff_t>(h * latent_);
      hidden[h] = std::max(0.0, std::inner_product(z.begin(), z.end(), row, hidden_biases_[h]));
    }
    std::vector<double> logits(centres_.size());
    for (std::size_t c = 0; c < logits.size(); ++c) {
      const auto row = output_weights_.begin() + static_cast<std::ptrdiff_t>(c * width_);
      logits[c] = std::inner_product(hidden.begin(), hidden.end(), row, -centres_[c]);
    }
    return logits;
  }

  std::size_t latent_;
  std::size_t width_;
  std::vector<double> hidden_weights_;  // width x latent
  std::vector<double> hidden_biases_;   // width
  std::vector<double> output_weights_;  // classes x width
  std::vector<double> centres_;         // classes; 0 until the constructor has measured them
};

bool PermutesLabels(DomainsVariant variant) {
  return variant == DomainsVariant::kPermuted || variant == DomainsVariant::kHidden;
}

std::vector<double> DrawOffset(const DomainsOptions& options, int domain) {
  CounterRng rng = CounterRng::For(options.seed, "world", domain, "domains.mu");
  std::vector<double> offset = Teacher::Normals(rng, static_cast<std::size_t>(options.dimensions));
  const double length =
      std::sqrt(std::inner_product(offset.begin(), offset.end(), offset.begin(), 0.0));
  const double separation = options.variant == DomainsVariant::kHidden ? 0.0 : options.separation;
  for (double& value : offset) value *= separation / length;
  return offset;
}

// Distinct from those before while there are enough permutations; with fewer, repeats are accepted
// after some draws.
std::vector<std::int32_t> DrawPermutation(const DomainsOptions& options, int domain,
                                          const std::vector<std::vector<std::int32_t>>& before) {
  CounterRng rng = CounterRng::For(options.seed, "world", domain, "domains.permutation");
  std::vector<std::int32_t> labels(static_cast<std::size_t>(options.classes));
  std::iota(labels.begin(), labels.end(), 0);
  if (!PermutesLabels(options.variant)) return labels;
  for (int draw = 0; draw < kMaxPermutationDraws; ++draw) {
    rng.Shuffle(labels);
    if (std::find(before.begin(), before.end(), labels) == before.end()) break;
  }
  return labels;
}

World MakeWorld(const DomainsOptions& options) {
  World world;
  for (int domain = 0; domain < options.domains; ++domain) {
    world.offsets.push_back(DrawOffset(options, domain));
    world.labels.push_back(DrawPermutation(options, domain, world.labels));
    world.order.push_back(domain);
  }
  CounterRng rng = CounterRng::For(options.seed, "world", 0, "domains.order");
  rng.Shuffle(world.order);
  return world;
}

// One example for each entry of `domains`, drawn in that order.
Dataset Generate(const DomainsOptions& options, const World& world,
                 std::vector<std::int32_t> domains, CounterRng& rng) {
  const bool own_teachers = options.variant == DomainsVariant::kConcept;
  std::vector<Teacher> teachers;
  for (int i = 0; i < (own_teachers ? options.domains : 1); ++i) teachers.emplace_back(options, i);
  Dataset dataset;
  dataset.name = "domains";
  dataset.shape = {options.dimensions};
  dataset.classes = options.classes;
  dataset.values.reserve(domains.size() * static_cast<std::size_t>(options.dimensions));
  dataset.labels.reserve(domains.size());
  const auto latent = static_cast<std::size_t>(options.latent_dimensions);
  for (const std::int32_t entry : domains) {
    const auto domain = static_cast<std::size_t>(entry);
    const std::vector<double> z = Teacher::Normals(rng, latent);
    for (std::size_t d = 0; d < world.offsets[domain].size(); ++d) {
      const double signal = (d < latent ? z[d] : 0.0) + world.offsets[domain][d];
      dataset.values.push_back(static_cast<float>(signal + options.noise * rng.NextNormal()));
    }
    const std::size_t label = teachers[own_teachers ? domain : 0].ClassOf(z);
    dataset.labels.push_back(world.labels[domain][label]);
  }
  dataset.domains = std::move(domains);
  return dataset;
}

template <typename T>
Status CheckRange(const char* option, T value, T least, T most) {
  if (value >= least && value <= most) return Status::Ok();
  return InvalidArgument(
      fmt::format("data.domains.{} must be in {} to {} (got {})", option, least, most, value));
}

}  // namespace

Dataset GenerateDomainsForClient(const DomainsOptions& options, int client_index) {
  const World world = MakeWorld(options);
  CounterRng rng =
      CounterRng::For(options.seed, fmt::format("client-{}", client_index), 0, "domains");
  const int main_domain = world.order[static_cast<std::size_t>(client_index % options.domains)];
  std::vector<std::int32_t> domains(static_cast<std::size_t>(options.examples), main_domain);
  if (options.domains > 1) {
    const auto step =
        1 + static_cast<int>(rng.NextBelow(static_cast<std::uint64_t>(options.domains - 1)));
    const auto mixed =
        static_cast<std::ptrdiff_t>(std::floor(options.mix * options.examples + 0.5));
    std::fill(domains.begin(), domains.begin() + mixed, (main_domain + step) % options.domains);
    rng.Shuffle(domains);
  }
  return Generate(options, world, std::move(domains), rng);
}

Dataset GenerateDomainsTest(const DomainsOptions& options) {
  CounterRng rng = CounterRng::For(options.seed, "test", 0, "domains");
  std::vector<std::int32_t> domains(static_cast<std::size_t>(options.examples));
  for (std::size_t i = 0; i < domains.size(); ++i) {
    domains[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(options.domains));
  }
  return Generate(options, MakeWorld(options), std::move(domains), rng);
}

Status ValidateDomains(const DomainsOptions& options) {
  FEDMOE_RETURN_IF_ERROR(CheckRange("domains", options.domains, 1, 1024));
  FEDMOE_RETURN_IF_ERROR(CheckRange("dimensions", options.dimensions, 1, 4096));
  FEDMOE_RETURN_IF_ERROR(CheckRange("classes", options.classes, 2, 1024));
  FEDMOE_RETURN_IF_ERROR(CheckRange("teacher_width", options.teacher_width, 1, 4096));
  FEDMOE_RETURN_IF_ERROR(CheckRange("separation", options.separation, 0.0, 1000.0));
  FEDMOE_RETURN_IF_ERROR(CheckRange("noise", options.noise, 0.0, 1000.0));
  FEDMOE_RETURN_IF_ERROR(CheckRange("mix", options.mix, 0.0, 1.0));
  FEDMOE_RETURN_IF_ERROR(CheckRange("examples", options.examples, 1, 10000000));
  if (options.latent_dimensions < 1 || options.latent_dimensions > options.dimensions) {
    return InvalidArgument(fmt::format(
        "data.domains.latent_dimensions must be in 1 to data.domains.dimensions (got {} of {})",
        options.latent_dimensions, options.dimensions));
  }
  // 1 GiB of floats, as for images.
  const std::int64_t values = std::int64_t{options.examples} * options.dimensions;
  if (values > std::int64_t{1} << 28) {
    return InvalidArgument(fmt::format(
        "data.domains.examples * data.domains.dimensions must be at most 268435456 (got {})",
        values));
  }
  return Status::Ok();
}

}  // namespace fedmoe
