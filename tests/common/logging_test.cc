#include "common/logging.h"

#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

// Puts the default logger back, so that no test's set-up reaches another.
class Logging : public ::testing::Test {
 protected:
  ~Logging() override { spdlog::set_default_logger(before_); }

  // What `program` at `level` writes for one message of each level.
  static std::vector<std::string> LinesAt(const std::string& level) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(SetUpLogging("coordinator", level), Status::Ok());
    spdlog::trace("one");
    spdlog::debug("two");
    spdlog::info("three");
    spdlog::warn("four");
    spdlog::error("five");
    std::istringstream captured(::testing::internal::GetCapturedStderr());
    std::vector<std::string> lines;
    for (std::string line; std::getline(captured, line);) lines.push_back(line);
    return lines;
  }

 private:
  std::shared_ptr<spdlog::logger> before_ = spdlog::default_logger();
};

TEST_F(Logging, WritesOneLineAnEventWithTimeLevelAndProgram) {
  const std::vector<std::string> lines = LinesAt("trace");
  const std::vector<std::string> endings = {"T coordinator: one", "D coordinator: two",
                                            "I coordinator: three", "W coordinator: four",
                                            "E coordinator: five"};
  ASSERT_EQ(lines.size(), endings.size());
  const std::string time = "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3} ";
  for (std::size_t i = 0; i < lines.size(); ++i) {
    EXPECT_THAT(lines[i], ::testing::MatchesRegex(time + endings[i]));
  }
}

TEST_F(Logging, WritesTheChosenLevelAndThoseAbove) {
  EXPECT_EQ(LinesAt("trace").size(), 5u);
  EXPECT_EQ(LinesAt("debug").size(), 4u);
  EXPECT_EQ(LinesAt("info").size(), 3u);
  EXPECT_EQ(LinesAt("warning").size(), 2u);
  EXPECT_EQ(LinesAt("error").size(), 1u);
  EXPECT_EQ(LinesAt("off").size(), 0u);
}

TEST_F(Logging, RefusesAnUnknownLevelAndNamesTheKnownOnes) {
  EXPECT_EQ(SetUpLogging("coordinator", "loud"),
            InvalidArgument("log level must be one of trace, debug, info, warning, error, off "
                            "(got 'loud')"));
  EXPECT_EQ(SetUpLogging("coordinator", "").code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fedmoe
