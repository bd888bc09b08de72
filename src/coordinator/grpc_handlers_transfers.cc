#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <grpc/grpc_security_constants.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "coordinator/grpc_transfers.h"
#include "wire/chunk_pacer.h"
#include "wire/from_proto.h"
#include "wire/shard_chunks.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using Lane = TransferLanes::Lane;
using Permit = TransferLanes::Permit;
using SteadyTime = std::chrono::steady_clock;

double SecondsSince(SteadyTime::time_point begin) {
  return std::chrono::duration<double>(SteadyTime::now() - begin).count();
}

// Lets a call be cancelled from a thread that is not the call's: its context lives until it has
// been finished, and it is not finished while it is being cancelled. Thread-safe.
class CallEnd {
 public:
  using Finish = std::function<void(const grpc::Status&)>;
  CallEnd(grpc::CallbackServerContext& context, Finish finish)
      : context_(context), finish_(std::move(finish)) {}

  void Cancel() {
    {
      const std::lock_guard lock(mutex_);
      if (state_ != State::kOpen) return;
      state_ = State::kCancelling;
    }
    context_.TryCancel();  // may call the reactor on this thread
    std::optional<grpc::Status> status;
    {
      const std::lock_guard lock(mutex_);
      state_ = State::kOpen;
      status = std::move(status_);
      if (status) state_ = State::kEnded;
    }
    if (status) finish_(*status);
  }

  // Once. The reactor may be gone when this returns.
  void End(const grpc::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (state_ == State::kCancelling) {
        status_ = status;
        return;
      }
      state_ = State::kEnded;
    }
    finish_(status);
  }

 private:
  enum class State { kOpen, kCancelling, kEnded };
  grpc::CallbackServerContext& context_;
  const Finish finish_;
  std::mutex mutex_;
  State state_ = State::kOpen;
  std::optional<grpc::Status> status_;
};

// A callback of the core, of the lanes and of gRPC take turns: there is never more than one step
// under way, and only a step ends the call, so `this` outlives every callback. A cancelled call
// ends with its next step, for then reads and writes fail.
class FetchReactor final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  FetchReactor(TransferCall call, const v1::FetchShardsRequest& request)
      : call_(std::move(call)),
        end_(std::make_shared<CallEnd>(call_.context,
                                       [this](const grpc::Status& status) { Finish(status); })) {
    call_.lanes.Join();
    Result<FetchFromClient> fetch = FromProto(request);
    if (!fetch.ok()) {
      End(fetch.status());
      return;
    }
    fetch_ = std::move(fetch).value();
    offset_ = fetch_.first_offset;
    // Before it takes a place in a lane: who has no session, or many downloads, holds up nobody.
    Status status = call_.gate.CheckClient(call_.caller, fetch_.session.client);
    if (status.ok()) {
      Result<std::shared_ptr<void>> place = call_.core.BeginFetch(fetch_.session, fetch_.damaged);
      status = place.status();
      if (place.ok()) place_ = std::move(place).value();
    }
    if (!status.ok()) {
      End(status);
      return;
    }
    Open();
  }
  ~FetchReactor() override { call_.lanes.Leave(); }
  void OnDone() override { delete this; }
  // Not documented by gRPC: OnDone() and OnCancel() may run where it stands, without a change to
  // another thread. They neither wait nor call back.
  bool InternalInlineable() override { return true; }
  // What waits for a lane learns only later that its client has gone, and keeps nobody out.
  void OnCancel() override { GiveUpPlace(); }

  void OnWriteDone(bool ok) override {
    pacer_.Record(BytesOf(pieces_), SecondsSince(begin_));
    const ShardPiece& last = pieces_.back();
    offset_ = last.offset + last.length;
    if (pieces_.size() > 1) {
      index_ += pieces_.size() - 1;
      total_ = static_cast<std::uint64_t>(last.shard.bytes);
    }
    message_.Clear();
    permit_.Reset();
    if (!ok) return End(Cancelled("the client has gone"));
    Next();
  }

 private:
  // The next shard. An encoded one may first have to be made, which needs no permit.
  void Open() {
    if (Status status = call_.gate.CheckClient(call_.caller, fetch_.session.client); !status.ok()) {
      return End(status);
    }
    if (index_ == fetch_.shards.size()) return End(Status::Ok());
    if (!fetch_.shards[index_].encoded()) {
      total_ = static_cast<std::uint64_t>(fetch_.shards[index_].bytes);
      return Next();
    }
    call_.core.OpenShard(fetch_.session, fetch_.shards[index_], fetch_.damaged,
                         [this](const Result<std::uint64_t>& total) {
                           if (!total.ok()) return End(total.status());
                           total_ = *total;
                           if (offset_ < total_) return Next();
                           End(InvalidArgument(fmt::format("first_offset must be 0 to {} (got {})",
                                                           total_ - 1, offset_)));
                         });
  }

  void Next() {
    // A revocation reaches what is under way, too.
    if (Status status = call_.gate.CheckClient(call_.caller, fetch_.session.client); !status.ok()) {
      return End(status);
    }
    if (offset_ == total_) {
      ++index_;
      offset_ = 0;
      return Open();
    }
    pacer_.Share(call_.lanes.transfers());
    ChoosePieces(pacer_.next_bytes());
    call_.lanes.Ask(
        pacer_.fast() ? Lane::kFast : Lane::kSlow, BytesOf(pieces_),
        [this](Permit permit) {
          permit_ = std::move(permit);
          call_.core.ReadShards(
              fetch_.session, pieces_,
              [this](const Result<std::vector<SharedBytes>>& pieces) { Send(pieces); });
        },
        [end = end_] { end->Cancel(); });
  }

  // As much of the shard as the chunk takes, and after its end as many whole shards as fit beside
  // it: a message and its way through the pool cost more than a short shard.
  void ChoosePieces(std::uint64_t most) {
    std::uint64_t left = std::min<std::uint64_t>(most, total_ - offset_);
    pieces_.assign(1, {.shard = fetch_.shards[index_], .offset = offset_, .length = left});
    if (offset_ + left < total_) return;
    left = most - left;
    for (std::size_t next = index_ + 1; next < fetch_.shards.size(); ++next) {
      const ShardReference& shard = fetch_.shards[next];
      const auto bytes = static_cast<std::uint64_t>(shard.bytes);
      // An encoded one may first have to be made.
      if (shard.encoded() || bytes > left) return;
      pieces_.push_back({.shard = shard, .offset = 0, .length = bytes});
      left -= bytes;
    }
  }

  static std::uint64_t BytesOf(const std::vector<ShardPiece>& pieces) {
    std::uint64_t bytes = 0;
    for (const ShardPiece& piece : pieces) bytes += piece.length;
    return bytes;
  }

  void Send(const Result<std::vector<SharedBytes>>& pieces) {
    if (!pieces.ok()) return End(pieces.status());
    std::vector<OutgoingChunk> chunks(pieces->size());
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const SharedBytes& piece = (*pieces)[i];
      OutgoingChunk& chunk = chunks[i];
      chunk.data = piece->bytes;
      chunk.owner = piece;
      chunk.head.set_index(static_cast<int>(index_ + i));
      chunk.head.set_offset(pieces_[i].offset);
      chunk.head.set_crc32c(piece->crc32c);
    }
    // Where the reference says the most, this says how many there are.
    chunks[0].head.set_total_bytes(fetch_.shards[index_].zstd ? total_ : 0);
    message_ = SerializeChunks(chunks);
    begin_ = SteadyTime::now();
    StartWrite(&message_);
  }

  void GiveUpPlace() {
    if (!place_gone_.exchange(true)) place_.reset();
  }

  void End(const Status& status) {
    permit_.Reset();
    GiveUpPlace();
    const std::shared_ptr<CallEnd> end = end_;  // `this` goes
    end->End(ToGrpc(status));
  }

  const TransferCall call_;
  const std::shared_ptr<CallEnd> end_;
  FetchFromClient fetch_;
  std::atomic<bool> place_gone_{false};
  std::shared_ptr<void> place_;  // among the client's downloads
  ChunkPacer pacer_{1};
  Permit permit_;
  SteadyTime::time_point begin_;
  grpc::ByteBuffer message_;
  std::vector<ShardPiece> pieces_;  // in it: of the shards from index_ on
  std::size_t index_ = 0;
  std::uint64_t offset_ = 0;
  std::uint64_t total_ = 0;  // of the shard at index_, as it travels
};

// Turns as above. The next chunk is asked for only when the one before it is in the spool.
class UploadReactor final : public grpc::ServerReadReactor<v1::UpdateChunk> {
 public:
  UploadReactor(TransferCall call, v1::SubmitUpdateReply* reply)
      : call_(std::move(call)),
        reply_(reply),
        end_(std::make_shared<CallEnd>(call_.context,
                                       [this](const grpc::Status& status) { Finish(status); })) {
    StartRead(&chunk_);
  }
  void OnDone() override { delete this; }
  bool InternalInlineable() override { return true; }

  void OnReadDone(bool ok) override {
    if (!ok) return Ended();
    if (upload_ == nullptr) return Begin();
    Append();
  }

 private:
  void Begin() {
    if (!chunk_.has_header()) {
      return Close(InvalidArgument("the first message must be the header"));
    }
    Result<UpdateFromClient> update = FromProto(chunk_.header());
    if (!update.ok()) return Close(update.status());
    client_ = update->session.client;
    if (Status allowed = Check(); !allowed.ok()) return Close(allowed);
    total_bytes_ = update->header.total_bytes;
    received_ = update->offset;
    call_.core.BeginUpdate(
        std::move(update->session), std::move(update->header),
        [this](Result<UploadStart> start) { Started(std::move(start)); }, update->offset);
  }

  void Started(Result<UploadStart> start) {
    if (!start.ok()) return Close(start.status());
    if (start->verdict) return Answer(*start->verdict);
    upload_ = std::move(start->upload);
    Next();
  }

  // The client paces its chunks as this side would. One that does not is charged what it sent last.
  void Next() {
    call_.lanes.Ask(
        pacer_.fast() ? Lane::kFast : Lane::kSlow, std::max(pacer_.next_bytes(), last_bytes_),
        [this](Permit permit) {
          permit_ = std::move(permit);
          begin_ = SteadyTime::now();
          StartRead(&chunk_);
        },
        [end = end_] { end->Cancel(); });
  }

  // A revocation reaches what is under way, too.
  Status Check() const { return call_.gate.CheckClient(call_.caller, client_); }

  void Append() {
    if (Status allowed = Check(); !allowed.ok()) return Close(allowed);
    if (!chunk_.has_data()) {
      return Close(InvalidArgument("only the first message may be a header"));
    }
    std::string& data = *chunk_.mutable_data()->mutable_data();
    pacer_.Record(data.size(), SecondsSince(begin_));
    last_bytes_ = data.size();
    const Status intact = CheckChunk("update chunk", received_, data, chunk_.data().crc32c());
    if (!intact.ok()) {
      upload_->Park();  // what came before it is good
      return Close(intact);
    }
    received_ += data.size();
    if (received_ == total_bytes_) return Last(std::move(data));
    upload_->Append(std::move(data), [this](const Status& status) {
      permit_.Reset();
      if (!status.ok()) return Close(status);
      // Too many bytes are as much of an answer as all of them, and no more need be read.
      if (received_ > total_bytes_) return Judge();
      Next();
    });
  }

  // All that was announced is here: nothing more is read, not even the end of the stream.
  void Last(std::string data) {
    upload_->AppendLast(
        std::move(data),
        [this](const Status& status) {
          permit_.Reset();
          if (!status.ok()) Close(status);
        },
        [this](Result<Verdict> verdict) {
          if (!verdict.ok()) return Close(verdict.status());
          Answer(*verdict);
        });
  }

  // No more chunks: the client is through, or has gone. Only a whole update is judged; a part of
  // one waits for the rest.
  void Ended() {
    permit_.Reset();
    if (upload_ == nullptr || received_ != total_bytes_) {
      if (upload_ != nullptr) upload_->Park();
      return Close(InvalidArgument(
          fmt::format("the update ended after {} of its {} bytes", received_, total_bytes_)));
    }
    Judge();
  }

  void Judge() {
    if (Status allowed = Check(); !allowed.ok()) return Close(allowed);
    upload_->Finish([this](Result<Verdict> verdict) {
      if (!verdict.ok()) return Close(verdict.status());
      Answer(*verdict);
    });
  }

  void Answer(const Verdict& verdict) {
    *reply_ = ToProto(verdict);
    Close(Status::Ok());
  }

  // The upload ends before the client can know, so that its next one finds the place free.
  void Close(const Status& status) {
    upload_.reset();
    permit_.Reset();
    const std::shared_ptr<CallEnd> end = end_;  // `this` goes
    end->End(ToGrpc(status));
  }

  const TransferCall call_;
  v1::SubmitUpdateReply* const reply_;
  const std::shared_ptr<CallEnd> end_;
  ClientId client_;
  ChunkPacer pacer_{1};
  Permit permit_;
  SteadyTime::time_point begin_;
  v1::UpdateChunk chunk_;
  std::size_t last_bytes_ = 0;  // of the last chunk
  std::shared_ptr<Upload> upload_;
  std::uint64_t received_ = 0;
  std::uint64_t total_bytes_ = 0;
};

}  // namespace

Caller CallerOf(const grpc::CallbackServerContext& context) {
  Caller caller;
  caller.peer = context.peer();
  const std::shared_ptr<const grpc::AuthContext> connection = context.auth_context();
  if (connection == nullptr || !connection->IsPeerAuthenticated()) return caller;
  const auto names = connection->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
  if (names.size() == 1) caller.name.assign(names[0].data(), names[0].size());
  return caller;
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* StartFetch(TransferCall call,
                                                       const v1::FetchShardsRequest& request) {
  return new FetchReactor(std::move(call), request);
}

grpc::ServerReadReactor<v1::UpdateChunk>* StartUpload(TransferCall call,
                                                      v1::SubmitUpdateReply* reply) {
  return new UploadReactor(std::move(call), reply);
}

}  // namespace fedmoe
