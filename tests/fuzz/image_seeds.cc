#include <cstdint>
#include <string>
#include <vector>

#include "tests/data/image_files.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/seeds.h"

namespace fedmoe {
namespace {

constexpr int kColour = 0, kGrey = 1;
// In a PNG the width and the height stand here, big-endian, and after the 13 bytes of IHDR its CRC.
constexpr std::size_t kPngWidthAt = 16;
constexpr std::size_t kPngCrcAt = 29;

std::vector<std::uint8_t> Gradient(int values) {
  std::vector<std::uint8_t> pixels;
  for (int i = 0; i < values; ++i) pixels.push_back(static_cast<std::uint8_t>(i * 7));
  return pixels;
}

// The same picture, but announced with other sides.
std::string WithSides(std::string png, std::uint32_t width, std::uint32_t height) {
  png.replace(kPngWidthAt, 8, Words({width, height}));
  const auto* const header = reinterpret_cast<const Bytef*>(png.data()) + kPngWidthAt - 4;
  const auto crc = static_cast<std::uint32_t>(crc32(0, header, 17));
  return png.replace(kPngCrcAt, 4, Words({crc}));
}

// Of a JPEG: the two bytes of height and of width in its frame header.
std::string WithJpegSides(std::string jpeg, int width, int height) {
  const std::size_t frame = jpeg.find("\xff\xc0");
  const auto put = [&](std::size_t at, int side) {
    jpeg[at] = static_cast<char>(side >> 8);
    jpeg[at + 1] = static_cast<char>(side & 0xff);
  };
  put(frame + 5, height);
  put(frame + 7, width);
  return jpeg;
}

}  // namespace

std::vector<Seed> ImageSeeds() {
  const std::string jpeg = Jpeg(10, 7, 3, Gradient(210));
  const std::string grey_jpeg = Jpeg(9, 9, 1, Gradient(81));
  const std::string png = Png(5, 4, PNG_FORMAT_RGB, Gradient(60));
  const std::string clear_png = Png(3, 6, PNG_FORMAT_RGBA, Gradient(72));
  const std::string grey_png = GreyPng(8, 2, 90);
  std::vector<Seed> seeds;
  const auto add = [&seeds](const std::string& name, const std::string& file) {
    seeds.push_back({name, SeedInput().Byte(kColour).Rest(file).bytes()});
    seeds.push_back({name + "_as_grey", SeedInput().Byte(kGrey).Rest(file).bytes()});
  };
  add("jpeg", jpeg);
  add("jpeg_grey", grey_jpeg);
  add("png", png);
  add("png_clear", clear_png);
  add("png_grey", grey_png);
  add("bad_empty", "");
  add("bad_text", "neither");
  add("jpeg_bad_cmyk", Jpeg(4, 4, 4, Gradient(64)));
  add("jpeg_bad_cut", jpeg.substr(0, jpeg.size() / 2));
  add("jpeg_bad_header", jpeg.substr(0, 100));
  add("jpeg_bad_scan", jpeg.substr(0, jpeg.size() - 8) + "\xff\xd9");
  add("jpeg_bad_sides", WithJpegSides(jpeg, 20'000, 7));
  add("jpeg_bad_large", WithJpegSides(jpeg, 16'384, 16'384));
  add("png_bad_cut", png.substr(0, png.size() - 20));
  add("png_bad_header", png.substr(0, 20));
  add("png_bad_sides", WithSides(png, 20'000, 4));
  add("png_bad_large", WithSides(grey_png, 16'384, 16'384));
  return seeds;
}

}  // namespace fedmoe
