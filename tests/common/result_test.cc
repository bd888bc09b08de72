#include "common/result.h"

#include <memory>
#include <string>

#include <gtest/gtest.h>

namespace fedmoe {
namespace {

struct CodeCase {
  int number;
  const char* name;
};

TEST(StatusCodeName, GivesTheNumberAndNameOfEveryGrpcCode) {
  constexpr CodeCase kCases[] = {
      {0, "OK"},
      {1, "CANCELLED"},
      {2, "UNKNOWN"},
      {3, "INVALID_ARGUMENT"},
      {4, "DEADLINE_EXCEEDED"},
      {5, "NOT_FOUND"},
      {6, "ALREADY_EXISTS"},
      {7, "PERMISSION_DENIED"},
      {8, "RESOURCE_EXHAUSTED"},
      {9, "FAILED_PRECONDITION"},
      {10, "ABORTED"},
      {11, "OUT_OF_RANGE"},
      {12, "UNIMPLEMENTED"},
      {13, "INTERNAL"},
      {14, "UNAVAILABLE"},
      {15, "DATA_LOSS"},
      {16, "UNAUTHENTICATED"},
  };
  for (const CodeCase& c : kCases) {
    EXPECT_EQ(StatusCodeName(static_cast<StatusCode>(c.number)), c.name) << c.number;
  }
  EXPECT_EQ(StatusCodeName(static_cast<StatusCode>(99)), "UNKNOWN");
}

TEST(Status, PrintsItsCodeAndMessage) {
  EXPECT_EQ(Status::Ok().ToString(), "OK");
  EXPECT_EQ(NotFound("client a").ToString(), "NOT_FOUND: client a");
  EXPECT_EQ(Status(StatusCode::kAborted, "").ToString(), "ABORTED");
}

TEST(Status, ContextGoesBeforeTheMessageAndKeepsTheCode) {
  EXPECT_EQ(DataLoss("bad magic").WithContext("read a.bin"), DataLoss("read a.bin: bad magic"));
  EXPECT_EQ(Status::Ok().WithContext("read a.bin"), Status::Ok());
}

TEST(Status, EveryHelperMakesItsOwnCode) {
  EXPECT_EQ(InvalidArgument("m").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(NotFound("m").code(), StatusCode::kNotFound);
  EXPECT_EQ(AlreadyExists("m").code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(FailedPrecondition("m").code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(ResourceExhausted("m").code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(Internal("m").code(), StatusCode::kInternal);
  EXPECT_EQ(Unavailable("m").code(), StatusCode::kUnavailable);
  EXPECT_EQ(DataLoss("m").code(), StatusCode::kDataLoss);
  EXPECT_EQ(Cancelled("m").code(), StatusCode::kCancelled);
  EXPECT_EQ(Aborted("m").code(), StatusCode::kAborted);
  EXPECT_EQ(OutOfRange("m").code(), StatusCode::kOutOfRange);
  EXPECT_EQ(DeadlineExceeded("m").code(), StatusCode::kDeadlineExceeded);
}

Result<int> Half(int value) {
  if (value % 2 != 0) return InvalidArgument(std::to_string(value) + " is odd");
  return value / 2;
}

Result<int> Quarter(int value) {
  FEDMOE_ASSIGN_OR_RETURN(const int half, Half(value));
  FEDMOE_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

Status CheckEven(int value, bool& reached_the_end) {
  FEDMOE_RETURN_IF_ERROR(Half(value).status());
  reached_the_end = true;
  return Status::Ok();
}

TEST(Result, HoldsAValueOrTheReasonThatThereIsNone) {
  const Result<int> good = Half(4);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(*good, 2);
  EXPECT_EQ(good.status(), Status::Ok());
  const Result<int> bad = Half(3);
  EXPECT_FALSE(bad.ok());
  EXPECT_EQ(bad.status(), InvalidArgument("3 is odd"));
}

TEST(Result, MovesAValueThatCannotBeCopied) {
  Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  const std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

TEST(ResultMacros, LeaveTheFunctionAtTheFirstFailure) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(5).status(), InvalidArgument("5 is odd"));
  EXPECT_EQ(Quarter(6).status(), InvalidArgument("3 is odd"));
  bool reached_the_end = false;
  EXPECT_EQ(CheckEven(1, reached_the_end), InvalidArgument("1 is odd"));
  EXPECT_FALSE(reached_the_end);
  EXPECT_EQ(CheckEven(2, reached_the_end), Status::Ok());
  EXPECT_TRUE(reached_the_end);
}

}  // namespace
}  // namespace fedmoe
