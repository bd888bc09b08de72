#include "storage/safetensors.h"

#include <cstring>

#include <gtest/gtest.h>

#include "tests/storage/storage_support.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

class Safetensors : public ::testing::Test {
 protected:
  Result<SafetensorsFile> Read(const std::string& bytes) {
    WriteAll(path_, bytes);
    return ReadSafetensorsHeader(*OpenFile(path_), path_);
  }
  // A file of this JSON header and `data_bytes` zeros; what is wrong with it, without the path.
  std::string Refusal(const std::string& header, std::uint64_t data_bytes) {
    const std::uint64_t length = header.size();
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    const Status status = Read(bytes + header + std::string(data_bytes, '\0')).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_TRUE(status.message().starts_with(path_ + ": ")) << status.message();
    return status.message().substr(std::min(status.message().size(), path_.size() + 2));
  }

  TempDir directory_;
  std::string path_ = directory_.File("x.safetensors");
};

TEST_F(Safetensors, LaysTensorsOutOneAfterAnotherFromAMultipleOf64) {
  std::vector<TensorInfo> tensors = {{.name = "z", .shape = {2, 3}}, {.name = "a", .shape = {}}};
  const std::string header = SafetensorsHeader(tensors, {{"version", "3"}});
  EXPECT_EQ(header.size() % 64, 0u);
  EXPECT_EQ(tensors[0].offset, header.size());
  EXPECT_EQ(tensors[0].bytes, 24u);
  EXPECT_EQ(tensors[1].offset, header.size() + 24);
  EXPECT_EQ(tensors[1].bytes, 4u);
  const std::string json =
      R"({"__metadata__":{"version":"3"},"z":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[24,28]}})";
  EXPECT_EQ(header.substr(8, json.size()), json);
  EXPECT_EQ(header.find_first_not_of(' ', 8 + json.size()), std::string::npos);
}

TEST_F(Safetensors, ReadsBackWhatItWrote) {
  for (std::size_t name_length = 1; name_length < 70; ++name_length) {
    std::vector<TensorInfo> tensors = {{.name = std::string(name_length, 'n'), .shape = {5}},
                                       {.name = "b", .shape = {1, 2}}};
    const std::string header = SafetensorsHeader(tensors, {{"k", "v"}});
    const auto read = Read(header + std::string(28, 'x'));
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(read->metadata, (std::map<std::string, std::string>{{"k", "v"}}));
    ASSERT_EQ(read->tensors.size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(read->tensors[i].name, tensors[i].name);
      EXPECT_EQ(read->tensors[i].shape, tensors[i].shape);
      EXPECT_EQ(read->tensors[i].offset, tensors[i].offset);
      EXPECT_EQ(read->tensors[i].bytes, tensors[i].bytes);
    }
  }
}

TEST_F(Safetensors, RefusesEveryTruncation) {
  std::vector<TensorInfo> tensors = {{.name = "a", .shape = {2}}};
  const std::string bytes = SafetensorsHeader(tensors, {}) + std::string(8, 'x');
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    ASSERT_EQ(Read(bytes.substr(0, length)).status().code(), StatusCode::kDataLoss) << length;
  }
  EXPECT_TRUE(Read(bytes).ok());
}

TEST_F(Safetensors, BoundsTheHeaderBeforeItReadsIt) {
  std::string bytes(8, '\xff');
  EXPECT_EQ(Read(bytes).status().ToString(),
            "DATA_LOSS: " + path_ + ": header of 18446744073709551615 bytes in a file of 8");
  EXPECT_EQ(Read("short").status().ToString(),
            "DATA_LOSS: " + path_ + ": is shorter than the 8 bytes of a header length");
}

TEST_F(Safetensors, SaysWhatIsWrong) {
  EXPECT_EQ(Refusal("[]", 0), "header is not a JSON object");
  EXPECT_EQ(Refusal("{", 0), "header is not a JSON object");
  EXPECT_EQ(Refusal(R"({"__metadata__":3})", 0), "__metadata__ is not an object");
  EXPECT_EQ(Refusal(R"({"__metadata__":{"k":3}})", 0),
            "__metadata__ has a value that is not a string: k");
  EXPECT_EQ(Refusal(R"({"a":1})", 0), "tensor a is not an object");
  EXPECT_EQ(Refusal(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4), "tensor a has no dtype");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}})", 4),
            "tensor a has unknown dtype Q7");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), "tensor a has no shape");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4),
            "tensor a has a shape that is not of whole numbers");
  EXPECT_EQ(
      Refusal(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
      "tensor a has a shape beyond 64 bits");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
            "tensor a has no data_offsets");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4),
            "tensor a has data_offsets [0, 4] for 8 bytes");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4),
            "tensor a has data_offsets [4, 0] for 4 bytes");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
            "tensor a begins at 4 of the data, not at 0");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                    R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
                    6),
            "tensor b begins at 2 of the data, not at 4");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7),
            "tensor a ends past the file's data of 7 bytes");
  EXPECT_EQ(Refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 9),
            "tensors cover 8 of 9 bytes of data");
}

TEST_F(Safetensors, ReadsTensorsWithoutElements) {
  std::vector<TensorInfo> tensors = {{.name = "b", .shape = {0}}, {.name = "a", .shape = {1}}};
  const auto read = Read(SafetensorsHeader(tensors, {}) + std::string(4, 'x'));
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  EXPECT_EQ(read->tensors.size(), 2u);
}

}  // namespace
}  // namespace fedmoe
