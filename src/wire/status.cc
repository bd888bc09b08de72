#include "wire/status.h"

namespace fedmoe {
namespace {

template <StatusCode kOurs, grpc::StatusCode kTheirs>
constexpr bool Equal() {
  return static_cast<int>(kOurs) == static_cast<int>(kTheirs);
}

static_assert(Equal<StatusCode::kOk, grpc::StatusCode::OK>());
static_assert(Equal<StatusCode::kCancelled, grpc::StatusCode::CANCELLED>());
static_assert(Equal<StatusCode::kUnknown, grpc::StatusCode::UNKNOWN>());
static_assert(Equal<StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT>());
static_assert(Equal<StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED>());
static_assert(Equal<StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND>());
static_assert(Equal<StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS>());
static_assert(Equal<StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED>());
static_assert(Equal<StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED>());
static_assert(Equal<StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION>());
static_assert(Equal<StatusCode::kAborted, grpc::StatusCode::ABORTED>());
static_assert(Equal<StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE>());
static_assert(Equal<StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED>());
static_assert(Equal<StatusCode::kInternal, grpc::StatusCode::INTERNAL>());
static_assert(Equal<StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE>());
static_assert(Equal<StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS>());
static_assert(Equal<StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED>());

}  // namespace

grpc::Status ToGrpc(const Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), status.message()};
}

Status FromGrpc(const grpc::Status& status) {
  return {static_cast<StatusCode>(status.error_code()), status.error_message()};
}

}  // namespace fedmoe
