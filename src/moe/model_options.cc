// The preset's options as text, as they travel from coordinator to client.
#include "moe/model_options.h"

#include <charconv>
#include <functional>
#include <map>
#include <string>

namespace fedmoe {
namespace {

Status ParseNumber(const std::string& text, int& value) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end)
    return InvalidArgument("'" + text + "' is not a whole number");
  return Status::Ok();
}

template <typename E>
Status ParseName(const std::map<std::string, E>& names, const std::string& text, E& value) {
  const auto found = names.find(text);
  if (found == names.end()) return InvalidArgument("'" + text + "' is not known to this build");
  value = found->second;
  return Status::Ok();
}

template <typename E>
std::string NameOf(const std::map<std::string, E>& names, E value) {
  for (const auto& [name, other] : names) {
    if (other == value) return name;
  }
  return "";
}

const std::map<std::string, GateMode> kGateModes = {{"shared_all", GateMode::kSharedAll},
                                                    {"shared_rows", GateMode::kSharedRows},
                                                    {"local", GateMode::kLocal}};
const std::map<std::string, GateInput> kGateInputs = {{"trunk", GateInput::kTrunk},
                                                      {"data", GateInput::kData}};
const std::map<std::string, ExpertInitialization> kInitializations = {
    {"alike", ExpertInitialization::kAlike}, {"apart", ExpertInitialization::kApart}};

}  // namespace

std::map<std::string, std::string> ModelOptionsText(const ModelOptions& options) {
  return {{"inputs", std::to_string(options.inputs)},
          {"classes", std::to_string(options.classes)},
          {"width", std::to_string(options.width)},
          {"expert_width", std::to_string(options.expert_width)},
          {"experts", std::to_string(options.experts)},
          {"top_k", std::to_string(options.top_k)},
          {"gate.mode", NameOf(kGateModes, options.gate_mode)},
          {"gate.input", NameOf(kGateInputs, options.gate_input)},
          {"expert_initialization", NameOf(kInitializations, options.expert_initialization)}};
}

Result<ModelOptions> ParseModelOptions(const std::string& preset,
                                       const std::map<std::string, std::string>& options) {
  ModelOptions parsed;
  parsed.preset = preset;
  using Parser = std::function<Status(const std::string&)>;
  const auto number = [](int& value) {
    return Parser([&value](const std::string& text) { return ParseNumber(text, value); });
  };
  const std::map<std::string, Parser> parsers = {
      {"inputs", number(parsed.inputs)},
      {"classes", number(parsed.classes)},
      {"width", number(parsed.width)},
      {"expert_width", number(parsed.expert_width)},
      {"experts", number(parsed.experts)},
      {"top_k", number(parsed.top_k)},
      {"gate.mode",
       [&](const std::string& text) { return ParseName(kGateModes, text, parsed.gate_mode); }},
      {"gate.input",
       [&](const std::string& text) { return ParseName(kGateInputs, text, parsed.gate_input); }},
      {"expert_initialization", [&](const std::string& text) {
         return ParseName(kInitializations, text, parsed.expert_initialization);
       }}};
  for (const auto& [key, text] : options) {
    const auto parser = parsers.find(key);
    if (parser == parsers.end()) {
      return InvalidArgument(
          "model." + key +
          " is not known to this build; run the same version of fedmoe on both sides");
    }
    FEDMOE_RETURN_IF_ERROR(parser->second(text).WithContext("model." + key));
  }
  for (const auto& [key, parser] : parsers) {
    if (!options.contains(key))
      return InvalidArgument("model." + key +
                             " is missing from the coordinator's description of the model");
  }
  return parsed;
}

}  // namespace fedmoe
