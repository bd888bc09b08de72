#include "client/client_state.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/checksum.h"

namespace fedmoe {
namespace {

constexpr char kInstance[] = "instance";
constexpr char kLock[] = "lock";
constexpr char kOver[] = "over";
constexpr char kMagic[] = "FMCLIENT";
constexpr std::uint32_t kFormatVersion = 2;
constexpr std::size_t kCrcBytes = 4;
constexpr std::size_t kPreambleBytes = 8 + 4 + 4 + 8 + 8 + kCrcBytes;
constexpr std::size_t kInstanceLength = 32;
constexpr std::uint64_t kMaxRunId = 256;
constexpr std::uint64_t kMaxStateBytes = 1ULL << 32;
constexpr std::uint64_t kMaxFileBytes = kPreambleBytes + kMaxRunId + kMaxStateBytes + kCrcBytes;
constexpr std::uint64_t kMaxEndBytes = 4096;

static_assert(std::endian::native == std::endian::little, "files are little-endian");

template <typename T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T GetAt(const std::string& in, std::size_t offset) {
  T value;
  std::memcpy(&value, in.data() + offset, sizeof(value));
  return value;
}

std::string RandomInstance() {
  std::random_device source;
  std::string text;
  while (text.size() < kInstanceLength) text += fmt::format("{:08x}", source());
  return text;
}

bool IsHexadecimal(const std::string& text) {
  return text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

constexpr std::string_view kCutShort = "it is cut short";

std::string Preamble(std::uint64_t run_id_bytes, TaskId task, std::uint64_t state_bytes) {
  std::string preamble(kMagic);
  Put(preamble, kFormatVersion);
  Put(preamble, static_cast<std::uint32_t>(run_id_bytes));
  Put(preamble, static_cast<std::uint64_t>(task));
  Put(preamble, state_bytes);
  Put(preamble, Crc32c(AsBytes(std::string_view(preamble))));
  return preamble;
}

// Whether the checksum that ends at `end` is that of all before it.
bool IsSound(const std::string& file, std::size_t end) {
  const std::size_t covered = end - kCrcBytes;
  return Crc32c(AsBytes(std::string_view(file)).first(covered)) ==
         GetAt<std::uint32_t>(file, covered);
}

// What is wrong with a state file's bytes; empty if nothing.
std::string_view FaultOf(const std::string& file) {
  if (std::string_view(kMagic).substr(0, file.size()) != file.substr(0, 8)) {
    return "its magic is wrong";
  }
  if (file.size() < kPreambleBytes) return kCutShort;
  if (GetAt<std::uint32_t>(file, 8) != kFormatVersion) return "its version is not known";
  if (!IsSound(file, kPreambleBytes)) return "its checksum is wrong";
  const std::uint64_t run_id = GetAt<std::uint32_t>(file, 12);
  const std::uint64_t state = GetAt<std::uint64_t>(file, 24);
  const std::uint64_t length = kPreambleBytes + run_id + state + kCrcBytes;
  if (run_id > kMaxRunId || state > kMaxStateBytes || file.size() > length) {
    return "its length does not match";
  }
  if (file.size() < length) return kCutShort;
  return IsSound(file, file.size()) ? "" : "its checksum is wrong";
}

}  // namespace

Result<std::unique_ptr<ClientState>> ClientState::Open(FileSystem& files,
                                                       const std::string& directory) {
  FEDMOE_RETURN_IF_ERROR(files.CreateDirectories(directory));
  auto lock = files.Lock(JoinPath(directory, kLock));
  if (lock.status().code() == StatusCode::kFailedPrecondition) {
    return FailedPrecondition("another client uses the state directory " + directory +
                              "; give each client its own");
  }
  if (!lock.ok()) return lock.status();
  std::unique_ptr<ClientState> state(new ClientState(files, directory, std::move(lock).value()));
  FEDMOE_RETURN_IF_ERROR(state->ReadInstance());
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    FEDMOE_ASSIGN_OR_RETURN(state->slots_[slot], state->ReadRecord(slot));
  }
  if (const std::string over = JoinPath(directory, kOver); files.Exists(over)) {
    FEDMOE_ASSIGN_OR_RETURN(const std::string text, ReadFile(files, over, kMaxEndBytes));
    const std::size_t line = std::min(text.find('\n'), text.size());
    state->end_ = End{text.substr(0, line), text.substr(std::min(line + 1, text.size()))};
  }
  return state;
}

Status ClientState::ReadInstance() {
  const std::string path = JoinPath(directory_, kInstance);
  if (files_.Exists(path)) {
    FEDMOE_ASSIGN_OR_RETURN(instance_, ReadFile(files_, path, 4096));
    if (instance_.size() == kInstanceLength + 1 && instance_.back() == '\n') instance_.pop_back();
    if (!IsHexadecimal(instance_) || instance_.size() > kInstanceLength) {
      return DataLoss(path +
                      " is damaged: it must hold 32 hexadecimal characters; remove it to make a "
                      "new instance key");
    }
    if (instance_.size() == kInstanceLength) return Status::Ok();
    spdlog::warn("{} is cut short, as by a write that failed; making a new instance key", path);
  }
  instance_ = RandomInstance();
  return WriteFileAtomically(files_, path, instance_ + "\n");
}

std::string ClientState::SlotPath(std::size_t slot) const {
  return JoinPath(directory_, fmt::format("state.{}", slot));
}

Result<std::optional<ClientState::Record>> ClientState::ReadRecord(std::size_t slot) {
  const std::string path = SlotPath(slot);
  if (!files_.Exists(path)) return std::optional<Record>();
  FEDMOE_ASSIGN_OR_RETURN(const std::string file, ReadFile(files_, path, kMaxFileBytes));
  const std::string_view fault = FaultOf(file);
  if (fault == kCutShort) {
    spdlog::warn("{} is cut short, as by a write that failed; dropping it", path);
    dropped_ = true;
    return std::optional<Record>();
  }
  if (!fault.empty()) {
    return DataLoss(
        fmt::format("{} is damaged: {}; remove it to start without client state", path, fault));
  }
  const std::size_t run_id = GetAt<std::uint32_t>(file, 12);
  const auto bytes = AsBytes(std::string_view(file)).subspan(kPreambleBytes + run_id);
  Record record;
  record.run_id = file.substr(kPreambleBytes, run_id);
  record.task = GetAt<std::uint64_t>(file, 16);
  record.bytes.assign(bytes.begin(), bytes.end() - kCrcBytes);
  return std::optional<Record>(std::move(record));
}

Status ClientState::Remove(const std::string& path) {
  return files_.Exists(path) ? files_.Remove(path) : Status::Ok();
}

void ClientState::BeginRun(const std::string& run_id) {
  run_id_ = run_id;
  committed_.reset();
  // The files go when they are written over.
  for (std::optional<Record>& record : slots_) {
    if (record && record->run_id != run_id) record.reset();
  }
}

void ClientState::Promote(TaskId last_committed) {
  committed_.reset();
  if (last_committed == 0) return;
  bool any = std::exchange(dropped_, false);
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    any = any || slots_[slot].has_value();
    if (slots_[slot] && slots_[slot]->task == last_committed) committed_ = slot;
  }
  if (any && !committed_) {
    spdlog::warn("{} has not the state that task {} left; going on without", directory_,
                 last_committed);
  }
}

Status ClientState::Settle(TaskId last_committed, TaskId keep) {
  Promote(last_committed);
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    if (!slots_[slot] || slot == committed_ || slots_[slot]->task == keep) continue;
    FEDMOE_RETURN_IF_ERROR(Remove(SlotPath(slot)));
    slots_[slot].reset();
  }
  return Status::Ok();
}

std::span<const std::byte> ClientState::committed() const {
  return committed_ ? std::span<const std::byte>(slots_[*committed_]->bytes)
                    : std::span<const std::byte>();
}

std::size_t ClientState::FreeSlot() const {
  if (committed_) return 1 - *committed_;
  if (!slots_[0] || !slots_[1]) return slots_[0] ? 1 : 0;
  return slots_[0]->task > slots_[1]->task ? 0 : 1;
}

Status ClientState::SaveTentative(TaskId task, std::span<const std::byte> bytes) {
  if (bytes.empty()) return Status::Ok();
  if (bytes.size() > kMaxStateBytes) {
    return ResourceExhausted(fmt::format("client state of {} bytes is over the {} that are kept",
                                         bytes.size(), kMaxStateBytes));
  }
  std::string file = Preamble(run_id_.size(), task, bytes.size());
  file += run_id_;
  file.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Put(file, Crc32c(AsBytes(std::string_view(file))));
  const std::size_t slot = FreeSlot();
  FEDMOE_RETURN_IF_ERROR(WriteFileAtomically(files_, SlotPath(slot), file));
  slots_[slot] = Record{run_id_, task, std::vector<std::byte>(bytes.begin(), bytes.end())};
  return Status::Ok();
}

Status ClientState::SaveEnd(const std::string& detail) {
  end_ = End{run_id_, detail.substr(0, kMaxEndBytes - kMaxRunId - 1)};
  return WriteFileAtomically(files_, JoinPath(directory_, kOver),
                             end_->run_id + "\n" + end_->detail);
}

Status ClientState::ForgetEnd() {
  if (!std::exchange(end_, std::nullopt)) return Status::Ok();
  FEDMOE_RETURN_IF_ERROR(Remove(JoinPath(directory_, kOver)));
  return files_.SyncDirectory(directory_);
}

}  // namespace fedmoe
