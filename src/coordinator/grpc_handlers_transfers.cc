#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>
#include <grpc/grpc_security_constants.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "coordinator/grpc_transfers.h"
#include "wire/from_proto.h"
#include "wire/limits.h"
#include "wire/status.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

// A callback of the core and a callback of gRPC take turns: there is never more than one step under
// way, and only a step ends the call, so `this` outlives every callback. A cancelled call ends with
// its next step, for then reads and writes fail.
class FetchReactor final : public grpc::ServerWriteReactor<v1::ShardChunk> {
 public:
  FetchReactor(CoordinatorCore& core, const Gatekeeper& gate, const Caller& caller,
               const v1::FetchShardsRequest& request)
      : core_(core), gate_(gate), caller_(caller) {
    Result<FetchFromClient> fetch = FromProto(request);
    if (!fetch.ok()) {
      Finish(ToGrpc(fetch.status()));
      return;
    }
    fetch_ = std::move(fetch).value();
    offset_ = fetch_.first_offset;
    ReadNext();
  }
  void OnDone() override { delete this; }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(ToGrpc(Cancelled("the client has gone")));
    offset_ += chunk_.data().size();
    ReadNext();
  }

 private:
  void ReadNext() {
    // A revocation reaches what is under way, too.
    if (Status status = gate_.CheckClient(caller_, fetch_.session.client); !status.ok()) {
      return Finish(ToGrpc(status));
    }
    if (index_ < fetch_.shards.size() && offset_ == BytesOf(index_)) {
      ++index_;
      offset_ = 0;
    }
    if (index_ == fetch_.shards.size()) return Finish(grpc::Status::OK);
    const std::uint64_t length =
        std::min<std::uint64_t>(kWireChunkBytes, BytesOf(index_) - offset_);
    core_.ReadShard(fetch_.session, fetch_.shards[index_].digest, offset_, length,
                    [this](Result<std::string> bytes) { Send(std::move(bytes)); });
  }

  void Send(Result<std::string> bytes) {
    if (!bytes.ok()) return Finish(ToGrpc(bytes.status()));
    chunk_.set_index(static_cast<int>(index_));
    chunk_.set_offset(offset_);
    chunk_.set_crc32c(Crc32c(AsBytes(std::string_view(*bytes))));
    chunk_.set_data(std::move(bytes).value());
    StartWrite(&chunk_);
  }

  std::uint64_t BytesOf(std::size_t index) const {
    return static_cast<std::uint64_t>(fetch_.shards[index].bytes);
  }

  CoordinatorCore& core_;
  const Gatekeeper& gate_;
  const Caller caller_;
  FetchFromClient fetch_;
  v1::ShardChunk chunk_;
  std::size_t index_ = 0;
  std::uint64_t offset_ = 0;
};

// Turns as above. The next read starts only when the chunk before it is in the spool.
class UploadReactor final : public grpc::ServerReadReactor<v1::UpdateChunk> {
 public:
  explicit UploadReactor(UploadCall call) : call_(std::move(call)) { StartRead(&chunk_); }
  void OnDone() override { delete this; }

  void OnReadDone(bool ok) override {
    if (!ok) return End();
    if (upload_ == nullptr) return Begin();
    Append();
  }

 private:
  void Begin() {
    if (!chunk_.has_header()) {
      return Close(ToGrpc(InvalidArgument("the first message must be the header")));
    }
    Result<UpdateFromClient> update = FromProto(chunk_.header());
    if (!update.ok()) return Close(ToGrpc(update.status()));
    client_ = update->session.client;
    if (Status allowed = Check(); !allowed.ok()) return Close(ToGrpc(allowed));
    total_bytes_ = update->header.total_bytes;
    received_ = update->offset;
    call_.core.BeginUpdate(
        std::move(update->session), std::move(update->header),
        [this](Result<UploadStart> start) { Started(std::move(start)); }, update->offset);
  }

  void Started(Result<UploadStart> start) {
    if (!start.ok()) return Close(ToGrpc(start.status()));
    if (start->verdict) return Answer(*start->verdict);
    upload_ = std::move(start->upload);
    StartRead(&chunk_);
  }

  // A revocation reaches what is under way, too.
  Status Check() const { return call_.gate.CheckClient(call_.caller, client_); }

  void Append() {
    if (Status allowed = Check(); !allowed.ok()) return Close(ToGrpc(allowed));
    if (!chunk_.has_data()) {
      return Close(ToGrpc(InvalidArgument("only the first message may be a header")));
    }
    std::string& data = *chunk_.mutable_data()->mutable_data();
    const Status intact = CheckChunk("update chunk", received_, data, chunk_.data().crc32c());
    if (!intact.ok()) {
      upload_->Park();  // what came before it is good
      return Close(ToGrpc(intact));
    }
    received_ += data.size();
    upload_->Append(std::move(data), [this](const Status& status) {
      if (!status.ok()) return Close(ToGrpc(status));
      // Too many bytes are as much of an answer as all of them, and no more need be read.
      if (received_ > total_bytes_) return Judge();
      StartRead(&chunk_);
    });
  }

  // No more chunks: the client is through, or has gone. Only a whole update is judged; a part of
  // one waits for the rest.
  void End() {
    if (upload_ == nullptr || received_ != total_bytes_) {
      if (upload_ != nullptr) upload_->Park();
      return Close(ToGrpc(InvalidArgument(
          fmt::format("the update ended after {} of its {} bytes", received_, total_bytes_))));
    }
    Judge();
  }

  void Judge() {
    if (Status allowed = Check(); !allowed.ok()) return Close(ToGrpc(allowed));
    upload_->Finish([this](Result<Verdict> verdict) {
      if (!verdict.ok()) return Close(ToGrpc(verdict.status()));
      Answer(*verdict);
    });
  }

  void Answer(const Verdict& verdict) {
    *call_.reply = ToProto(verdict);
    Close(grpc::Status::OK);
  }

  // The upload ends before the client can know, so that its next one finds the place free.
  void Close(const grpc::Status& status) {
    upload_.reset();
    Finish(status);
  }

  const UploadCall call_;
  ClientId client_;
  v1::UpdateChunk chunk_;
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

grpc::ServerWriteReactor<v1::ShardChunk>* StartFetch(CoordinatorCore& core, const Gatekeeper& gate,
                                                     const Caller& caller,
                                                     const v1::FetchShardsRequest& request) {
  return new FetchReactor(core, gate, caller, request);
}

grpc::ServerReadReactor<v1::UpdateChunk>* StartUpload(UploadCall call) {
  return new UploadReactor(std::move(call));
}

}  // namespace fedmoe
