#include "common/logging.h"

#include <array>
#include <exception>
#include <memory>
#include <string_view>
#include <utility>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace fedmoe {
namespace {

constexpr std::array<std::pair<std::string_view, spdlog::level::level_enum>, 6> kLevels = {{
    {"trace", spdlog::level::trace},
    {"debug", spdlog::level::debug},
    {"info", spdlog::level::info},
    {"warning", spdlog::level::warn},
    {"error", spdlog::level::err},
    {"off", spdlog::level::off},
}};

void InstallLogger(const std::string& program, spdlog::level::level_enum level) {
  auto logger =
      std::make_shared<spdlog::logger>(program, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(level);
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %n: %v");
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace

Status SetUpLogging(const std::string& program, const std::string& level) {
  for (const auto& [name, value] : kLevels) {
    if (name != level) continue;
    try {
      InstallLogger(program, value);
    } catch (const std::exception& error) {
      return Internal("set up logging: " + std::string(error.what()));
    }
    return Status::Ok();
  }
  return InvalidArgument("log level must be one of trace, debug, info, warning, error, off (got '" +
                         level + "')");
}

}  // namespace fedmoe
