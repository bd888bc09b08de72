// Each bound of the wire: a message with one field beyond it is refused, and the field is named.
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/wire/wire_samples.h"
#include "wire/from_proto.h"
#include "wire/limits.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

template <typename Message>
struct Case {
  std::function<void(Message&)> spoil;
  std::string error;
};

template <typename Message, typename Parse>
void ExpectRefused(const Message& good, const Parse& parse,
                   const std::vector<Case<Message>>& cases) {
  ASSERT_TRUE(parse(good).ok()) << parse(good).status().ToString();
  for (const Case<Message>& spoiled : cases) {
    Message message = good;
    spoiled.spoil(message);
    EXPECT_EQ(parse(message).status(), InvalidArgument(spoiled.error));
  }
}

const auto kParse = [](const auto& message) { return FromProto(message); };

TEST(BoundsTest, Session) {
  using M = v1::Session;
  ExpectRefused<M>(
      ToProto(SampleSession()), kParse,
      {{[](M& m) { m.clear_client(); },
        "session.client must be 1 to 64 characters of [A-Za-z0-9._-]"},
       {[](M& m) { m.set_client("a/b"); },
        "session.client must be 1 to 64 characters of [A-Za-z0-9._-]"},
       {[](M& m) { m.set_session(0); }, "session.session must be at least 1 (got 0)"}});
}

TEST(BoundsTest, Registration) {
  using M = v1::RegisterRequest;
  const auto number = [](const std::string& field, const std::string& got) {
    return "profile." + field + " must be a finite number of at least 0 (got " + got + ")";
  };
  ExpectRefused<M>(
      ToProto(SampleRegistration()), kParse,
      {{[](M& m) { m.set_client(std::string(65, 'a')); },
        "client must be 1 to 64 characters of [A-Za-z0-9._-]"},
       {[](M& m) { m.clear_instance(); }, "instance must have 1 to 64 characters (got 0)"},
       {[](M& m) { m.set_instance(std::string(65, 'a')); },
        "instance must have 1 to 64 characters (got 65)"},
       {[](M& m) { m.set_role(static_cast<v1::Role>(3)); }, "role must be 0 to 2 (got 3)"},
       {[](M& m) { m.set_protocol_min(0); }, "protocol_min must be at least 1 (got 0)"},
       {[](M& m) { m.set_protocol_min(3); },
        "protocol_max must be at least protocol_min (got 2 < 3)"},
       {[](M& m) { m.mutable_profile()->set_compute_flops_per_s(kNan); },
        number("compute_flops_per_s", "nan")},
       {[](M& m) { m.mutable_profile()->set_down_bytes_per_s(-1); },
        number("down_bytes_per_s", "-1")},
       {[](M& m) { m.mutable_profile()->set_up_bytes_per_s(kInf); },
        number("up_bytes_per_s", "inf")},
       {[](M& m) { m.mutable_profile()->set_examples(-1); },
        "profile.examples must be at least 0 (got -1)"},
       {[](M& m) { m.mutable_profile()->set_max_experts(4097); },
        "profile.max_experts must be 0 to 4096 (got 4097)"},
       {[](M& m) { m.mutable_profile()->set_device(std::string(257, 'x')); },
        "profile.device must have 0 to 256 characters (got 257)"}});
}

TEST(BoundsTest, HeartbeatReturnAndEvaluation) {
  using H = v1::HeartbeatRequest;
  ExpectRefused<H>(HeartbeatToProto(SampleSession(), 7, 0.5), kParse,
                   {{[](H& m) { m.set_task(0); }, "task must be at least 1 (got 0)"},
                    {[](H& m) { m.set_progress(1.5); }, "progress must be 0 to 1 (got 1.5)"},
                    {[](H& m) { m.set_progress(kNan); }, "progress must be 0 to 1 (got nan)"}});
  using R = v1::ReturnTaskRequest;
  ExpectRefused<R>(ReturnToProto(SampleSession(), 7, "why"), kParse,
                   {{[](R& m) { m.set_task(0); }, "task must be at least 1 (got 0)"},
                    {[](R& m) { m.set_why(std::string(4097, 'x')); },
                     "why must have 0 to 4096 characters (got 4097)"}});
  using E = v1::EvaluationResult;
  ExpectRefused<E>(
      ToProto(SampleSession(), EvaluationResult{7, 3, 1.5, 4}), kParse,
      {{[](E& m) { m.set_task(0); }, "task must be at least 1 (got 0)"},
       {[](E& m) { m.set_examples(kInf); },
        "examples must be a finite number of at least 0 (got inf)"},
       {[](E& m) { m.set_correct(-1); }, "correct must be a finite number of at least 0 (got -1)"},
       {[](E& m) { m.set_loss(kNan); }, "loss must be a finite number of at least 0 (got nan)"},
       {[](E& m) { m.set_correct(5); }, "correct must be at most examples (got 5 > 4)"}});
}

TEST(BoundsTest, Fetch) {
  using M = v1::FetchShardsRequest;
  const auto digest = "shards.digest must be 64 lower-case hexadecimal characters";
  ExpectRefused<M>(
      FetchToProto(SampleSession(), SampleTask().task.shards), kParse,
      {{[](M& m) { m.mutable_shards(0)->set_shard(-1); },
        "shards.shard must be 0 to 4096 (got -1)"},
       {[](M& m) { m.mutable_shards(0)->set_digest("abc"); }, digest},
       {[](M& m) { m.mutable_shards(0)->set_digest(std::string(64, 'G')); }, digest},
       {[](M& m) { m.mutable_shards(1)->set_bytes(0); },
        "shards.bytes must be 1 to 1099511627776 (got 0)"},
       {[](M& m) { m.mutable_shards(1)->set_encoding(5); },
        "shards.encoding must be 0 to 4 (got 5)"},
       {[](M& m) { m.mutable_shards(1)->set_encoding(-1); },
        "shards.encoding must be 0 to 4 (got -1)"},
       {[](M& m) { m.set_first_offset(static_cast<std::uint64_t>(m.shards(0).bytes())); },
        "first_offset must be 0 to " + std::to_string(SampleTask().task.shards[0].bytes - 1) +
            " (got " + std::to_string(SampleTask().task.shards[0].bytes) + ")"},
       {[](M& m) {
          for (int i = 0; i < 4097; ++i) *m.add_shards() = m.shards(0);
        },
        "shards must have at most 4097 entries (got 4100)"}});
}

TEST(BoundsTest, ShardsOfChunks) {
  const std::vector<ShardReference> shards = SampleTask().task.shards;  // the second with zstd
  v1::ShardChunk chunk;
  const auto message = [&] { return ShardOfChunk(chunk, shards).status().message(); };
  EXPECT_EQ(ShardOfChunk(chunk, shards).value(), shards[0]);
  chunk.set_total_bytes(16);
  EXPECT_EQ(ShardOfChunk(chunk, shards).value(), shards[0]);
  chunk.set_total_bytes(15);
  EXPECT_EQ(message(), "total_bytes must be 16 to 16 (got 15)");
  chunk.set_index(1);
  EXPECT_EQ(message(), "total_bytes must be 1 to 8 (got 15)");
  chunk.set_total_bytes(5);
  EXPECT_EQ(ShardOfChunk(chunk, shards)->bytes, 5);
  chunk.set_index(3);
  EXPECT_EQ(message(), "index must be 0 to 2 (got 3)");
  chunk.set_index(-1);
  EXPECT_EQ(message(), "index must be 0 to 2 (got -1)");
}

TEST(BoundsTest, UpdateHeader) {
  using M = v1::UpdateHeader;
  const auto grow = [](auto* numbers) { numbers->Resize(4097, 0.0); };
  const auto many = [](const std::string& field) {
    return "feedback." + field + " must have at most 4096 entries (got 4097)";
  };
  ExpectRefused<M>(
      ToProto(SampleSession(), SampleHeader()), kParse,
      {{[](M& m) { m.set_task(0); }, "task must be at least 1 (got 0)"},
       {[](M& m) { m.set_round(0); }, "round must be at least 1 (got 0)"},
       {[](M& m) { m.set_total_bytes(0); }, "total_bytes must be 1 to 4398046511104 (got 0)"},
       {[](M& m) { m.set_total_bytes(~0ULL); },
        "total_bytes must be 1 to 4398046511104 (got 18446744073709551615)"},
       {[&](M& m) { grow(m.mutable_feedback()->mutable_tokens()); }, many("tokens")},
       {[&](M& m) { grow(m.mutable_feedback()->mutable_expert_loss()); }, many("expert_loss")},
       {[&](M& m) { grow(m.mutable_feedback()->mutable_expert_accuracy()); },
        many("expert_accuracy")},
       {[&](M& m) { grow(m.mutable_feedback()->mutable_affinity()); }, many("affinity")}});
}

TEST(BoundsTest, Welcome) {
  using M = v1::RegisterReply;
  ExpectRefused<M>(
      ToProto(SampleWelcome()), kParse,
      {{[](M& m) { m.clear_run_id(); }, "run_id must have 1 to 256 characters (got 0)"},
       {[](M& m) { m.set_run_name(std::string(257, 'x')); },
        "run_name must have 0 to 256 characters (got 257)"},
       {[](M& m) { m.set_protocol(0); }, "protocol must be at least 1 (got 0)"},
       {[](M& m) { m.set_session(0); }, "session must be at least 1 (got 0)"},
       {[](M& m) { m.clear_preset(); }, "preset must have 1 to 256 characters (got 0)"},
       {[](M& m) { (*m.mutable_options())[""] = "x"; },
        "options key must have 1 to 256 characters (got 0)"},
       {[](M& m) { (*m.mutable_options())["width"] = std::string(4097, 'x'); },
        "options value must have 0 to 4096 characters (got 4097)"},
       {[](M& m) {
          for (int i = 0; i < 255; ++i) (*m.mutable_options())[std::to_string(i)] = "x";
        },
        "options must have at most 256 entries (got 257)"},
       {[](M& m) { m.set_spec_digest("x"); },
        "spec_digest must be 64 lower-case hexadecimal characters"},
       {[](M& m) { m.set_heartbeat_interval_ms(0); },
        "heartbeat_interval_ms must be 1 to 31622400000 (got 0)"},
       {[](M& m) { m.mutable_capacity()->set_experts(-1); },
        "capacity.experts must be 0 to 4096 (got -1)"},
       {[](M& m) { m.mutable_capacity()->set_reason("luck"); },
        "capacity.reason is not known to this build"},
       {[](M& m) { m.mutable_capacity()->set_memory_bytes(-1); },
        "capacity.memory_bytes must be a finite number of at least 0 (got -1)"},
       {[](M& m) { m.mutable_capacity()->set_round_s(kNan); },
        "capacity.round_s must be a finite number of at least 0 (got nan)"}});
}

TEST(BoundsTest, Task) {
  using M = v1::NextTaskReply;
  const auto parse = [](const M& m) { return FromProto(m, "alice"); };
  ExpectRefused<M>(
      ToProto(SampleTask()), parse,
      {{[](M& m) { m.set_kind(static_cast<M::Kind>(3)); }, "kind must be 0 to 2 (got 3)"},
       {[](M& m) { m.set_detail(std::string(4097, 'x')); },
        "detail must have 0 to 4096 characters (got 4097)"},
       {[](M& m) { m.set_tasks(-1); }, "tasks must be 0 to 2147483647 (got -1)"},
       {[](M& m) { m.mutable_task()->set_task(0); }, "task.task must be at least 1 (got 0)"},
       {[](M& m) { m.mutable_task()->set_kind(static_cast<v1::Task::Kind>(2)); },
        "task.kind must be 0 to 1 (got 2)"},
       {[](M& m) { m.mutable_task()->set_round(-1); }, "task.round must be at least 0 (got -1)"},
       {[](M& m) { m.mutable_task()->set_attempt(0); }, "task.attempt must be at least 1 (got 0)"},
       {[](M& m) { m.mutable_task()->set_version(-1); },
        "task.version must be at least 0 (got -1)"},
       {[](M& m) { m.mutable_task()->set_timeout_ms(-1); },
        "task.timeout_ms must be 0 to 31622400000 (got -1)"},
       {[](M& m) { m.mutable_task()->mutable_experts()->Resize(4097, 0); },
        "task.experts must have at most 4096 entries (got 4097)"},
       {[](M& m) { m.mutable_task()->set_experts(0, 4096); },
        "task.experts must be 0 to 4095 (got 4096)"},
       {[](M& m) { m.mutable_task()->mutable_shards(0)->set_bytes(-8); },
        "shards.bytes must be 1 to 1099511627776 (got -8)"}});
}

TEST(BoundsTest, Poll) {
  using M = v1::NextTaskRequest;
  ExpectRefused<M>(ToProto(PollRequest(SampleSession())), kParse,
                   {{[](M& m) { m.mutable_held()->Resize(65, 7); },
                     "held must have at most 64 entries (got 65)"}});
}

TEST(BoundsTest, ShardsThatComeWithATask) {
  using M = v1::NextTaskReply;
  NextTaskReply laden = SampleTask();
  laden.carried = {{.index = 0, .bytes = std::string(16, 'a')}, {.index = 2, .bytes = "12345678"}};
  const std::string whole = "carried must be float32 shards of the task, each whole";
  ExpectRefused<M>(
      ToProto(laden), [](const M& m) { return FromProto(m, "alice"); },
      {{[](M& m) { m.mutable_carried(0)->set_index(-1); }, "carried.index must be 0 to 2 (got -1)"},
       {[](M& m) { m.mutable_carried(1)->set_index(3); }, "carried.index must be 1 to 2 (got 3)"},
       {[](M& m) { m.mutable_carried(1)->set_index(0); }, "carried.index must be 1 to 2 (got 0)"},
       {[](M& m) { m.mutable_carried(1)->set_data("1234567"); }, whole},
       {[](M& m) { m.mutable_carried(1)->set_offset(1); }, whole},
       {[](M& m) { m.mutable_carried(1)->set_total_bytes(8); }, whole},
       {[](M& m) { m.mutable_carried(1)->add_more(); }, whole},
       {[](M& m) { m.mutable_task()->mutable_shards(0)->set_encoding(3); }, whole},
       {[](M& m) {
          for (int i = 0; i < 2; ++i) m.add_carried();
        },
        "carried must have at most 3 entries (got 4)"}});
}

TEST(BoundsTest, Training) {
  using M = v1::NextTaskReply;
  using T = v1::TrainingOptions;
  const auto parse = [](const M& m) { return FromProto(m, "alice"); };
  const auto spoil = [](const std::function<void(T&)>& spoil_training) {
    return [spoil_training](M& m) { spoil_training(*m.mutable_task()->mutable_training()); };
  };
  const auto number = [](const std::string& field) {
    return "training." + field + " must be a finite number of at least 0 (got -1)";
  };
  const auto share = [](const std::string& field) {
    return "training." + field + " must be 0 to 1 (got 1.5)";
  };
  const auto router_number = [](const std::string& field) {
    return "training." + field + " must be 0 to 100 (got 100.5)";
  };
  ExpectRefused<M>(
      ToProto(SampleTask()), parse,
      {{spoil([](T& t) { t.set_learning_rate(-1); }), number("learning_rate")},
       {spoil([](T& t) { t.set_adam_epsilon(-1); }), number("adam_epsilon")},
       {spoil([](T& t) { t.set_weight_decay(-1); }), number("weight_decay")},
       {spoil([](T& t) { t.set_clip_norm(-1); }), number("clip_norm")},
       {spoil([](T& t) { t.set_fedprox_mu(-1); }), number("fedprox_mu")},
       {spoil([](T& t) { t.set_held_mass_lambda(-1); }), number("held_mass_lambda")},
       {spoil([](T& t) { t.set_gate_learning_rate(-1); }), number("gate_learning_rate")},
       {spoil([](T& t) { t.set_trunk_lambda(100.5); }), router_number("trunk_lambda")},
       {spoil([](T& t) { t.set_max_batches(-1); }),
        "training.max_batches must be 0 to 1073741824 (got -1)"},
       {spoil([](T& t) { t.set_balance_lambda(100.5); }), router_number("balance_lambda")},
       {spoil([](T& t) { t.set_router_z_lambda(100.5); }), router_number("router_z_lambda")},
       {spoil([](T& t) { t.set_upload_encoding(6); }),
        "training.upload_encoding must be 0 to 5 (got 6)"},
       {spoil([](T& t) { t.set_upload_top_k_fraction(1.5); }), share("upload_top_k_fraction")},
       {spoil([](T& t) { t.set_gate_noise(100.5); }), router_number("gate_noise")},
       {spoil([](T& t) { t.set_gate_noise(kNan); }),
        "training.gate_noise must be 0 to 100 (got nan)"},
       {spoil([](T& t) { t.set_selection_bias_rate(1.5); }), share("selection_bias_rate")},
       {spoil([](T& t) { t.set_random_crop(1025); }),
        "training.random_crop must be 0 to 1024 (got 1025)"},
       {spoil([](T& t) { t.set_momentum(1.5); }), share("momentum")},
       {spoil([](T& t) { t.set_adam_beta1(1.5); }), share("adam_beta1")},
       {spoil([](T& t) { t.set_adam_beta2(1.5); }), share("adam_beta2")},
       {spoil([](T& t) { t.set_batch_size(0); }),
        "training.batch_size must be 1 to 16777216 (got 0)"},
       {spoil([](T& t) { t.set_epochs(0); }), "training.epochs must be 1 to 65536 (got 0)"},
       {spoil([](T& t) { t.set_optimizer(static_cast<T::Optimizer>(2)); }),
        "training.optimizer must be 0 to 1 (got 2)"}});
}

TEST(BoundsTest, Answers) {
  using H = v1::HeartbeatReply;
  ExpectRefused<H>(ToProto(HeartbeatReply{}), kParse,
                   {{[](H& m) { m.set_reason(5); }, "reason must be 0 to 4 (got 5)"}});
  using S = v1::SubmitUpdateReply;
  ExpectRefused<S>(ToProto(Verdict{}), kParse,
                   {{[](S& m) { m.set_reason(17); }, "reason must be 0 to 16 (got 17)"},
                    {[](S& m) { m.set_reason(1); }, "accepted must be false with reason 1"},
                    {[](S& m) { m.set_detail(std::string(4097, 'x')); },
                     "detail must have 0 to 4096 characters (got 4097)"}});
}

}  // namespace
}  // namespace fedmoe
