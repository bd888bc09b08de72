// Seeds of the checkpoint's files.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "common/checksum.h"
#include "storage/manifest.h"
#include "storage/safetensors.h"
#include "tests/fuzz/seeds.h"
#include "tests/fuzz/update_case.h"

namespace fedmoe {
namespace {

// A file with this text as its header, and as many bytes of data.
std::string TensorFile(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + std::string(data_bytes, '\1');
}

std::string WrittenTensors() {
  std::vector<TensorInfo> tensors = {{.name = "trunk.weight", .shape = {2, 3}},
                                     {.name = "empty", .shape = {0, 4}},
                                     {.name = "scalar", .shape = {}},
                                     {.name = "half", .dtype = "BF16", .shape = {3}}};
  std::string bytes = SafetensorsHeader(tensors, {{"format", "fedmoe"}, {"version", "3"}});
  for (const TensorInfo& tensor : tensors) bytes.append(tensor.bytes, '\2');
  return bytes;
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

Manifest ExampleManifest(const ModelSpec& spec) {
  Manifest manifest;
  manifest.version = 12;
  manifest.spec_digest = SpecDigest(spec);
  for (int shard = 0; shard < spec.ShardCount(); ++shard) {
    StoredShard stored;
    stored.shard = shard;
    stored.digest = Sha256Of(AsBytes(std::string_view(spec.ShardName(shard))));
    stored.file = ValuesFileName(shard % 2 == 0 ? 12 : 11);
    stored.offset = 320;
    stored.bytes = static_cast<std::uint64_t>(spec.ShardBytes(shard));
    stored.moment_count = shard % 3;
    if (stored.moment_count > 0) stored.moments_file = MomentsFileName(12);
    stored.steps = 9;
    manifest.shards.push_back(stored);
  }
  manifest.model_digest = ModelDigest(manifest.Digests());
  return manifest;
}

}  // namespace

std::vector<Seed> SafetensorsSeeds() {
  const std::string tensor = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  return {
      {"written", WrittenTensors()},
      {"one", TensorFile(tensor, 8)},
      {"no_tensors", TensorFile("{}", 0)},
      {"bad_short", "1234567"},
      {"bad_length", TensorFile(tensor, 8).substr(0, 20)},
      {"bad_json", TensorFile("{\"a\":", 0)},
      {"bad_list", TensorFile("[1]", 0)},
      {"bad_metadata", TensorFile(R"({"__metadata__":{"a":1}})", 0)},
      {"bad_metadata_list", TensorFile(R"({"__metadata__":[1]})", 0)},
      {"bad_entry", TensorFile(R"({"a":1})", 0)},
      {"bad_no_dtype", TensorFile(R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8)},
      {"bad_dtype", TensorFile(Replaced(tensor, "F32", "F31"), 8)},
      {"bad_no_shape", TensorFile(R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8)},
      {"bad_shape", TensorFile(Replaced(tensor, "[2]", "[-2]"), 8)},
      {"bad_extent", TensorFile(Replaced(tensor, "[2]", "[9223372036854775807,4]"), 8)},
      {"bad_no_range", TensorFile(R"({"a":{"dtype":"F32","shape":[2]}})", 8)},
      {"bad_range", TensorFile(Replaced(tensor, "[0,8]", "[0,9]"), 9)},
      {"bad_gap", TensorFile(Replaced(tensor, "[0,8]", "[4,12]"), 12)},
      {"bad_past_the_end", TensorFile(tensor, 4)},
      {"bad_rest", TensorFile(tensor, 12)},
  };
}

std::vector<Seed> ManifestSeeds() {
  const ModelSpec spec = UpdateSpec();
  const Manifest manifest = ExampleManifest(spec);
  const std::string text = ManifestToJson(manifest, spec);
  const auto changed = [&](auto change) {
    Manifest other = manifest;
    change(other);
    return ManifestToJson(other, spec);
  };
  return {
      {"written", text},
      {"bad_json", "{"},
      {"bad_format", Replaced(text, "manifest.v1", "manifest.v2")},
      {"bad_no_version", Replaced(text, "\"version\"", "\"ver\"")},
      {"bad_version", changed([](Manifest& m) { m.version = 13; })},
      {"bad_spec", changed([](Manifest& m) { m.spec_digest = m.model_digest; })},
      {"bad_count", changed([](Manifest& m) { m.shards.pop_back(); })},
      {"bad_order", changed([](Manifest& m) { m.shards[0].shard = 1; })},
      {"bad_digest", changed([](Manifest& m) { m.shards[0].digest = "x"; })},
      {"bad_bytes", changed([](Manifest& m) { m.shards[0].bytes = 4; })},
      {"bad_file", changed([](Manifest& m) { m.shards[0].file = "../000012.safetensors"; })},
      {"bad_moment_count", changed([](Manifest& m) { m.shards[0].moment_count = 3; })},
      {"bad_moments", changed([](Manifest& m) { m.shards[0].moment_count = 1; })},
      {"bad_offset", changed([](Manifest& m) { m.shards[0].offset = 2; })},
      {"bad_model", changed([](Manifest& m) { m.model_digest = m.spec_digest; })},
      {"bad_shards", Replaced(text, "\"shards\": [", "\"shards\": [7, ")},
  };
}

}  // namespace fedmoe
