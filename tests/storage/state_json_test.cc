#include "storage/state_json.h"

#include <cmath>
#include <limits>
#include <utility>

#include <gtest/gtest.h>

#include "tests/storage/random_fields.h"

namespace fedmoe {
namespace {

TEST(StateJson, KeepsEveryFieldOfARandomStateExactly) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto state = RandomValue<RoundState>(seed);
    const std::string text = StateToJson(state);
    const Result<RoundState> read = StateFromJson(text);
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    ASSERT_EQ(LeavesOf(*read), LeavesOf(state));
    ASSERT_EQ(StateToJson(*read), text);
  }
}

template <std::size_t... kIndices>
std::vector<Event> OneOfEach(std::uint64_t seed, std::index_sequence<kIndices...>) {
  return {Event(RandomValue<std::variant_alternative_t<kIndices, Event>>(seed))...};
}

TEST(EventJson, KeepsEveryFieldOfEveryEventExactly) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto all = std::make_index_sequence<std::variant_size_v<Event>>();
    for (const Event& event : OneOfEach(seed, all)) {
      const Result<Event> read = EventFromJson(EventToJson(event));
      ASSERT_TRUE(read.ok()) << read.status().ToString();
      ASSERT_EQ(LeavesOf(*read), LeavesOf(event));
    }
  }
}

TEST(EventJson, NamesTheType) {
  EXPECT_EQ(EventToJson(Tick{.at_ms = 7}), R"({"at_ms":7,"type":"tick"})");
  EXPECT_EQ(EventToJson(StopRequested{.at_ms = -1, .drain = false}),
            R"({"at_ms":-1,"drain":false,"type":"stop_requested"})");
}

TEST(EventJson, RefusesWhatItDidNotWrite) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "INTERNAL: event: is not JSON"},
      {"[]", "INTERNAL: event: has no type"},
      {R"({"at_ms":7})", "INTERNAL: event: has no type"},
      {R"({"type":"tock","at_ms":7})", "INTERNAL: event: unknown type tock"},
      {R"({"type":"tick"})", "INTERNAL: tick: expected 1 fields, found 0"},
      {R"({"type":"tick","at":7})", "INTERNAL: tick: field at_ms is missing"},
      {R"({"type":"tick","at_ms":7,"more":1})", "INTERNAL: tick: expected 1 fields, found 2"},
      {R"({"type":"tick","at_ms":7.5})", "INTERNAL: tick.at_ms: expected a whole number"},
      {R"({"type":"tick","at_ms":18446744073709551615})",
       "INTERNAL: tick.at_ms: number out of range"},
      {R"({"type":"stop_requested","at_ms":1,"drain":1})",
       "INTERNAL: stop_requested.drain: expected true or false"},
      {R"({"type":"heartbeat","at_ms":1,"client":2,"session":3})",
       "INTERNAL: heartbeat.client: expected a string"},
      {R"({"type":"heartbeat","at_ms":1,"client":"c","session":-3})",
       "INTERNAL: heartbeat.session: number out of range"},
      {R"({"type":"aggregated","at_ms":1,"round":2,"shards":["a",5]})",
       "INTERNAL: aggregated.shards[1]: expected a string"},
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(EventFromJson(text).status().ToString(), expected) << text;
  }
}

TEST(EventJson, RefusesAnEnumeratorThatIsNot) {
  for (const std::string value : {"-1", "17", "99999999999"}) {
    const Result<Event> read =
        EventFromJson(R"({"type":"client_joined","at_ms":1,"client":"c","instance":"","role":)" +
                      value + R"(,"profile":{}})");
    EXPECT_EQ(read.status().code(), StatusCode::kInternal) << value;
    EXPECT_TRUE(read.status().message().starts_with("client_joined.role: "))
        << read.status().message();
  }
}

// A double that is not finite has no JSON; it is written as null, and refused when it is read.
TEST(StateJson, RefusesNumbersThatAreNotFinite) {
  for (const double value : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    RoundState state;
    state.plan.objective = value;
    EXPECT_EQ(StateFromJson(StateToJson(state)).status().ToString(),
              "INTERNAL: state.plan.objective: expected a number");
  }
}

TEST(StateJson, RefusesAKeyThatStandsTwice) {
  RoundState state;
  state.rejected = {{"stale_round", 1}};
  std::string text = StateToJson(state);
  const std::string pair = R"(["stale_round",1])";
  text.insert(text.find(pair), pair + ",");
  EXPECT_EQ(StateFromJson(text).status().ToString(),
            "INTERNAL: state.rejected: a key stands twice");
}

TEST(StateJson, RefusesTextThatIsCutAnywhere) {
  const std::string text = StateToJson(RoundState());
  for (std::size_t length = 0; length < text.size(); ++length) {
    ASSERT_EQ(StateFromJson(text.substr(0, length)).status().ToString(),
              "INTERNAL: state: is not JSON")
        << length;
  }
}

TEST(StateJson, WritesTextThatIsNotUtf8) {
  RoundState state;
  state.status_detail = "bad \xff byte";
  const Result<RoundState> read = StateFromJson(StateToJson(state));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->status_detail, "bad \xEF\xBF\xBD byte");
}

}  // namespace
}  // namespace fedmoe
