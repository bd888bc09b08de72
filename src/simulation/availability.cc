#include "simulation/availability.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "common/counter_rng.h"
#include "common/file_system.h"

namespace fedmoe {
namespace {

constexpr Milliseconds kDayMs = 86'400'000;
constexpr std::uint64_t kMaxTraceBytes = std::uint64_t{256} << 20;
constexpr double kMaxSeconds = 1e9;
constexpr std::string_view kHeader = "client,start_s,end_s";

// 0 to kMaxSeconds.
std::optional<Milliseconds> ParseSeconds(std::string_view text) {
  double seconds = 0.0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  if (!(seconds >= 0.0 && seconds <= kMaxSeconds)) return std::nullopt;
  return std::llround(seconds * 1000.0);
}

struct TraceRow {
  std::string_view client;
  OnlineSpan span;
};

// The row, or what is wrong with it.
Result<TraceRow> ParseRow(std::string_view line) {
  const std::size_t first = line.find(',');
  const std::size_t second = first == line.npos ? line.npos : line.find(',', first + 1);
  if (second == line.npos || line.find(',', second + 1) != line.npos) {
    return InvalidArgument(fmt::format("a row must be {}", kHeader));
  }
  const auto begin = ParseSeconds(line.substr(first + 1, second - first - 1));
  const auto end = ParseSeconds(line.substr(second + 1));
  if (!begin || !end || *begin >= *end) {
    return InvalidArgument(fmt::format("start_s and end_s must be 0 to {:g} and rise (got {})",
                                       kMaxSeconds, line.substr(first + 1, 80)));
  }
  return TraceRow{.client = line.substr(0, first), .span = {*begin, *end}};
}

void SortAndJoin(std::vector<OnlineSpan>& spans) {
  std::sort(spans.begin(), spans.end(), [](const OnlineSpan& a, const OnlineSpan& b) {
    return std::pair(a.begin_ms, a.end_ms) < std::pair(b.begin_ms, b.end_ms);
  });
  std::vector<OnlineSpan> joined;
  for (const OnlineSpan& span : spans) {
    if (!joined.empty() && span.begin_ms <= joined.back().end_ms) {
      joined.back().end_ms = std::max(joined.back().end_ms, span.end_ms);
    } else {
      joined.push_back(span);
    }
  }
  spans = std::move(joined);
}

Status CheckNames(const std::map<ClientId, std::vector<OnlineSpan>>& trace,
                  const std::vector<ClientId>& clients, const std::string& path) {
  const std::set<ClientId> known(clients.begin(), clients.end());
  for (const auto& [name, spans] : trace) {
    if (known.contains(name)) continue;
    return InvalidArgument(
        fmt::format("{}: no trainer of the fleet is named '{}' (they are {} to {})", path, name,
                    clients.front(), clients.back()));
  }
  return Status::Ok();
}

}  // namespace

Result<std::map<ClientId, std::vector<OnlineSpan>>> ParseTrace(const std::string& path,
                                                               std::string_view text) {
  std::map<ClientId, std::vector<OnlineSpan>> trace;
  int number = 0;
  while (!text.empty()) {
    ++number;
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (number == 1) {
      if (line == kHeader) continue;
      return InvalidArgument(fmt::format("{}:1: the first line must be {}", path, kHeader));
    }
    if (line.empty()) continue;
    const Result<TraceRow> row = ParseRow(line);
    if (!row.ok()) {
      return InvalidArgument(fmt::format("{}:{}: {}", path, number, row.status().message()));
    }
    trace[ClientId(row->client)].push_back(row->span);
  }
  for (auto& [client, spans] : trace) SortAndJoin(spans);
  return trace;
}

Result<Availability> Availability::Make(const SimulationOptions& options,
                                        const std::vector<ClientId>& clients, std::uint64_t seed) {
  Availability availability;
  availability.kind_ = options.availability;
  if (options.availability == AvailabilityKind::kDaily) {
    availability.online_ms_ =
        std::max<Milliseconds>(1, std::llround(options.online_share * static_cast<double>(kDayMs)));
    for (const ClientId& client : clients) {
      CounterRng rng = CounterRng::For(seed, client, 0, "simulation.day");
      availability.begins_.push_back(static_cast<Milliseconds>(rng.NextBelow(kDayMs)));
    }
  }
  if (options.availability == AvailabilityKind::kTrace) {
    FEDMOE_ASSIGN_OR_RETURN(const std::string text,
                            ReadFile(PosixFileSystem(), options.trace, kMaxTraceBytes));
    FEDMOE_ASSIGN_OR_RETURN(auto trace, ParseTrace(options.trace, text));
    FEDMOE_RETURN_IF_ERROR(CheckNames(trace, clients, options.trace));
    for (const ClientId& client : clients) {
      availability.traces_.push_back(std::move(trace[client]));
    }
  }
  return availability;
}

bool Availability::OnlineAt(std::size_t client, Milliseconds at_ms) const {
  switch (kind_) {
    case AvailabilityKind::kAlways:
      return true;
    case AvailabilityKind::kDaily:
      return (at_ms - begins_[client] + kDayMs) % kDayMs < online_ms_;
    case AvailabilityKind::kTrace:
      return std::any_of(
          traces_[client].begin(), traces_[client].end(),
          [&](const OnlineSpan& span) { return span.begin_ms <= at_ms && at_ms < span.end_ms; });
  }
  return true;
}

Milliseconds Availability::NextChangeMs(std::size_t client, Milliseconds at_ms) const {
  if (kind_ == AvailabilityKind::kDaily) {
    if (online_ms_ >= kDayMs) return -1;
    const Milliseconds into = (at_ms - begins_[client] + kDayMs) % kDayMs;
    return at_ms + (into < online_ms_ ? online_ms_ - into : kDayMs - into);
  }
  if (kind_ == AvailabilityKind::kTrace) {
    for (const OnlineSpan& span : traces_[client]) {
      if (span.begin_ms > at_ms) return span.begin_ms;
      if (span.end_ms > at_ms) return span.end_ms;
    }
  }
  return -1;
}

}  // namespace fedmoe
