#include <limits>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "common/file_system.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/message_kind.h"
#include "tests/fuzz/seeds.h"
#include "tests/wire/wire_samples.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

class MessageSeedList {
 public:
  void Add(const std::string& name, MessageKind kind, const google::protobuf::Message& message) {
    seeds_.push_back(
        {name, SeedInput().Byte(static_cast<int>(kind)).Rest(message.SerializeAsString()).bytes()});
  }
  // One seed that is right, and one for each spoiled copy of it.
  template <typename M>
  void AddSpoiled(const std::string& name, MessageKind kind, const M& good,
                  const std::vector<void (*)(M&)>& spoil) {
    Add(name, kind, good);
    for (std::size_t i = 0; i < spoil.size(); ++i) {
      M message = good;
      spoil[i](message);
      Add(name + "_bad_" + std::to_string(i), kind, message);
    }
  }
  std::vector<Seed> Take() { return std::move(seeds_); }

 private:
  std::vector<Seed> seeds_;
};

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void AddRequests(MessageSeedList& seeds) {
  using R = v1::RegisterRequest;
  seeds.AddSpoiled<v1::Session>(
      "session", MessageKind::kSession, ToProto(SampleSession()),
      {[](v1::Session& m) { m.set_client("a/b"); }, [](v1::Session& m) { m.clear_session(); }});
  seeds.AddSpoiled<R>(
      "register", MessageKind::kRegisterRequest, ToProto(SampleRegistration()),
      {[](R& m) { m.clear_client(); }, [](R& m) { m.clear_instance(); },
       [](R& m) { m.set_role(static_cast<v1::Role>(3)); }, [](R& m) { m.clear_role(); },
       [](R& m) { m.clear_protocol_min(); }, [](R& m) { m.clear_protocol_max(); },
       [](R& m) { m.mutable_profile()->set_compute_flops_per_s(kNan); },
       [](R& m) { m.mutable_profile()->set_max_experts(-1); },
       [](R& m) { m.mutable_profile()->set_examples(-1); }});
  using H = v1::HeartbeatRequest;
  seeds.AddSpoiled<H>("heartbeat", MessageKind::kHeartbeatRequest,
                      HeartbeatToProto(SampleSession(), 7, 0.5),
                      {[](H& m) { m.clear_session(); }, [](H& m) { m.clear_task(); },
                       [](H& m) { m.set_progress(2); }});
  using F = v1::FetchShardsRequest;
  seeds.AddSpoiled<F>("fetch", MessageKind::kFetchShardsRequest,
                      FetchToProto(SampleSession(), SampleTask().task.shards),
                      {[](F& m) { m.mutable_shards(0)->set_shard(-1); },
                       [](F& m) { m.mutable_shards(0)->set_digest("x"); },
                       [](F& m) { m.mutable_shards(0)->set_bytes(0); }});
  using E = v1::EvaluationResult;
  seeds.AddSpoiled<E>("evaluation", MessageKind::kEvaluationResult,
                      ToProto(SampleSession(), EvaluationResult{7, 3, 1.5, 4}),
                      {[](E& m) { m.set_correct(5); }, [](E& m) { m.set_loss(kNan); }});
  using T = v1::ReturnTaskRequest;
  seeds.AddSpoiled<T>("return", MessageKind::kReturnTaskRequest,
                      ReturnToProto(SampleSession(), 7, "why"),
                      {[](T& m) { m.set_why(std::string(4097, 'x')); }});
  using P = v1::NextTaskRequest;
  PollRequest poll(SampleSession());
  poll.carry_bytes = kMaxCarryBytes;
  poll.held = {1, ~std::uint64_t{0}};
  seeds.AddSpoiled<P>(
      "poll", MessageKind::kNextTaskRequest, ToProto(poll),
      {[](P& m) { m.mutable_held()->Resize(65, 7); }, [](P& m) { m.clear_session(); }});
  using U = v1::ResumeUpdateRequest;
  seeds.AddSpoiled<U>("resume", MessageKind::kResumeUpdateRequest,
                      ResumeToProto(SampleSession(), 7, 1000),
                      {[](U& m) { m.set_total_bytes(0); }});
}

void AddChunks(MessageSeedList& seeds) {
  v1::UpdateChunk header;
  *header.mutable_header() = ToProto(SampleSession(), SampleHeader());
  using U = v1::UpdateChunk;
  seeds.AddSpoiled<U>("update_header", MessageKind::kUpdateChunk, header,
                      {[](U& m) { m.mutable_header()->set_total_bytes(~0ULL); },
                       [](U& m) { m.mutable_header()->clear_round(); },
                       [](U& m) { m.mutable_header()->clear_task(); }});
  const std::string data = "12345678";
  v1::UpdateChunk chunk;
  chunk.mutable_data()->set_data(data);
  chunk.mutable_data()->set_crc32c(Crc32c(AsBytes(std::string_view(data))));
  seeds.AddSpoiled<U>("update_data", MessageKind::kUpdateChunk, chunk,
                      {[](U& m) { m.mutable_data()->set_crc32c(1); },
                       [](U& m) { m.mutable_data()->clear_data(); }});
  v1::ShardChunk shard;
  shard.set_data(data);
  shard.set_crc32c(Crc32c(AsBytes(std::string_view(data))));
  seeds.Add("shard_data", MessageKind::kShardChunk, shard);
}

void AddTasks(MessageSeedList& seeds) {
  using N = v1::NextTaskReply;
  const N task = ToProto(SampleTask());
  seeds.AddSpoiled<N>("task", MessageKind::kNextTaskReply, task,
                      {[](N& m) { m.set_kind(static_cast<N::Kind>(3)); },
                       [](N& m) { m.mutable_task()->set_attempt(0); },
                       [](N& m) { m.mutable_task()->set_experts(0, 4096); },
                       [](N& m) { m.mutable_task()->mutable_training()->set_momentum(2); },
                       [](N& m) { m.mutable_task()->mutable_training()->set_clip_norm(kNan); },
                       [](N& m) { m.mutable_task()->mutable_training()->set_gate_noise(101); },
                       [](N& m) { m.mutable_task()->mutable_training()->set_upload_encoding(9); }});
  NextTaskReply laden = SampleTask();
  laden.carried = {{.index = 2, .bytes = "12345678"}};
  seeds.AddSpoiled<N>("task_carried", MessageKind::kNextTaskReply, ToProto(laden),
                      {[](N& m) { m.mutable_carried(0)->set_index(-1); },
                       [](N& m) { m.mutable_carried(0)->set_data("1234567"); },
                       [](N& m) { m.mutable_carried(0)->set_offset(1); },
                       [](N& m) { m.mutable_carried(0)->set_crc32c(1); },
                       [](N& m) { *m.add_carried() = m.carried(0); },
                       [](N& m) { m.mutable_task()->mutable_shards(2)->set_encoding(3); }});
  N evaluation = task;
  evaluation.mutable_task()->set_kind(v1::Task::EVALUATE);
  seeds.Add("task_evaluation", MessageKind::kNextTaskReply, evaluation);
  seeds.Add("task_none", MessageKind::kNextTaskReply, N());
  N over;
  over.set_kind(N::RUN_OVER);
  over.set_detail("completed");
  seeds.Add("task_run_over", MessageKind::kNextTaskReply, over);
}

void AddReplies(MessageSeedList& seeds) {
  using W = v1::RegisterReply;
  seeds.AddSpoiled<W>("welcome", MessageKind::kRegisterReply, ToProto(SampleWelcome()),
                      {[](W& m) { m.clear_run_id(); }, [](W& m) { m.set_spec_digest("x"); },
                       [](W& m) { (*m.mutable_options())[""] = "x"; },
                       [](W& m) { m.mutable_capacity()->set_reason("luck"); }});
  seeds.Add("heartbeat_reply", MessageKind::kHeartbeatReply,
            ToProto(HeartbeatReply{true, CancelReason::kTimedOut}));
  v1::HeartbeatReply unknown;
  unknown.set_reason(99);
  seeds.Add("heartbeat_reply_bad", MessageKind::kHeartbeatReply, unknown);
  const v1::SubmitUpdateReply verdict = ToProto(Verdict{RejectReason::kMalformed, "short"});
  using V = v1::SubmitUpdateReply;
  seeds.AddSpoiled<V>("verdict", MessageKind::kSubmitUpdateReply, verdict,
                      {[](V& m) { m.set_accepted(true); }, [](V& m) { m.set_reason(99); }});
}

}  // namespace

std::vector<Seed> MessageSeeds() {
  MessageSeedList seeds;
  AddRequests(seeds);
  AddChunks(seeds);
  AddTasks(seeds);
  AddReplies(seeds);
  return seeds.Take();
}

}  // namespace fedmoe
