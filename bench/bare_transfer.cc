#include "bench/bare_transfer.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <utility>

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include "fedmoe/v1/coordinator.grpc.pb.h"
#include "wire/limits.h"
#include "wire/status.h"

namespace fedmoe {
namespace {

using SteadyTime = std::chrono::steady_clock;

const std::string& Content() {
  static const std::string content(kWireChunkBytes, 'x');
  return content;
}

std::string Piece(std::uint64_t left) {
  return Content().substr(0, std::min<std::uint64_t>(left, kWireChunkBytes));
}

class Sender final : public grpc::ServerWriteReactor<v1::ShardChunk> {
 public:
  explicit Sender(std::uint64_t bytes) : left_(bytes) { Next(); }
  void OnWriteDone(bool ok) override { ok ? Next() : Finish(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (left_ == 0) return Finish(grpc::Status::OK);
    chunk_.set_data(Piece(left_));
    left_ -= chunk_.data().size();
    StartWrite(&chunk_);
  }
  v1::ShardChunk chunk_;
  std::uint64_t left_;
};

class Taker final : public grpc::ServerReadReactor<v1::UpdateChunk> {
 public:
  Taker() { StartRead(&chunk_); }
  void OnReadDone(bool ok) override { ok ? StartRead(&chunk_) : Finish(grpc::Status::OK); }
  void OnDone() override { delete this; }

 private:
  v1::UpdateChunk chunk_;
};

class BareService final : public v1::Coordinator::CallbackService {
 public:
  explicit BareService(std::uint64_t bytes) : bytes_(bytes) {}
  grpc::ServerWriteReactor<v1::ShardChunk>* FetchShards(grpc::CallbackServerContext*,
                                                        const v1::FetchShardsRequest*) override {
    return new Sender(bytes_);
  }
  grpc::ServerReadReactor<v1::UpdateChunk>* SubmitUpdate(grpc::CallbackServerContext*,
                                                         v1::SubmitUpdateReply*) override {
    return new Taker();
  }

 private:
  const std::uint64_t bytes_;
};

// Counts the clients of a round that are through.
class Barrier {
 public:
  explicit Barrier(std::size_t clients) : left_(clients) {}
  void Through(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (!status.ok()) status_ = FromGrpc(status);
    if (--left_ == 0) all_.notify_all();
  }
  Status Wait() {
    std::unique_lock lock(mutex_);
    all_.wait(lock, [this] { return left_ == 0; });
    return status_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_;
  std::size_t left_;
  Status status_;
};

class Submitting final : public grpc::ClientWriteReactor<v1::UpdateChunk> {
 public:
  Submitting(v1::Coordinator::Stub& stub, std::uint64_t bytes, Barrier& barrier)
      : left_(bytes), barrier_(barrier) {
    stub.async()->SubmitUpdate(&context_, &reply_, this);
    Next();
    StartCall();
  }
  void OnWriteDone(bool ok) override {
    if (ok) Next();
  }
  void OnDone(const grpc::Status& status) override {
    Barrier& barrier = barrier_;
    delete this;
    barrier.Through(status);
  }

 private:
  void Next() {
    if (left_ == 0) return StartWritesDone();
    chunk_.mutable_data()->set_data(Piece(left_));
    left_ -= chunk_.data().data().size();
    StartWrite(&chunk_);
  }
  grpc::ClientContext context_;
  v1::UpdateChunk chunk_;
  v1::SubmitUpdateReply reply_;
  std::uint64_t left_;
  Barrier& barrier_;
};

class Fetching final : public grpc::ClientReadReactor<v1::ShardChunk> {
 public:
  Fetching(v1::Coordinator::Stub& stub, std::uint64_t bytes, Barrier& barrier)
      : stub_(stub), bytes_(bytes), barrier_(barrier) {
    stub.async()->FetchShards(&context_, &request_, this);
    StartRead(&chunk_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (ok) StartRead(&chunk_);
  }
  void OnDone(const grpc::Status& status) override {
    if (status.ok()) {
      new Submitting(stub_, bytes_, barrier_);
    } else {
      barrier_.Through(status);
    }
    delete this;
  }

 private:
  v1::Coordinator::Stub& stub_;
  grpc::ClientContext context_;
  v1::FetchShardsRequest request_;
  v1::ShardChunk chunk_;
  const std::uint64_t bytes_;
  Barrier& barrier_;
};

}  // namespace

int ServeBareTransfers(std::uint64_t bytes) {
  BareService service(bytes);
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr) return 1;
  fmt::print("{}\n", port);
  std::fflush(stdout);
  // Until the bench lets go of the other end.
  char byte = 0;
  while (::read(STDIN_FILENO, &byte, 1) > 0) {
  }
  server->Shutdown(std::chrono::system_clock::now());
  return 0;
}

struct BareClients::Client {
  std::unique_ptr<v1::Coordinator::Stub> stub;
};

BareClients::BareClients(const std::string& address, int clients, std::uint64_t bytes)
    : bytes_(bytes) {
  for (int i = 0; i < clients; ++i) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    clients_.push_back(std::make_unique<Client>());
    clients_.back()->stub = v1::Coordinator::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  }
}

BareClients::~BareClients() = default;

Result<double> BareClients::Round() {
  Barrier barrier(clients_.size());
  const auto begin = SteadyTime::now();
  for (const std::unique_ptr<Client>& client : clients_) {
    new Fetching(*client->stub, bytes_, barrier);
  }
  FEDMOE_RETURN_IF_ERROR(barrier.Wait());
  return std::chrono::duration<double>(SteadyTime::now() - begin).count();
}

}  // namespace fedmoe
