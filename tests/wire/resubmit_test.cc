// How a client goes on with an update of which the coordinator has a part.
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "client/grpc_transport.h"
#include "common/file_system.h"
#include "fedmoe/v1/coordinator.grpc.pb.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kTotal = 50;

// Has more of an update than it said: another upload of it was under way. A few times, or often.
class GrowingCoordinator final : public v1::Coordinator::Service {
 public:
  explicit GrowingCoordinator(int grows) : grows_(grows) {}

  grpc::Status ResumeUpdate(grpc::ServerContext*, const v1::ResumeUpdateRequest*,
                            v1::ResumeUpdateReply* reply) override {
    reply->set_received_bytes(has_);
    has_ += grows_-- > 0 ? 10 : 0;
    return grpc::Status::OK;
  }
  grpc::Status SubmitUpdate(grpc::ServerContext*, grpc::ServerReader<v1::UpdateChunk>* reader,
                            v1::SubmitUpdateReply* reply) override {
    v1::UpdateChunk chunk;
    if (!reader->Read(&chunk)) return {grpc::StatusCode::INVALID_ARGUMENT, "no header"};
    offsets.push_back(chunk.header().offset());
    if (offsets.back() != has_) return {grpc::StatusCode::FAILED_PRECONDITION, "elsewhere"};
    while (reader->Read(&chunk)) received += chunk.data().data();
    reply->set_accepted(true);
    return grpc::Status::OK;
  }

  std::vector<std::uint64_t> offsets;  // that uploads began at
  std::string received;

 private:
  std::uint64_t has_ = 20;
  int grows_;
};

class ResubmitTest : public ::testing::Test {
 protected:
  Result<Verdict> Submit(GrowingCoordinator& coordinator) {
    int port = 0;
    const std::unique_ptr<grpc::Server> server =
        grpc::ServerBuilder()
            .AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port)
            .RegisterService(&coordinator)
            .BuildAndStart();
    const auto transport = MakeGrpcTransport("127.0.0.1:" + std::to_string(port)).value();
    return transport->SubmitUpdate(
        {"alice", 1}, {.task = 1, .client = "alice", .round = 1, .total_bytes = kTotal},
        [this](const auto& sink) { return sink(AsBytes(std::string_view(update_))); },
        /*again=*/true);
  }

  std::string update_ = std::string(kTotal / 2, 'a') + std::string(kTotal / 2, 'b');
};

TEST_F(ResubmitTest, AsksAgainWhereTheCoordinatorHasMoreThanItSaid) {
  GrowingCoordinator coordinator(2);
  const Result<Verdict> verdict = Submit(coordinator);
  ASSERT_TRUE(verdict.ok()) << verdict.status().ToString();
  EXPECT_TRUE(verdict->accepted());
  EXPECT_EQ(coordinator.offsets, (std::vector<std::uint64_t>{20, 30, 40}));
  EXPECT_EQ(coordinator.received, update_.substr(40));
}

TEST_F(ResubmitTest, SaysSoWhereThatNeverEnds) {
  GrowingCoordinator coordinator(1'000);
  EXPECT_EQ(Submit(coordinator).status().code(), StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace fedmoe
