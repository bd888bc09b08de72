#include "storage/alignment_file.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "storage/json_object.h"

namespace fedmoe {
namespace {

// As the file has them, client after client.
struct ClientTable {
  std::vector<ClientId> clients;
  std::vector<int> capacity;
  std::vector<std::vector<double>> rows;
  std::vector<double> weight;      // empty: all alike
  std::vector<double> room_bytes;  // empty: no sizes
};

// Puts the clients, with what belongs to each, in order. `place` names the client at an index of
// the file.
template <typename Place>
Status SetClients(const ClientTable& table, const Place& place, AlignmentProblem& problem) {
  const auto& [clients, capacity, rows, weight, room_bytes] = table;
  const std::size_t experts = rows.front().size();
  std::vector<std::size_t> order(clients.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return table.clients[a] < table.clients[b];
  });
  problem.fitness.resize(static_cast<Eigen::Index>(rows.size()),
                         static_cast<Eigen::Index>(experts));
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::size_t from = order[i];
    const ClientId& client = clients[from];
    if (!IsValidClientId(client)) {
      return InvalidArgument(place(from) + " is '" + client +
                             "', must be 1 to 64 characters of A-Z, a-z, 0-9, '.', '_' and '-'");
    }
    if (i > 0 && clients[order[i - 1]] == client) {
      return InvalidArgument(place(from) + " is '" + client + "', which stands there already");
    }
    if (capacity[from] < 0 || capacity[from] > static_cast<int>(experts)) {
      return InvalidArgument(fmt::format("{} ('{}') has capacity {}, must be 0 to its {} experts",
                                         place(from), client, capacity[from], experts));
    }
    problem.clients.push_back(client);
    problem.capacity.push_back(capacity[from]);
    problem.fitness.row(static_cast<Eigen::Index>(i)) =
        Eigen::Map<const Eigen::RowVectorXd>(rows[from].data(), static_cast<Eigen::Index>(experts));
    if (!weight.empty()) problem.weight.push_back(weight[from]);
    if (!room_bytes.empty()) problem.room_bytes.push_back(room_bytes[from]);
  }
  problem.load = ExpertLoad::Of(static_cast<int>(experts));
  return Status::Ok();
}

// "line 3, column 5" of a byte, counted from 1.
std::string PlaceOf(std::string_view text, std::size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte == 0 ? 0 : byte - 1, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
  return fmt::format("line {}, column {}", line, before.size() - start + 1);
}

Result<nlohmann::json> ParseJson(const std::string& text, const std::string& name) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::parse_error& error) {
    return InvalidArgument(name + ": not valid JSON at " + PlaceOf(text, error.byte));
  } catch (const nlohmann::json::exception&) {
    return InvalidArgument(name + ": not valid JSON: a number is too large");
  }
}

// `capacity` is one number for all or one a client.
void ReadCapacity(JsonObjectReader& reader, std::size_t clients, std::vector<int>& capacity) {
  const nlohmann::json* value = reader.Find("capacity");
  if (value == nullptr || value->is_array()) {
    reader.Need("capacity", capacity);
    return;
  }
  int shared = 0;
  reader.Need("capacity", shared);
  capacity.assign(clients, shared);
}

Status CheckSizes(const std::string& name, const ClientTable& table) {
  const std::size_t clients = table.clients.size();
  if (clients == 0) return InvalidArgument(name + ": clients is empty");
  if (table.capacity.size() != clients) {
    return InvalidArgument(
        fmt::format("{}: capacity has {} numbers, must have one for each of {} "
                    "clients, or be one number for all",
                    name, table.capacity.size(), clients));
  }
  if (table.rows.size() != clients) {
    return InvalidArgument(
        fmt::format("{}: fitness has {} rows, must have one for each of {} clients", name,
                    table.rows.size(), clients));
  }
  for (const auto& [field, values] :
       {std::pair{"weight", &table.weight}, std::pair{"room_bytes", &table.room_bytes}}) {
    if (values->empty() || values->size() == clients) continue;
    return InvalidArgument(
        fmt::format("{}: {} has {} numbers, must have one for each of {} clients", name, field,
                    values->size(), clients));
  }
  const auto& rows = table.rows;
  if (rows.front().empty()) return InvalidArgument(name + ": fitness[0] is empty");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].size() == rows.front().size()) continue;
    return InvalidArgument(fmt::format("{}: fitness[{}] has {} numbers, fitness[0] has {}", name, i,
                                       rows[i].size(), rows.front().size()));
  }
  return Status::Ok();
}

// Of a list of one number an expert, where it was given.
template <typename T>
void SetHistory(JsonObjectReader& reader, const char* field, std::vector<T>& into) {
  std::vector<T> values;
  if (!reader.Take(field, values)) return;
  if (values.size() != into.size()) {
    return reader.Fail(fmt::format("{} has {} numbers, must have one for each of {} experts", field,
                                   values.size(), into.size()));
  }
  into = std::move(values);
}

std::vector<std::string_view> SplitLine(std::string_view line) {
  std::vector<std::string_view> cells;
  for (std::size_t begin = 0; begin <= line.size();) {
    const std::size_t end = std::min(line.find(',', begin), line.size());
    std::string_view cell = line.substr(begin, end - begin);
    const std::size_t first = cell.find_first_not_of(" \t\r");
    cell.remove_prefix(std::min(first, cell.size()));
    cells.push_back(cell.substr(0, cell.find_last_not_of(" \t\r") + 1));
    begin = end + 1;
  }
  return cells;
}

template <typename T>
bool ParseNumber(std::string_view text, T& into) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), into);
  return error == std::errc() && end == text.data() + text.size();
}

Status AddCsvRow(const std::string& place, std::string_view line,
                 const std::vector<std::string>& header, ClientTable& table) {
  const std::vector<std::string_view> cells = SplitLine(line);
  if (cells.size() != header.size()) {
    return InvalidArgument(
        fmt::format("{} has {} columns, the header has {}", place, cells.size(), header.size()));
  }
  int capacity = 0;
  if (!ParseNumber(cells[1], capacity)) {
    return InvalidArgument(
        fmt::format("{}: capacity is '{}', must be a whole number", place, cells[1]));
  }
  std::vector<double>& row = table.rows.emplace_back(cells.size() - 2);
  for (std::size_t i = 0; i < row.size(); ++i) {
    if (ParseNumber(cells[i + 2], row[i]) && std::isfinite(row[i])) continue;
    return InvalidArgument(
        fmt::format("{}: {} is '{}', must be a finite number", place, header[i + 2], cells[i + 2]));
  }
  table.clients.emplace_back(cells[0]);
  table.capacity.push_back(capacity);
  return Status::Ok();
}

bool EndsWith(const std::string& path, std::string_view ending) {
  return std::string_view(path).ends_with(ending);
}

nlohmann::ordered_json RowJson(const FitnessMatrix& fitness, std::size_t row) {
  const auto values = fitness.row(static_cast<Eigen::Index>(row));
  return std::vector<double>(values.begin(), values.end());
}

}  // namespace

Result<AlignmentProblem> ParseAlignmentJson(const std::string& text, const std::string& name) {
  FEDMOE_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, name));
  JsonObjectReader reader(json, name + ": ");
  reader.RefuseOthers({"clients", "capacity", "fitness", "weight", "room_bytes", "expert_bytes",
                       "deficit", "assignments", "layers", "seed", "round"});
  ClientTable table;
  reader.Need("clients", table.clients);
  ReadCapacity(reader, table.clients.size(), table.capacity);
  reader.Need("fitness", table.rows);
  reader.Take("weight", table.weight);
  reader.Take("room_bytes", table.room_bytes);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  FEDMOE_RETURN_IF_ERROR(CheckSizes(name, table));
  AlignmentProblem problem;
  const auto place = [&](std::size_t i) { return fmt::format("{}: clients[{}]", name, i); };
  FEDMOE_RETURN_IF_ERROR(SetClients(table, place, problem));
  SetHistory(reader, "deficit", problem.load.deficit);
  SetHistory(reader, "assignments", problem.load.assignments);
  reader.Take("expert_bytes", problem.expert_bytes);
  reader.Take("layers", problem.layers);
  reader.Take("seed", problem.seed);
  reader.Take("round", problem.round);
  FEDMOE_RETURN_IF_ERROR(reader.status());
  return problem;
}

Result<AlignmentProblem> ParseAlignmentCsv(const std::string& text, const std::string& name) {
  std::vector<std::string> header;
  ClientTable table;
  std::vector<int> lines;  // where each client stands
  int number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string place = fmt::format("{}:{}", name, number);
    if (header.empty()) {
      for (const std::string_view cell : SplitLine(line)) header.emplace_back(cell);
      if (header.size() >= 3 && header[0] == "client" && header[1] == "capacity") continue;
      return InvalidArgument(place +
                             ": the header must be client,capacity and one column an expert");
    }
    FEDMOE_RETURN_IF_ERROR(AddCsvRow(place, line, header, table));
    lines.push_back(number);
  }
  if (table.rows.empty()) return InvalidArgument(name + " has no clients");
  AlignmentProblem problem;
  const auto place = [&](std::size_t i) { return fmt::format("{}:{}: client", name, lines[i]); };
  FEDMOE_RETURN_IF_ERROR(SetClients(table, place, problem));
  return problem;
}

Result<AlignmentProblem> ReadAlignmentProblem(FileSystem& files, const std::string& path) {
  const bool csv = EndsWith(path, ".csv");
  if (!csv && !EndsWith(path, ".json")) {
    return InvalidArgument(path + ": a problem's file name must end in .json or .csv");
  }
  FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, path, kMaxAlignmentFileBytes));
  return csv ? ParseAlignmentCsv(text, path) : ParseAlignmentJson(text, path);
}

std::string AlignmentProblemToJson(const AlignmentProblem& problem) {
  const nlohmann::json clients = problem.clients;
  std::string text = "{\"clients\": " + clients.dump();
  text += ",\n \"capacity\": " + nlohmann::json(problem.capacity).dump();
  text += ",\n \"fitness\": [";
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    text += (c == 0 ? "\n  " : ",\n  ") + RowJson(problem.fitness, c).dump();
  }
  text += "],\n \"deficit\": " + nlohmann::json(problem.load.deficit).dump();
  text += ",\n \"assignments\": " + nlohmann::json(problem.load.assignments).dump();
  const auto add = [&](const char* field, const std::vector<double>& values) {
    if (values.empty()) return;
    text += fmt::format(",\n \"{}\": {}", field, nlohmann::json(values).dump());
  };
  add("weight", problem.weight);
  add("room_bytes", problem.room_bytes);
  add("expert_bytes", problem.expert_bytes);
  text += fmt::format(",\n \"layers\": {}, \"seed\": {}, \"round\": {}}}\n", problem.layers,
                      problem.seed, problem.round);
  return text;
}

std::string AlignmentPlanToJson(const AlignmentProblem& problem, const AlignmentPlan& plan,
                                double seconds) {
  using Json = nlohmann::ordered_json;
  Json json = {{"strategy", AlignmentStrategyName(plan.strategy)},
               {"solver", AlignmentSolverName(plan.solver)},
               {"seconds", seconds},
               {"objective", plan.objective},
               {"bound", plan.bound},
               {"gap", plan.gap},
               {"cv", plan.cv},
               {"floor_cv", plan.floor_cv},
               {"coverage", plan.coverage},
               {"relaxed", plan.relaxed},
               {"conflict", plan.conflict},
               {"load", plan.load},
               {"lower", plan.bounds.lower},
               {"upper", plan.bounds.upper},
               {"weighted_load", plan.weighted_load},
               {"weighted_lower", plan.weighted_bounds.lower},
               {"weighted_upper", plan.weighted_bounds.upper},
               {"violation", plan.violation},
               {"prices", plan.prices},
               {"clients", Json::array()}};
  auto assignment = plan.assignments.begin();
  for (std::size_t c = 0; c < problem.clients.size(); ++c) {
    Json experts = Json::array();
    Json reasons = Json::array();
    for (; assignment != plan.assignments.end() && assignment->client == static_cast<int>(c);
         ++assignment) {
      experts.push_back(assignment->expert);
      reasons.push_back(AssignmentReasonName(assignment->reason));
    }
    json["clients"].push_back({{"client", problem.clients[c]},
                               {"capacity", problem.capacity[c]},
                               {"experts", std::move(experts)},
                               {"reasons", std::move(reasons)}});
  }
  return DumpJson(json);
}

std::string AlignmentPlanToCsv(const AlignmentProblem& problem, const AlignmentPlan& plan) {
  std::string text = "client,expert,fitness,reason\n";
  for (const Assignment& assignment : plan.assignments) {
    text +=
        fmt::format("{},{},{},{}\n", problem.clients[static_cast<std::size_t>(assignment.client)],
                    assignment.expert, assignment.fitness, AssignmentReasonName(assignment.reason));
  }
  return text;
}

}  // namespace fedmoe
