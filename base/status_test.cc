#include "base/status.h"

#include <cerrno>
#include <memory>
#include <string>

#include "gtest/gtest.h"

namespace vireo {
namespace {

TEST(StatusTest, AnErrnoBecomesACodeAMessageAndStaysKnown) {
  const absl::Status status = ErrnoStatus(ENOENT, "/some/file");
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(std::string(status.message()), "/some/file: No such file or directory");
  EXPECT_EQ(StatusErrno(status), ENOENT);
}

TEST(StatusTest, ShortagesAreResourceExhausted) {
  for (const int error : {ENOSPC, ENOMEM, EMFILE, ENFILE, EDQUOT}) {
    EXPECT_EQ(ErrnoStatus(error, "x").code(), absl::StatusCode::kResourceExhausted) << error;
  }
  EXPECT_EQ(ErrnoStatus(ECANCELED, "x").code(), absl::StatusCode::kCancelled);
}

TEST(StatusTest, OtherStatusesHaveNoErrno) {
  EXPECT_EQ(StatusErrno(absl::OkStatus()), 0);
  EXPECT_EQ(StatusErrno(absl::NotFoundError("x")), 0);
}

TEST(StatusTest, AnnotateAndWithCodeKeepTheErrno) {
  const absl::Status annotated = Annotate(ErrnoStatus(EIO, "read"), "disk.raw");
  EXPECT_EQ(std::string(annotated.message()), "disk.raw: read: Input/output error");
  EXPECT_EQ(StatusErrno(annotated), EIO);
  const absl::Status recoded = WithCode(annotated, absl::StatusCode::kDataLoss);
  EXPECT_EQ(recoded.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(StatusErrno(recoded), EIO);
  EXPECT_TRUE(Annotate(absl::OkStatus(), "x").ok());
  EXPECT_TRUE(WithCode(absl::OkStatus(), absl::StatusCode::kDataLoss).ok());
}

absl::StatusOr<std::unique_ptr<int>> Make(bool ok) {
  if (!ok) return absl::AbortedError("not made");
  return std::make_unique<int>(5);
}

absl::StatusOr<int> Use(bool ok) {
  ASSIGN_OR_RETURN(const std::unique_ptr<int> made, Make(ok));
  std::unique_ptr<int> again;
  ASSIGN_OR_RETURN(again, Make(ok));
  RETURN_IF_ERROR(absl::OkStatus());
  return *made + *again;
}

TEST(StatusMacrosTest, GoOnWhileOkAndLeaveWithTheError) {
  EXPECT_EQ(*Use(true), 10);
  EXPECT_EQ(Use(false).status(), absl::AbortedError("not made"));
}

}  // namespace
}  // namespace vireo
