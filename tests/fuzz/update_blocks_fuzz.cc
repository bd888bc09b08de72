// Updates as the coordinator takes them: parse, validate, verify; what is accepted is decoded,
// aggregated and encoded again. Input: a byte of options, then the update's bytes.
//
// Options: bits 0 to 2 the encoding that the task asks for; bit 3 to set the checksums and the
// total right first, without which hardly a mutation would come past them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "federation/update.h"
#include "kernels/weighted_sum_encoded.h"
#include "storage/update_format.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/block_repair.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/memory_file.h"
#include "tests/fuzz/update_case.h"

namespace fedmoe {
namespace {

constexpr std::size_t kTotalBytesAt = 24;

// What reading an update may take, whatever it says: a piece of 1 MiB, the chunks around it, and as
// much again where the file's mapping is a copy.
constexpr std::size_t kMaxReadBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxParseBytes = 8 << 10;

void Repair(std::string& bytes) {
  if (bytes.size() < kFrameBytes) return;
  StoreAt<std::uint64_t>(bytes.size(), bytes, kTotalBytesAt);
  RepairFrames(bytes);
}

// Every bit of two results alike; NaN is no number here.
bool SameBits(std::span<const float> a, std::span<const float> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

std::vector<float> Decoded(PayloadReader& reader, std::uint64_t first, std::uint64_t count) {
  std::vector<float> values(count);
  const Result<EncodedValues> window = reader.Window(first, count);
  FUZZ_CHECK(window.ok(), window.status().ToString());
  const Status status = DecodeValues(*window, first, values);
  FUZZ_CHECK(status.ok(), status.ToString());
  return values;
}

// Its values go back into the encoding that they came in; the exact ones as they were, and of topk,
// with what is kept back, every one.
void CheckEncodes(const UpdateBlock& block, const std::vector<float>& values) {
  const BlockEncoding options{.encoding = block.encoding,
                              .kept = block.raw_bytes / kTopKUnitBytes,
                              .key = 5,
                              .zstd = block.compression == Compression::kZstd};
  const Result<EncodedBlock> again = EncodeBlock(values, options);
  FUZZ_CHECK(again.ok(), again.status().ToString());
  FUZZ_CHECK(again->raw_bytes == block.raw_bytes, std::to_string(again->raw_bytes));
  std::vector<float> rest(values);
  const Result<EncodedBlock> keeping = EncodeKeepingRest(rest, options);
  FUZZ_CHECK(keeping.ok() == (block.encoding == Encoding::kTopK), keeping.status().ToString());
  if (again->compression != Compression::kNone) return;
  std::vector<float> decoded(values.size());
  const EncodedValues encoded{block.encoding, 0, block.elements, again->payload};
  const Status status = DecodeValues(encoded, 0, decoded);
  FUZZ_CHECK(status.ok(), status.ToString());
  if (block.encoding == Encoding::kInt8 || block.encoding == Encoding::kInt4) return;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const float left = block.encoding == Encoding::kTopK ? rest[i] : 0.0f;
    FUZZ_CHECK(decoded[i] + left == values[i], std::to_string(i));
  }
}

// The block read at once, in windows that do not fall on its units, and through the aggregation's
// kernel gives the same values, all of them finite.
void CheckDecodes(const MemoryFile& file, const UpdateBlock& block) {
  PayloadReader reader(file, block);
  const std::vector<float> whole = Decoded(reader, 0, block.elements);
  for (const float value : whole) {
    FUZZ_CHECK(std::abs(value) <= kMaxEncodedMagnitude, std::to_string(value));
  }
  CheckEncodes(block, whole);
  const std::uint64_t step = block.elements / 5 + 3;
  PayloadReader windows(file, block);
  for (std::uint64_t first = 0; first < block.elements; first += step) {
    const std::uint64_t count = std::min(step, block.elements - first);
    FUZZ_CHECK(SameBits(Decoded(windows, first, count), std::span(whole).subspan(first, count)),
               "elements from " + std::to_string(first));
  }
  const Result<EncodedValues> source = reader.Window(0, block.elements);
  FUZZ_CHECK(source.ok(), source.status().ToString());
  const std::array sources = {*source, *source};
  const std::array weights = {0.75, 0.5};
  std::vector<float> sum(block.elements), reference(block.elements);
  const Status status = WeightedSumEncoded(sources, weights, 0, sum);
  FUZZ_CHECK(status.ok(), status.ToString());
  WeightedSumEncodedReference(sources, weights, 0, reference);
  FUZZ_CHECK(SameBits(sum, reference), "parameter " + std::to_string(block.parameter));
}

// The bytes of an accepted update are the only ones that its content has.
void CheckEncodesAgain(const std::string& bytes, const std::vector<UpdateBlock>& blocks) {
  std::vector<EncodedBlock> encoded;
  for (const UpdateBlock& block : blocks) {
    const auto payload =
        AsBytes(std::string_view(bytes)).subspan(block.payload_offset, block.payload_bytes);
    encoded.push_back({.encoding = block.encoding,
                       .compression = block.compression,
                       .elements = block.elements,
                       .raw_bytes = block.raw_bytes,
                       .payload = {payload.begin(), payload.end()}});
  }
  std::vector<OutgoingBlock> outgoing;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    outgoing.push_back({.parameter = blocks[i].parameter, .delta = {}, .encoded = &encoded[i]});
  }
  std::string again;
  const Status status =
      EncodeUpdate(kFuzzTask, outgoing, [&again](std::span<const std::byte> piece) {
        again.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return Status::Ok();
      });
  FUZZ_CHECK(status.ok(), status.ToString());
  FUZZ_CHECK(again == bytes, std::to_string(again.size()) + " bytes");
}

void CheckRefusal(const Verdict& verdict) {
  const std::string reason = RejectReasonName(verdict.reason);
  FUZZ_CHECK(reason != "none" && reason != "unknown", reason);
  FUZZ_CHECK(!verdict.detail.empty(), reason);
}

void CheckUpdate(const std::string& bytes, Encoding encoding) {
  static const ModelSpec spec = UpdateSpec();
  const MemoryFile file(bytes);
  const TaskAssignment task = UpdateTask(encoding);
  const UpdateHeader header = UpdateHeaderOf(bytes.size());
  std::vector<UpdateBlock> blocks;
  {
    const AllocationMeter meter;
    Result<ParsedUpdate> parsed = ParseUpdate(file, kFuzzTask, spec.blocks.size());
    FUZZ_CHECK(parsed.ok(), parsed.status().ToString());
    FUZZ_CHECK(meter.PeakBytes() <= kMaxParseBytes, std::to_string(meter.PeakBytes()));
    if (!parsed->verdict.accepted()) return CheckRefusal(parsed->verdict);
    blocks = std::move(parsed->blocks);
  }
  FUZZ_CHECK(blocks.size() <= spec.blocks.size(), std::to_string(blocks.size()));
  const Verdict valid = ValidateUpdate(header, blocks, task, spec);
  if (!valid.accepted()) return CheckRefusal(valid);
  const AllocationMeter meter;
  const Result<Verdict> verified = VerifyPayloads(file, blocks, spec);
  FUZZ_CHECK(verified.ok(), verified.status().ToString());
  FUZZ_CHECK(meter.PeakBytes() <= kMaxReadBytes, std::to_string(meter.PeakBytes()));
  if (!verified->accepted()) return CheckRefusal(*verified);
  for (const UpdateBlock& block : blocks) CheckDecodes(file, block);
  CheckEncodesAgain(bytes, blocks);
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fedmoe::FuzzInput input(data, size);
  const std::uint8_t options = input.TakeByte();
  std::string bytes = input.TakeRest();
  if ((options & 8) != 0) fedmoe::Repair(bytes);
  const auto encoding = static_cast<fedmoe::Encoding>((options & 7) % fedmoe::kEncodings);
  fedmoe::CheckUpdate(bytes, encoding);
  return 0;
}
