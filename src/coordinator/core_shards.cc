// Downloads: shards as they lie in the checkpoint, or encoded once for all who ask.
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "coordinator/core.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxReadBytes = std::uint64_t{1} << 20;
// Pieces under it are cheaper to read again than to look for.
constexpr std::uint64_t kLeastShared = std::uint64_t{4} << 10;

std::string InWords(const DownloadOptions& download) {
  if (!download.encoded()) return "as they are";
  return std::string("as ") + EncodingName(download.encoding) + (download.zstd ? " with zstd" : "");
}

}  // namespace

fedmoe::Status CoordinatorCore::CheckCurrent(const SessionId& session) const {
  const std::lock_guard lock(mutex_);
  const auto known = sessions_.find(session.client);
  if (known != sessions_.end() && known->second == session.session) return fedmoe::Status::Ok();
  return Aborted("session of client '" + session.client + "' is not current; register again");
}

// What no task asks for is not made: a client decides neither what is encoded nor how often.
fedmoe::Status CoordinatorCore::CheckTravel(const ShardReference& shard) const {
  if (!shard.encoded()) return fedmoe::Status::Ok();
  const DownloadOptions& download = options_.run.training.download;
  if (shard.download() != download) {
    return FailedPrecondition("shards of this run travel " + InWords(download) + ", not " +
                              InWords(shard.download()) + " (transfer.down)");
  }
  if (store_->Has(shard.shard, shard.digest)) return fedmoe::Status::Ok();
  return NotFound("no stored version has shard " + std::to_string(shard.shard) + " " +
                  shard.digest);
}

Result<std::shared_ptr<void>> CoordinatorCore::BeginFetch(const SessionId& session, bool damaged) {
  FEDMOE_RETURN_IF_ERROR(CheckCurrent(session));
  std::shared_ptr<void> ticket;
  {
    const std::lock_guard lock(mutex_);
    FEDMOE_ASSIGN_OR_RETURN(ticket,
                            fetches_.Take(session.client, kMaxFetchesPerClient, "downloads"));
  }
  pieces_->Join();
  if (damaged) pieces_->Clear();
  return std::shared_ptr<void>(ticket.get(), [ticket, pieces = pieces_](void*) mutable {
    ticket.reset();
    pieces->Leave();
  });
}

void CoordinatorCore::OpenShard(const SessionId& session, const ShardReference& shard, bool damaged,
                                Callback<std::uint64_t> done) {
  if (const fedmoe::Status current = CheckCurrent(session); !current.ok()) return done(current);
  Touch(session);
  if (!shard.encoded()) return done(store_->ShardBytes(shard.digest));
  if (const fedmoe::Status travels = CheckTravel(shard); !travels.ok()) return done(travels);
  // Who claims damage again and again gets what was found sound a moment ago.
  damaged = damaged && !encoded_->CheckedLately(shard);
  if (const auto bytes = encoded_->Ready(shard); bytes && !damaged) return done(*bytes);
  const std::string key = ShardKey(shard);
  {
    const std::lock_guard lock(mutex_);
    std::vector<Callback<std::uint64_t>>& waiting = encoding_[key];
    waiting.push_back(std::move(done));
    if (waiting.size() > 1) return;  // under way: one answer for all
  }
  pool_->Run([this, shard, damaged, key] {
    const Result<std::uint64_t> bytes = encoded_->Prepare(shard, damaged);
    // It may have been made again; others could read the one before it until now.
    if (damaged) pieces_->Clear();
    std::vector<Callback<std::uint64_t>> waiting;
    {
      const std::lock_guard lock(mutex_);
      waiting = std::move(encoding_[key]);
      encoding_.erase(key);
    }
    for (const Callback<std::uint64_t>& waits : waiting) waits(bytes);
  });
}

void CoordinatorCore::ReadShards(const SessionId& session, std::vector<ShardPiece> pieces,
                                 Callback<std::vector<SharedBytes>> done) {
  if (const fedmoe::Status current = CheckCurrent(session); !current.ok()) return done(current);
  std::uint64_t total = 0;
  for (const ShardPiece& piece : pieces) {
    if (piece.length > kMaxReadBytes || (total += piece.length) > kMaxReadBytes)
      return done(InvalidArgument("at most 1 MiB of shards is read at once"));
    if (piece.shard.encoded() && encoded_ == nullptr) return done(CheckTravel(piece.shard));
  }
  Touch(session);
  // Tasks of a round are given out together, and what goes with them is read for all who wait here.
  pieces_->Join();
  pool_->Run([this, pieces = std::move(pieces), total, done = std::move(done)] {
    Result<std::vector<SharedBytes>> read = ReadPieces(pieces);
    pieces_->Leave();
    if (read.ok()) CountDown(total);
    done(std::move(read));
  });
}

Result<std::vector<SharedBytes>> CoordinatorCore::ReadPieces(
    const std::vector<ShardPiece>& pieces) const {
  std::vector<SharedBytes> read;
  read.reserve(pieces.size());
  for (const ShardPiece& piece : pieces) {
    FEDMOE_ASSIGN_OR_RETURN(SharedBytes bytes, ReadPiece(piece));
    read.push_back(std::move(bytes));
  }
  return read;
}

Result<SharedBytes> CoordinatorCore::ReadPiece(const ShardPiece& piece) const {
  const auto read = [&](std::string& bytes) {
    const auto out = std::as_writable_bytes(std::span(bytes.data(), bytes.size()));
    return piece.shard.encoded() ? encoded_->ReadAt(piece.shard, piece.offset, out)
                                 : store_->ReadShardAt(piece.shard.digest, piece.offset, out);
  };
  if (piece.length < kLeastShared) return pieces_->ReadOnce(piece.length, read);
  return pieces_->Get(fmt::format("{} {}", ShardKey(piece.shard), piece.offset), piece.length,
                      read);
}

}  // namespace fedmoe
