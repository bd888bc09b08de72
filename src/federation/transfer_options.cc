#include "federation/transfer_options.h"

#include <algorithm>
#include <cmath>

namespace fedmoe {

std::uint64_t KeptElements(const UploadOptions& upload, std::uint64_t elements) {
  if (elements == 0) return 0;
  const double kept = std::ceil(upload.top_k_fraction * static_cast<double>(elements));
  return std::clamp<std::uint64_t>(static_cast<std::uint64_t>(std::max(kept, 1.0)), 1, elements);
}

Encoding BlockEncodingOf(const UploadOptions& upload, std::uint64_t elements) {
  if (upload.encoding != Encoding::kTopK) return upload.encoding;
  const std::uint64_t bytes =
      EncodedBytes(Encoding::kTopK, elements, KeptElements(upload, elements));
  return bytes < EncodedBytes(Encoding::kFloat32, elements) ? Encoding::kTopK : Encoding::kFloat32;
}

double UploadBytesPerElement(const UploadOptions& upload) {
  const double unit = static_cast<double>(UnitBytes(upload.encoding)) /
                      static_cast<double>(UnitElements(upload.encoding));
  if (upload.encoding != Encoding::kTopK) return unit;
  return std::min(unit * upload.top_k_fraction, static_cast<double>(UnitBytes(Encoding::kFloat32)));
}

double DownloadBytesPerElement(const DownloadOptions& download) {
  return UploadBytesPerElement({.encoding = download.encoding});
}

std::vector<ShardPart> PartsOf(const ModelSpec& spec, int shard) {
  std::vector<ShardPart> parts;
  for (const int parameter : spec.BlocksOf(shard)) {
    const auto elements =
        static_cast<std::uint64_t>(spec.blocks[static_cast<std::size_t>(parameter)].ElementCount());
    for (std::uint64_t first = 0; first < elements; first += kEncodedPartElements) {
      parts.push_back({.parameter = parameter,
                       .first = first,
                       .elements = std::min(kEncodedPartElements, elements - first)});
    }
  }
  return parts;
}

std::int64_t DownloadBytes(const ModelSpec& spec, int shard, const DownloadOptions& download) {
  if (!download.encoded()) return spec.ShardBytes(shard);
  std::uint64_t bytes = kEncodedShardFrameBytes;
  for (const ShardPart& part : PartsOf(spec, shard)) {
    const std::uint64_t payload = EncodedBytes(download.encoding, part.elements);
    const std::uint64_t frames = (payload + kEncodedShardFrameBytes - 1) / kEncodedShardFrameBytes;
    bytes += kEncodedShardFrameBytes * (1 + frames);
  }
  return static_cast<std::int64_t>(bytes);
}

}  // namespace fedmoe
