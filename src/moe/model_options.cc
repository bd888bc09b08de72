// The preset's options as text, as they travel from coordinator to client.
#include "moe/model_options.h"

#include <charconv>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include <fmt/format.h>

namespace fedmoe {
namespace {

template <typename E>
using Names = std::map<std::string, E>;

const Names<GateMode> kGateModes = {{"shared_all", GateMode::kSharedAll},
                                    {"shared_rows", GateMode::kSharedRows},
                                    {"local", GateMode::kLocal}};
const Names<GateInput> kGateInputs = {
    {"token", GateInput::kToken}, {"sequence", GateInput::kSequence}, {"data", GateInput::kData}};
const Names<GateNormalisation> kGateNormalisations = {
    {"example", GateNormalisation::kExample}, {"population", GateNormalisation::kPopulation}};
const Names<ExpertInitialization> kInitializations = {{"alike", ExpertInitialization::kAlike},
                                                      {"apart", ExpertInitialization::kApart}};
const Names<ExpertActivation> kActivations = {{"relu", ExpertActivation::kRelu},
                                              {"gelu", ExpertActivation::kGelu},
                                              {"silu", ExpertActivation::kSilu},
                                              {"swiglu", ExpertActivation::kSwiGlu}};
const Names<bool> kBooleans = {{"false", false}, {"true", true}};

// One option: its key, and how it is read and written.
struct Field {
  std::string key;
  std::function<std::string()> text;
  std::function<Status(const std::string&)> parse;
};

Field Number(std::string key, int& value) {
  return {std::move(key), [&value] { return std::to_string(value); },
          [&value](const std::string& text) {
            const char* end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            if (error == std::errc() && stop == end) return Status::Ok();
            return InvalidArgument("'" + text + "' is not a whole number");
          }};
}

Field Number(std::string key, double& value) {
  return {std::move(key), [&value] { return fmt::format("{}", value); },
          [&value](const std::string& text) {
            const char* end = text.data() + text.size();
            const auto [stop, error] = std::from_chars(text.data(), end, value);
            if (error == std::errc() && stop == end) return Status::Ok();
            return InvalidArgument("'" + text + "' is not a number");
          }};
}

template <typename E>
Field Choice(std::string key, const Names<E>& names, E& value) {
  return {std::move(key),
          [&names, &value] {
            for (const auto& [name, other] : names) {
              if (other == value) return name;
            }
            return std::string();
          },
          [&names, &value](const std::string& text) {
            const auto found = names.find(text);
            if (found == names.end()) {
              return InvalidArgument("'" + text + "' is not known to this build");
            }
            value = found->second;
            return Status::Ok();
          }};
}

// They refer to `options`, which must outlive them.
std::vector<Field> Fields(ModelOptions& options) {
  return {Number("inputs", options.inputs),
          Number("classes", options.classes),
          Number("channels", options.channels),
          Number("embedding", options.embedding),
          Number("width", options.width),
          Number("depth", options.depth),
          Number("heads", options.heads),
          Number("moe_layers", options.moe_layers),
          Number("dense_width", options.dense_width),
          Number("expert_width", options.expert_width),
          Number("experts", options.experts),
          Number("top_k", options.top_k),
          Choice("expert_activation", kActivations, options.expert_activation),
          Number("shared_expert_width", options.shared_expert_width),
          Number("zero_computation.zero", options.zero_experts),
          Number("zero_computation.copy", options.copy_experts),
          Number("zero_computation.constant", options.constant_experts),
          Choice("gate.mode", kGateModes, options.gate_mode),
          Choice("gate.input", kGateInputs, options.gate_input),
          Choice("gate.normalise", kGateNormalisations, options.gate_normalisation),
          Number("gate.post_hoc_batches", options.post_hoc_batches),
          Choice("gate.selection_bias", kBooleans, options.selection_bias),
          Choice("expert_initialization", kInitializations, options.expert_initialization),
          Number("soup", options.soup)};
}

}  // namespace

int ModelOptions::Depth() const {
  if (depth > 0 || preset == "moe_mlp") return depth;
  return preset == "moe_transformer" ? 4 : 1;
}

int ModelOptions::GateInputs() const {
  switch (gate_input) {
    case GateInput::kSequence:
      return preset == "moe_mlp" ? embedding : width;
    case GateInput::kData:
      return ReadsText() ? classes : inputs;
    default:
      return width;
  }
}

int ModelOptions::ImageSize() const {
  return static_cast<int>(std::lround(std::sqrt(static_cast<double>(inputs) / Channels())));
}

std::map<std::string, std::string> ModelOptionsText(const ModelOptions& options) {
  ModelOptions copy = options;
  std::map<std::string, std::string> text;
  for (const Field& field : Fields(copy)) text[field.key] = field.text();
  return text;
}

Result<ModelOptions> ParseModelOptions(const std::string& preset,
                                       const std::map<std::string, std::string>& options) {
  ModelOptions parsed;
  parsed.preset = preset;
  const std::vector<Field> fields = Fields(parsed);
  std::map<std::string, const Field*> by_key;
  for (const Field& field : fields) by_key[field.key] = &field;
  for (const auto& [key, text] : options) {
    const auto field = by_key.find(key);
    if (field == by_key.end()) {
      return InvalidArgument(
          "model." + key +
          " is not known to this build; run the same version of fedmoe on both sides");
    }
    FEDMOE_RETURN_IF_ERROR(field->second->parse(text).WithContext("model." + key));
  }
  for (const Field& field : fields) {
    if (!options.contains(field.key)) {
      return InvalidArgument("model." + field.key +
                             " is missing from the coordinator's description of the model");
    }
  }
  return parsed;
}

}  // namespace fedmoe
