#include "data/image.h"

// libjpeg's header uses FILE without including it.
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <string_view>

#include <fmt/format.h>
#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include "common/file_system.h"

namespace fedmoe {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{1} << 30;
// Of a byte of the file. A JPEG's blocks of 64 pixels take at least a bit each; deflate makes at
// most 1032 bytes of one, and a PNG's pixels take at least a bit each.
constexpr std::uint64_t kMaxJpegPixels = 64 * 8;
constexpr std::uint64_t kMaxPngPixels = 1032 * 8;
constexpr std::string_view kJpegMagic = "\xff\xd8\xff";
constexpr std::string_view kPngMagic = "\x89PNG\r\n\x1a\n";

Status CheckSides(std::uint64_t width, std::uint64_t height, const std::string& path) {
  if (width >= 1 && width <= kMaxImageSide && height >= 1 && height <= kMaxImageSide) {
    return Status::Ok();
  }
  return InvalidArgument(fmt::format("{}: {}x{} pixels are outside 1 to {} a side", path, width,
                                     height, kMaxImageSide));
}

// Whether `size` bytes can hold as many pixels as their header says, where a byte holds at most
// `most`: memory is taken for those alone.
bool CanHold(std::size_t size, std::uint64_t width, std::uint64_t height, std::uint64_t most) {
  return width * height <= most * size;
}

std::string CannotHold(std::size_t size, std::uint64_t width, std::uint64_t height) {
  return fmt::format("{} bytes cannot hold {}x{} pixels", size, width, height);
}

// libjpeg reports an error by a function that must not return, so it jumps back to where a step
// began. No function between the jump and its target has an object with a destructor.
struct JpegErrors {
  jpeg_error_mgr manager;  // first, so that libjpeg's pointer to it is one to this
  std::jmp_buf back;
  char reason[JMSG_LENGTH_MAX];
};

[[noreturn]] void JumpBack(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  errors->manager.format_message(jpeg, errors->reason);
  std::longjmp(errors->back, 1);
}

// Level -1 is a warning: the data is damaged, and libjpeg would go on with an invented picture.
void RefuseWarnings(j_common_ptr jpeg, int level) {
  if (level >= 0) return;
  switch (jpeg->err->msg_code) {
    case JWRN_EXTRANEOUS_DATA:  // padding that some cameras write
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
      return;
    default:
      JumpBack(jpeg);
  }
}

class JpegDecoder {
 public:
  JpegDecoder() {
    jpeg_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = JumpBack;
    errors_.manager.emit_message = RefuseWarnings;
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() { jpeg_destroy_decompress(&jpeg_); }

  // The steps, in order; false: reason() says why.
  bool Start(const unsigned char* bytes, std::size_t size) {
    if (setjmp(errors_.back) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    jpeg_mem_src(&jpeg_, bytes, static_cast<unsigned long>(size));
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }
  // Into width * height * channels bytes.
  bool Decode(int channels, unsigned char* pixels) {
    if (setjmp(errors_.back) != 0) return false;
    jpeg_.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    const std::size_t stride = std::size_t{jpeg_.output_width} * static_cast<std::size_t>(channels);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      unsigned char* row = pixels + jpeg_.output_scanline * stride;
      jpeg_read_scanlines(&jpeg_, &row, 1);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }

  unsigned width() const { return jpeg_.image_width; }
  unsigned height() const { return jpeg_.image_height; }
  bool HasFourColours() const {
    return jpeg_.jpeg_color_space == JCS_CMYK || jpeg_.jpeg_color_space == JCS_YCCK;
  }
  const char* reason() const { return errors_.reason; }

 private:
  jpeg_decompress_struct jpeg_{};
  JpegErrors errors_{};
};

Result<Image> DecodeJpeg(std::span<const std::byte> bytes, int channels, const std::string& path) {
  JpegDecoder decoder;
  const auto damaged = [&] {
    return DataLoss(fmt::format("{}: damaged JPEG: {}", path, decoder.reason()));
  };
  if (!decoder.Start(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size())) {
    return damaged();
  }
  FEDMOE_RETURN_IF_ERROR(CheckSides(decoder.width(), decoder.height(), path));
  if (decoder.HasFourColours()) return InvalidArgument(path + ": a CMYK JPEG; convert it to RGB");
  if (!CanHold(bytes.size(), decoder.width(), decoder.height(), kMaxJpegPixels)) {
    return DataLoss(fmt::format("{}: damaged JPEG: {}", path,
                                CannotHold(bytes.size(), decoder.width(), decoder.height())));
  }
  Image image{.width = static_cast<int>(decoder.width()),
              .height = static_cast<int>(decoder.height()),
              .channels = channels,
              .pixels = {}};
  image.pixels.resize(std::size_t{decoder.width()} * decoder.height() *
                      static_cast<std::size_t>(channels));
  if (!decoder.Decode(channels, image.pixels.data())) return damaged();
  return image;
}

// libpng's simplified interface catches its own jumps and frees what it holds on an error.
struct PngImage : png_image {
  PngImage() : png_image{} { version = PNG_IMAGE_VERSION; }
  PngImage(const PngImage&) = delete;
  PngImage& operator=(const PngImage&) = delete;
  ~PngImage() { png_image_free(this); }
};

Result<Image> DecodePng(std::span<const std::byte> bytes, int channels, const std::string& path) {
  PngImage png;
  const auto damaged = [&] {
    return DataLoss(fmt::format("{}: damaged PNG: {}", path, png.message));
  };
  if (png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()) == 0) return damaged();
  FEDMOE_RETURN_IF_ERROR(CheckSides(png.width, png.height, path));
  if (!CanHold(bytes.size(), png.width, png.height, kMaxPngPixels)) {
    return DataLoss(
        fmt::format("{}: damaged PNG: {}", path, CannotHold(bytes.size(), png.width, png.height)));
  }
  // Sixteen bits without a colour space are as eight bits are, not linear light.
  png.flags |= PNG_IMAGE_FLAG_16BIT_sRGB;
  // With transparency in the output libpng does not mix in a background.
  png.format = PNG_FORMAT_RGBA;
  const std::size_t pixels = std::size_t{png.width} * png.height;
  std::vector<std::uint8_t> colours(pixels * 4);
  if (png_image_finish_read(&png, nullptr, colours.data(), 0, nullptr) == 0) return damaged();
  Image image{.width = static_cast<int>(png.width),
              .height = static_cast<int>(png.height),
              .channels = channels,
              .pixels = {}};
  image.pixels.resize(pixels * static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < pixels; ++i) {
    const std::uint8_t* from = &colours[4 * i];
    if (channels == 1) {
      const int luminance = (299 * from[0] + 587 * from[1] + 114 * from[2] + 500) / 1000;
      image.pixels[i] = static_cast<std::uint8_t>(luminance);
    } else {
      std::memcpy(&image.pixels[3 * i], from, 3);
    }
  }
  return image;
}

}  // namespace

Result<Image> DecodeImage(std::span<const std::byte> bytes, int channels, const std::string& path) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.starts_with(kJpegMagic)) return DecodeJpeg(bytes, channels, path);
  if (text.starts_with(kPngMagic)) return DecodePng(bytes, channels, path);
  return InvalidArgument(path + ": neither JPEG nor PNG");
}

Result<Image> ReadImage(const std::string& path, int channels) {
  FEDMOE_ASSIGN_OR_RETURN(const std::string bytes,
                          ReadFile(PosixFileSystem(), path, kMaxFileBytes));
  return DecodeImage(AsBytes(bytes), channels, path);
}

}  // namespace fedmoe
