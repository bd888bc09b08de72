// JPEG and PNG: an error, or pixels of the size that the file announces; memory as the file's
// length allows, whatever it announces. Input: a byte of options (bit 0: grey), then the file.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/file_system.h"
#include "data/image.h"
#include "tests/fuzz/allocation_meter.h"
#include "tests/fuzz/fuzz_check.h"
#include "tests/fuzz/fuzz_input.h"

namespace fedmoe {
namespace {

// The most pixels of a byte are those of a deflated PNG of one bit a pixel; decoding holds four
// bytes of each, and then those of the channels.
std::size_t MostBytes(std::size_t file) {
  return file * 1032 * 8 * (4 + 3) + (std::size_t{64} << 10);
}

void CheckFit(const Image& image, int height, int width) {
  const std::size_t size = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) *
                           static_cast<std::size_t>(image.channels);
  std::vector<std::uint8_t> out(size);
  FitImage(image, height, width, out);
}

}  // namespace
}  // namespace fedmoe

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fedmoe;
  FuzzInput input(data, size);
  const int channels = (input.TakeByte() & 1) != 0 ? 1 : 3;
  const std::string bytes = input.TakeRest();
  const AllocationMeter meter;
  const Result<Image> image = DecodeImage(AsBytes(std::string_view(bytes)), channels, "x");
  FUZZ_CHECK(meter.PeakBytes() <= MostBytes(bytes.size()), std::to_string(meter.PeakBytes()));
  if (!image.ok()) {
    FUZZ_CHECK(image.status().message().starts_with("x: "), image.status().ToString());
    return 0;
  }
  const bool sides = image->width >= 1 && image->width <= kMaxImageSide && image->height >= 1 &&
                     image->height <= kMaxImageSide;
  FUZZ_CHECK(sides && image->channels == channels, std::to_string(image->width));
  FUZZ_CHECK(image->pixels.size() == static_cast<std::size_t>(image->width) *
                                         static_cast<std::size_t>(image->height) *
                                         static_cast<std::size_t>(channels),
             std::to_string(image->pixels.size()));
  CheckFit(*image, image->height, image->width);
  CheckFit(*image, 4, 7);
  return 0;
}
