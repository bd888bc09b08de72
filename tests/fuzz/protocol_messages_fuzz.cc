// Messages of the wire: refused with a field's name, or plain structs within their bounds that turn
// back into the same message. Input: a byte that names the message, then the message.
#include <cstdint>
#include <string>

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <google/protobuf/stubs/logging.h>
#include <google/protobuf/util/field_comparator.h>
#include <google/protobuf/util/message_differencer.h>

#include "common/checksum.h"
#include "common/file_system.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/message_kind.h"
#include "wire/from_proto.h"
#include "wire/limits.h"
#include "wire/to_proto.h"

namespace fedmoe {
namespace {

using google::protobuf::Message;

// What a conversion may take: a few copies of what came.
std::size_t MostBytes(std::size_t message) { return 32 * message + (std::size_t{64} << 10); }

std::string BytesOf(const Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

// Fields that are not set count as their defaults.
bool Same(const Message& a, const Message& b) {
  google::protobuf::util::DefaultFieldComparator comparator;
  comparator.set_treat_nan_as_equal(true);
  google::protobuf::util::MessageDifferencer differencer;
  differencer.set_message_field_comparison(google::protobuf::util::MessageDifferencer::EQUIVALENT);
  differencer.set_field_comparator(&comparator);
  return differencer.Compare(a, b);
}

// What a conversion may leave out or fill in, by what the .proto file says.
void Normalise(Message&) {}
void Normalise(v1::RegisterRequest& request) {
  if (request.role() == v1::ROLE_UNSPECIFIED) request.set_role(v1::ROLE_TRAINER);
}
void Normalise(v1::NextTaskReply& reply) {
  if (reply.kind() != v1::NextTaskReply::TASK) {
    reply.clear_carried();
    return reply.clear_task();
  }
  auto& carried = *reply.mutable_carried();
  carried.erase(std::remove_if(carried.begin(), carried.end(),
                               [](const v1::ShardChunk& chunk) {
                                 return !CheckChunk("", 0, chunk.data(), chunk.crc32c()).ok();
                               }),
                carried.end());
  if (reply.task().kind() == v1::Task::EVALUATE) {
    const v1::TrainingOptions all = reply.task().training();
    v1::TrainingOptions& left = *reply.mutable_task()->mutable_training();
    left.Clear();
    left.set_upload_encoding(all.upload_encoding());
    left.set_upload_top_k_fraction(all.upload_top_k_fraction());
    left.set_upload_zstd(all.upload_zstd());
  }
}
// Of what comes back of an evaluation, the training options are the defaults of this build.
void NormaliseBack(v1::NextTaskReply& reply) { Normalise(reply); }
void NormaliseBack(Message&) {}

template <typename M, typename From, typename To, typename Bounded>
void CheckMessage(M message, const From& from, const To& to, const Bounded& within_bounds) {
  const AllocationMeter meter;
  const auto plain = from(message);
  FUZZ_CHECK(meter.PeakBytes() <= MostBytes(message.ByteSizeLong()),
             std::to_string(meter.PeakBytes()));
  if (!plain.ok()) {
    FUZZ_CHECK(plain.status().code() == StatusCode::kInvalidArgument, plain.status().ToString());
    FUZZ_CHECK(!plain.status().message().empty(), message.ShortDebugString());
    return;
  }
  FUZZ_CHECK(within_bounds(*plain), message.ShortDebugString());
  const M back = to(*plain);
  const auto again = from(back);
  FUZZ_CHECK(again.ok(), again.status().ToString());
  FUZZ_CHECK(BytesOf(to(*again)) == BytesOf(back), back.ShortDebugString());
  message.DiscardUnknownFields();
  Normalise(message);
  M shown = back;
  NormaliseBack(shown);
  FUZZ_CHECK(Same(message, shown),
             message.ShortDebugString() + " is not " + shown.ShortDebugString());
}

constexpr auto kPlain = [](const auto& message) { return FromProto(message); };

bool IsBounded(const ShardReference& shard) {
  return shard.shard >= 0 && shard.shard <= kMaxExperts && IsDigest(shard.digest) &&
         shard.bytes >= 1 && shard.bytes <= kMaxShardBytes && shard.encoding != Encoding::kTopK;
}

template <typename Shards>
bool AreBounded(const Shards& shards) {
  return shards.size() <= static_cast<std::size_t>(kMaxExperts) + 1 &&
         std::all_of(shards.begin(), shards.end(), IsBounded);
}

void CheckHeader(const v1::UpdateHeader& message) {
  CheckMessage(
      message, kPlain,
      [](const UpdateFromClient& plain) {
        return ToProto(plain.session, plain.header, plain.offset);
      },
      [](const UpdateFromClient& plain) {
        const TrainingFeedback& feedback = plain.header.feedback;
        return IsValidClientId(plain.session.client) && plain.header.total_bytes >= 1 &&
               plain.header.total_bytes <= kMaxUpdateBytesOnWire &&
               plain.offset <= plain.header.total_bytes && feedback.tokens.size() <= kMaxExperts &&
               feedback.expert_loss.size() <= kMaxExperts &&
               feedback.expert_accuracy.size() <= kMaxExperts &&
               feedback.affinity.size() <= kMaxExperts;
      });
}

// Damage that a checksum must see; the checksum of the bytes as they are.
void CheckData(const std::string& data, std::uint32_t crc32c) {
  const Status status = CheckChunk("update chunk", 0, data, crc32c);
  const bool right = !data.empty() && data.size() <= kWireChunkBytes &&
                     Crc32c(AsBytes(std::string_view(data))) == crc32c;
  FUZZ_CHECK(status.ok() == right, status.ToString());
}

template <typename M>
bool Parse(const std::string& bytes, M& message) {
  return message.ParseFromString(bytes);
}

template <typename M, typename From, typename To, typename Bounded>
void ParseAndCheck(const std::string& bytes, const From& from, const To& to,
                   const Bounded& within_bounds) {
  M message;
  if (Parse(bytes, message)) CheckMessage(std::move(message), from, to, within_bounds);
}

void CheckRequest(MessageKind kind, const std::string& bytes) {
  switch (kind) {
    case MessageKind::kSession:
      return ParseAndCheck<v1::Session>(
          bytes, kPlain, [](const SessionId& plain) { return ToProto(plain); },
          [](const SessionId& plain) { return IsValidClientId(plain.client); });
    case MessageKind::kNextTaskRequest:
      return ParseAndCheck<v1::NextTaskRequest>(
          bytes, kPlain, [](const PollRequest& plain) { return ToProto(plain); },
          [](const PollRequest& plain) { return plain.held.size() <= kMaxHeld; });
    case MessageKind::kRegisterRequest:
      return ParseAndCheck<v1::RegisterRequest>(
          bytes, kPlain, [](const RegisterRequest& plain) { return ToProto(plain); },
          [](const RegisterRequest& plain) {
            return IsValidClientId(plain.client) && plain.instance.size() <= kMaxInstanceLength &&
                   plain.profile.device.size() <= kMaxNameLength;
          });
    case MessageKind::kHeartbeatRequest:
      return ParseAndCheck<v1::HeartbeatRequest>(
          bytes, kPlain,
          [](const HeartbeatFromClient& plain) {
            return HeartbeatToProto(plain.session, plain.task, plain.progress);
          },
          [](const HeartbeatFromClient& plain) {
            return plain.progress >= 0.0 && plain.progress <= 1.0;
          });
    case MessageKind::kFetchShardsRequest:
      return ParseAndCheck<v1::FetchShardsRequest>(
          bytes, kPlain,
          [](const FetchFromClient& plain) {
            return FetchToProto(plain.session, plain.shards, plain.first_offset, plain.damaged);
          },
          [](const FetchFromClient& plain) {
            return AreBounded(plain.shards) &&
                   (plain.first_offset == 0 ||
                    plain.first_offset < static_cast<std::uint64_t>(plain.shards.at(0).bytes));
          });
    case MessageKind::kResumeUpdateRequest:
      return ParseAndCheck<v1::ResumeUpdateRequest>(
          bytes, kPlain,
          [](const ResumeFromClient& plain) {
            return ResumeToProto(plain.session, plain.task, plain.total_bytes);
          },
          [](const ResumeFromClient& plain) {
            return plain.total_bytes >= 1 && plain.total_bytes <= kMaxUpdateBytesOnWire;
          });
    case MessageKind::kEvaluationResult:
      return ParseAndCheck<v1::EvaluationResult>(
          bytes, kPlain,
          [](const EvaluationFromClient& plain) { return ToProto(plain.session, plain.result); },
          [](const EvaluationFromClient& plain) {
            return plain.result.correct <= plain.result.examples;
          });
    case MessageKind::kReturnTaskRequest:
      return ParseAndCheck<v1::ReturnTaskRequest>(
          bytes, kPlain,
          [](const ReturnFromClient& plain) {
            return ReturnToProto(plain.session, plain.task, plain.why);
          },
          [](const ReturnFromClient& plain) { return plain.why.size() <= kMaxTextLength; });
    default:
      return;
  }
}

void CheckChunkMessage(MessageKind kind, const std::string& bytes) {
  if (kind == MessageKind::kShardChunk) {
    v1::ShardChunk chunk;
    if (Parse(bytes, chunk)) CheckData(chunk.data(), chunk.crc32c());
    return;
  }
  v1::UpdateChunk chunk;
  if (!Parse(bytes, chunk)) return;
  if (chunk.has_header()) CheckHeader(chunk.header());
  if (chunk.has_data()) CheckData(chunk.data().data(), chunk.data().crc32c());
}

void CheckReply(MessageKind kind, const std::string& bytes) {
  const auto back = [](const auto& plain) { return ToProto(plain); };
  switch (kind) {
    case MessageKind::kRegisterReply:
      return ParseAndCheck<v1::RegisterReply>(bytes, kPlain, back, [](const RegisterReply& plain) {
        return plain.options.size() <= kMaxModelOptions && IsDigest(plain.spec_digest);
      });
    case MessageKind::kNextTaskReply:
      return ParseAndCheck<v1::NextTaskReply>(
          bytes, [](const v1::NextTaskReply& reply) { return FromProto(reply, "alice"); }, back,
          [](const NextTaskReply& plain) {
            return plain.task.experts.size() <= kMaxExperts && AreBounded(plain.task.shards) &&
                   plain.detail.size() <= kMaxTextLength;
          });
    case MessageKind::kHeartbeatReply:
      return ParseAndCheck<v1::HeartbeatReply>(bytes, kPlain, back,
                                               [](const HeartbeatReply&) { return true; });
    case MessageKind::kSubmitUpdateReply:
      return ParseAndCheck<v1::SubmitUpdateReply>(bytes, kPlain, back, [](const Verdict& plain) {
        return plain.detail.size() <= kMaxTextLength;
      });
    default:
      return;
  }
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fedmoe;
  // Protocol Buffers logs every string that is not UTF-8.
  static google::protobuf::LogHandler* const silenced = google::protobuf::SetLogHandler(nullptr);
  static_cast<void>(silenced);
  FuzzInput input(data, size);
  const auto kind = static_cast<MessageKind>(input.TakeByte() % kMessageKinds);
  const std::string bytes = input.TakeRest();
  if (kind == MessageKind::kUpdateChunk || kind == MessageKind::kShardChunk) {
    CheckChunkMessage(kind, bytes);
  } else if (kind < MessageKind::kUpdateChunk || kind == MessageKind::kEvaluationResult ||
             kind == MessageKind::kReturnTaskRequest || kind == MessageKind::kResumeUpdateRequest ||
             kind == MessageKind::kNextTaskRequest) {
    CheckRequest(kind, bytes);
  } else {
    CheckReply(kind, bytes);
  }
  return 0;
}
