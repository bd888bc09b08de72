// Decoding and fitting single images.
#include "data/image.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/counter_rng.h"
#include "common/file_system.h"
#include "tests/data/image_files.h"
#include "tests/data/print_status.h"
#include "tests/support/temp_dir.h"

namespace fedmoe {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

Result<Image> Decode(const std::string& bytes, int channels) {
  return DecodeImage(AsBytes(bytes), channels, "a.img");
}

// A smooth picture, which JPEG keeps nearly as it is.
std::vector<std::uint8_t> Gradient(int width, int height, int channels) {
  std::vector<std::uint8_t> pixels;
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        pixels.push_back(static_cast<std::uint8_t>(40 + 3 * x + 2 * y + 20 * c));
      }
    }
  }
  return pixels;
}

TEST(DecodeImageTest, PngIsExact) {
  const std::vector<std::uint8_t> pixels = {1, 2, 3, 250, 0, 7, 9, 9, 9, 255, 255, 255};
  const auto image = Decode(Png(2, 2, PNG_FORMAT_RGB, pixels), 3);
  ASSERT_TRUE(image.ok()) << image.status().ToString();
  EXPECT_EQ(image->width, 2);
  EXPECT_EQ(image->height, 2);
  EXPECT_EQ(image->channels, 3);
  EXPECT_THAT(image->pixels, ElementsAreArray(pixels));
}

TEST(DecodeImageTest, JpegIsNearlyAsItWas) {
  const auto pixels = Gradient(24, 16, 3);
  const auto image = Decode(Jpeg(24, 16, 3, pixels), 3);
  ASSERT_TRUE(image.ok()) << image.status().ToString();
  ASSERT_EQ(image->pixels.size(), pixels.size());
  EXPECT_EQ(image->width, 24);
  for (std::size_t i = 0; i < pixels.size(); ++i) EXPECT_NEAR(image->pixels[i], pixels[i], 8);
}

TEST(DecodeImageTest, GreyBecomesThreeEqualChannels) {
  const auto png = Decode(GreyPng(3, 1, 77), 3);
  ASSERT_TRUE(png.ok());
  EXPECT_THAT(png->pixels, Each(77));
  EXPECT_EQ(png->pixels.size(), 9u);
  const auto jpeg = Decode(Jpeg(8, 8, 1, std::vector<std::uint8_t>(64, 77)), 3);
  ASSERT_TRUE(jpeg.ok());
  EXPECT_EQ(jpeg->pixels.size(), 192u);
  EXPECT_THAT(jpeg->pixels, Each(77));
}

TEST(DecodeImageTest, ColoursBecomeGreyByTheirLuminance) {
  const std::vector<std::uint8_t> pixels = {255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 10, 10};
  const auto image = Decode(Png(4, 1, PNG_FORMAT_RGB, pixels), 1);
  ASSERT_TRUE(image.ok());
  EXPECT_THAT(image->pixels, ElementsAre(76, 150, 29, 10));
  const auto jpeg = Decode(Jpeg(8, 8, 3, Gradient(8, 8, 3)), 1);
  ASSERT_TRUE(jpeg.ok());
  EXPECT_EQ(jpeg->pixels.size(), 64u);
}

TEST(DecodeImageTest, TransparencyIsDropped) {
  const auto image = Decode(Png(1, 1, PNG_FORMAT_RGBA, {10, 20, 30, 0}), 3);
  ASSERT_TRUE(image.ok());
  EXPECT_THAT(image->pixels, ElementsAre(10, 20, 30));
}

TEST(DecodeImageTest, RefusesAJpegThatEndsEarly) {
  std::string bytes = Jpeg(24, 16, 3, Gradient(24, 16, 3));
  bytes.resize(bytes.size() - 40);
  EXPECT_EQ(Decode(bytes, 3).status(), DataLoss("a.img: damaged JPEG: Premature end of JPEG file"));
  EXPECT_EQ(Decode(bytes.substr(0, 10), 3).status(),
            DataLoss("a.img: damaged JPEG: Premature end of JPEG file"));
}

TEST(DecodeImageTest, RefusesAPngWhoseChecksumIsWrong) {
  std::string bytes = Png(2, 2, PNG_FORMAT_RGB, Gradient(2, 2, 3));
  const std::size_t data = bytes.find("IDAT");
  bytes[data + 6] = static_cast<char>(bytes[data + 6] ^ 1);
  EXPECT_EQ(Decode(bytes, 3).status(), DataLoss("a.img: damaged PNG: IDAT: CRC error"));
  EXPECT_EQ(Decode(bytes.substr(0, data), 3).status().code(), StatusCode::kDataLoss);
}

TEST(DecodeImageTest, RefusesWhatIsNoImage) {
  EXPECT_EQ(Decode("GIF89a...", 3).status(), InvalidArgument("a.img: neither JPEG nor PNG"));
  EXPECT_EQ(Decode("", 3).status(), InvalidArgument("a.img: neither JPEG nor PNG"));
  EXPECT_EQ(Decode(Jpeg(8, 8, 4, std::vector<std::uint8_t>(256, 9)), 3).status(),
            InvalidArgument("a.img: a CMYK JPEG; convert it to RGB"));
}

TEST(DecodeImageTest, RefusesSidesOverTheLimitBeforeItAllocates) {
  std::string png = GreyPng(1, 1, 0);
  // Width in the header, whose checksum must fit.
  png.replace(16, 4, Words({20000}));
  const auto header = std::string_view(png).substr(12, 17);
  png.replace(29, 4,
              Words({static_cast<std::uint32_t>(
                  crc32(0, reinterpret_cast<const Bytef*>(header.data()), 17))}));
  EXPECT_EQ(Decode(png, 1).status(),
            InvalidArgument("a.img: 20000x1 pixels are outside 1 to 16384 a side"));
  std::string jpeg = Jpeg(8, 8, 1, std::vector<std::uint8_t>(64, 0));
  const std::size_t frame = jpeg.find("\xff\xc0");
  jpeg.replace(frame + 5, 4, "\xff\x00\x00\x08", 4);  // height 65280, width 8
  EXPECT_EQ(Decode(jpeg, 1).status(),
            InvalidArgument("a.img: 8x65280 pixels are outside 1 to 16384 a side"));
}

// Otherwise a file of a hundred bytes would take 800 MB.
TEST(DecodeImageTest, RefusesMorePixelsThanItsBytesCanHoldBeforeItAllocates) {
  std::string png = GreyPng(8, 2, 90);
  png.replace(16, 8, Words({16384, 16384}));
  const auto* const header = reinterpret_cast<const Bytef*>(png.data()) + 12;
  png.replace(29, 4, Words({static_cast<std::uint32_t>(crc32(0, header, 17))}));
  const std::string cannot_hold = " bytes cannot hold 16384x16384 pixels";
  EXPECT_EQ(Decode(png, 1).status(),
            DataLoss("a.img: damaged PNG: " + std::to_string(png.size()) + cannot_hold));
  std::string jpeg = Jpeg(8, 8, 1, std::vector<std::uint8_t>(64, 0));
  jpeg.replace(jpeg.find("\xff\xc0") + 5, 4, "\x40\x00\x40\x00", 4);
  EXPECT_EQ(Decode(jpeg, 1).status(),
            DataLoss("a.img: damaged JPEG: " + std::to_string(jpeg.size()) + cannot_hold));
}

TEST(DecodeImageTest, TakesAnImageOfOneColourHoweverFewItsBytes) {
  const auto white = std::vector<std::uint8_t>(std::size_t{2048} * 2048, 255);
  const auto png = Decode(GreyPng(2048, 2048, 255), 1);
  ASSERT_TRUE(png.ok()) << png.status().ToString();
  EXPECT_EQ(png->pixels, white);
  const auto jpeg = Decode(Jpeg(2048, 2048, 1, white), 1);
  ASSERT_TRUE(jpeg.ok()) << jpeg.status().ToString();
  EXPECT_EQ(jpeg->pixels, white);
}

TEST(DecodeImageTest, NeverFailsOtherwiseThanByAStatus) {
  constexpr std::uint64_t kSeed = 11;
  CounterRng rng(kSeed);
  const std::vector<std::string> good = {Jpeg(16, 16, 3, Gradient(16, 16, 3)),
                                         Png(6, 5, PNG_FORMAT_RGB, Gradient(6, 5, 3))};
  int refused = 0;
  for (int trial = 0; trial < 2000; ++trial) {
    std::string bytes = good[static_cast<std::size_t>(trial % 2)];
    for (int flips = 0; flips < 3; ++flips) {
      bytes[rng.NextBelow(bytes.size())] = static_cast<char>(rng.NextBelow(256));
    }
    if (rng.NextBelow(4) == 0) bytes.resize(rng.NextBelow(bytes.size()));
    refused += Decode(bytes, 3).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 1000) << "seed " << kSeed;
}

TEST(ReadImageTest, NamesAMissingFile) {
  const TempDir folder;
  const auto image = ReadImage(folder.File("none.png"), 3);
  EXPECT_EQ(image.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(image.status().message(), ::testing::HasSubstr(folder.File("none.png")));
}

std::vector<int> Fit(const Image& image, int height, int width) {
  std::vector<std::uint8_t> out(static_cast<std::size_t>(height * width * image.channels), 201);
  FitImage(image, height, width, out);
  return {out.begin(), out.end()};
}

TEST(FitImageTest, AnImageOfTheRightSizeIsOnlySplitIntoChannels) {
  const Image image{.width = 2, .height = 1, .channels = 3, .pixels = {1, 2, 3, 4, 5, 6}};
  EXPECT_THAT(Fit(image, 1, 2), ElementsAre(1, 4, 2, 5, 3, 6));
}

TEST(FitImageTest, OneColourStaysThatColour) {
  const Image image{
      .width = 7, .height = 5, .channels = 1, .pixels = std::vector<std::uint8_t>(35, 93)};
  EXPECT_THAT(Fit(image, 3, 3), Each(93));
  EXPECT_THAT(Fit(image, 11, 4), Each(93));
}

TEST(FitImageTest, CropsTheCentreOfAnImageThatIsWider) {
  // 4x2, no scaling: columns 1 and 2 are the middle.
  const Image image{.width = 4, .height = 2, .channels = 1, .pixels = {1, 2, 3, 4, 5, 6, 7, 8}};
  EXPECT_THAT(Fit(image, 2, 2), ElementsAre(2, 3, 6, 7));
}

TEST(FitImageTest, EnlargesByLinearInterpolation) {
  const Image image{.width = 2, .height = 1, .channels = 1, .pixels = {0, 100}};
  // Output centres at -0.25, 0.25, 0.75, 1.25 between the two pixels.
  EXPECT_THAT(Fit(image, 2, 4), ElementsAre(0, 25, 75, 100, 0, 25, 75, 100));
}

TEST(FitImageTest, ShrinkingAveragesWhatAnOutputPixelCovers) {
  // Every second pixel is white: sampling without a filter would give 0 or 255.
  Image image{.width = 64, .height = 64, .channels = 1, .pixels = {}};
  for (int i = 0; i < 64 * 64; ++i) {
    image.pixels.push_back(i % 2 == 0 ? 255 : 0);
  }
  for (const int pixel : Fit(image, 8, 8)) EXPECT_NEAR(pixel, 128, 6);
}

}  // namespace
}  // namespace fedmoe
