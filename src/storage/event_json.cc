#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "storage/json_fields.h"
#include "storage/state_json.h"

namespace fedmoe {
namespace {

constexpr char kTypeKey[] = "type";

// By the variant's index.
constexpr std::array kEventTypes = std::to_array<std::string_view>(
    {"client_joined", "heartbeat", "client_left", "update_received", "evaluation_received",
     "task_returned", "aggregated", "aggregation_failed", "checkpoint_written", "checkpoint_failed",
     "stop_requested", "resumed", "tick"});
static_assert(kEventTypes.size() == std::variant_size_v<Event>);

// The default event of a type's name.
template <std::size_t... kIndices>
std::optional<Event> EventOfType(std::string_view type, std::index_sequence<kIndices...>) {
  std::optional<Event> event;
  ((type == kEventTypes[kIndices] ? void(event.emplace(std::in_place_index<kIndices>)) : void()),
   ...);
  return event;
}

}  // namespace

std::string EventToJson(const Event& event) {
  nlohmann::json json = std::visit([](const auto& content) { return ToJson(content); }, event);
  json[kTypeKey] = kEventTypes[event.index()];
  return DumpJson(json);
}

Result<Event> EventFromJson(const std::string& text) {
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) return Internal("event: is not JSON");
  if (!json.is_object() || !json.contains(kTypeKey) || !json[kTypeKey].is_string()) {
    return Internal("event: has no type");
  }
  const auto type = json[kTypeKey].get<std::string>();
  json.erase(kTypeKey);
  std::optional<Event> event = EventOfType(type, std::make_index_sequence<kEventTypes.size()>());
  if (!event) return Internal("event: unknown type " + type);
  JsonReader reader(type);
  std::visit([&](auto& content) { reader.Read(json, content); }, *event);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  return *std::move(event);
}

}  // namespace fedmoe
