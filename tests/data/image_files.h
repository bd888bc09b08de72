// The bytes of image files, made by the tests.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <jpeglib.h>
#include <png.h>

#include "tests/data/idx_files.h"

namespace fedmoe {

// `pixels`: height * width * channels (1, 3, or of a JPEG 4 for CMYK).
inline std::string Jpeg(int width, int height, int channels, std::vector<std::uint8_t> pixels,
                        int quality = 95) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &bytes, &size);
  jpeg.image_width = static_cast<JDIMENSION>(width);
  jpeg.image_height = static_cast<JDIMENSION>(height);
  jpeg.input_components = channels;
  jpeg.in_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&jpeg);
  jpeg_set_quality(&jpeg, quality, TRUE);
  jpeg_start_compress(&jpeg, TRUE);
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = pixels.data() + jpeg.next_scanline * static_cast<JDIMENSION>(width * channels);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string out(reinterpret_cast<const char*>(bytes), size);
  std::free(bytes);
  return out;
}

// `format`: PNG_FORMAT_GRAY, PNG_FORMAT_RGB or PNG_FORMAT_RGBA.
inline std::string Png(int width, int height, std::uint32_t format,
                       const std::vector<std::uint8_t>& pixels) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(width);
  png.height = static_cast<png_uint_32>(height);
  png.format = format;
  std::string out(PNG_IMAGE_PNG_SIZE_MAX(png), '\0');
  png_alloc_size_t size = out.size();
  EXPECT_NE(png_image_write_to_memory(&png, out.data(), &size, 0, pixels.data(), 0, nullptr), 0)
      << png.message;
  out.resize(size);
  return out;
}

// Also makes the folders above.
inline void WriteInFolders(const std::string& path, std::string_view bytes) {
  std::filesystem::create_directories(std::filesystem::path(path).parent_path());
  WriteBytes(path, bytes);
}

// A grey PNG of one colour.
inline std::string GreyPng(int width, int height, std::uint8_t grey) {
  return Png(width, height, PNG_FORMAT_GRAY,
             std::vector<std::uint8_t>(static_cast<std::size_t>(width * height), grey));
}

}  // namespace fedmoe
