#include "storage/state_json.h"

#include "storage/json_fields.h"

namespace fedmoe {

std::string StateToJson(const RoundState& state) { return DumpJson(ToJson(state)); }

Result<RoundState> StateFromJson(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (json.is_discarded()) return Internal("state: is not JSON");
  RoundState state;
  JsonReader reader("state");
  reader.Read(json, state);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  return state;
}

}  // namespace fedmoe
