// JPEG and PNG files as pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.h"

namespace fedmoe {

// Pixels row by row, the channels of a pixel side by side.
struct Image {
  int width = 0;
  int height = 0;
  int channels = 0;  // 1 or 3
  std::vector<std::uint8_t> pixels;
};

inline constexpr int kMaxImageSide = 16384;

// Decodes a file's bytes with `channels` 1 or 3: grey becomes three equal channels, colours become
// grey by their luminance (0.299 red, 0.587 green, 0.114 blue); transparency is dropped, 16 bits
// become 8. Neither throws nor exits on any bytes. Thread-safe. Errors, word for word (`path` is
// for them alone):
//   INVALID_ARGUMENT "PATH: neither JPEG nor PNG"
//   INVALID_ARGUMENT "PATH: WxH pixels are outside 1 to 16384 a side"
//   INVALID_ARGUMENT "PATH: a CMYK JPEG; convert it to RGB"
//   DATA_LOSS        "PATH: damaged JPEG: REASON" and "PATH: damaged PNG: REASON", the decoder's
//                    reason; its warnings count, so that half a picture is none
Result<Image> DecodeImage(std::span<const std::byte> bytes, int channels, const std::string& path);

// As above, of a file of at most 1 GiB; also the file system's errors.
Result<Image> ReadImage(const std::string& path, int channels);

// Writes the image into `out`, [channels, height, width]: scaled until it just covers the target
// (triangle filter, as wide as the scale asks for when it shrinks; an image of the right size stays
// as it is), then the centre cropped.
void FitImage(const Image& image, int height, int width, std::span<std::uint8_t> out);

}  // namespace fedmoe
