#include "storage/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

namespace fedmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors is little-endian");

constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kMaxHeaderBytes = 100ull << 20;
constexpr std::uint64_t kDataAlignment = 64;
constexpr char kMetadataKey[] = "__metadata__";

// Bytes of one element, or 0 for a dtype that is not known.
std::uint64_t DtypeBytes(const std::string& dtype) {
  static const std::map<std::string, std::uint64_t> kBytes = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
      {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  const auto found = kBytes.find(dtype);
  return found == kBytes.end() ? 0 : found->second;
}

// Returns false where the product does not fit in 64 bits.
bool MultiplyInto(std::uint64_t& product, std::uint64_t factor) {
  if (factor != 0 && product > std::numeric_limits<std::uint64_t>::max() / factor) return false;
  product *= factor;
  return true;
}

// Fills `tensor` from its entry; offsets relative to the data. An empty string, or what is wrong.
std::string ReadEntry(const nlohmann::json& entry, TensorInfo& tensor) {
  if (!entry.is_object()) return "is not an object";
  const auto dtype = entry.find("dtype");
  const auto shape = entry.find("shape");
  const auto range = entry.find("data_offsets");
  if (dtype == entry.end() || !dtype->is_string()) return "has no dtype";
  if (shape == entry.end() || !shape->is_array()) return "has no shape";
  if (range == entry.end() || !range->is_array() || range->size() != 2 ||
      !(*range)[0].is_number_unsigned() || !(*range)[1].is_number_unsigned()) {
    return "has no data_offsets";
  }
  tensor.dtype = dtype->get<std::string>();
  std::uint64_t bytes = DtypeBytes(tensor.dtype);
  if (bytes == 0) return "has unknown dtype " + tensor.dtype;
  for (const nlohmann::json& extent : *shape) {
    if (!extent.is_number_unsigned()) return "has a shape that is not of whole numbers";
    const auto value = extent.get<std::uint64_t>();
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) ||
        !MultiplyInto(bytes, value)) {
      return "has a shape beyond 64 bits";
    }
    tensor.shape.push_back(static_cast<std::int64_t>(value));
  }
  const auto begin = (*range)[0].get<std::uint64_t>();
  const auto end = (*range)[1].get<std::uint64_t>();
  if (end < begin || end - begin != bytes) {
    return "has data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "] for " +
           std::to_string(bytes) + " bytes";
  }
  tensor.offset = begin;
  tensor.bytes = bytes;
  return {};
}

std::string ReadMetadata(const nlohmann::json& entry, std::map<std::string, std::string>& into) {
  if (!entry.is_object()) return "is not an object";
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) return "has a value that is not a string: " + key;
    into[key] = value.get<std::string>();
  }
  return {};
}

// Every byte of the data belongs to exactly one tensor.
std::string CheckLayout(const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes) {
  std::uint64_t expected = 0;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.offset != expected) {
      return "tensor " + tensor.name + " begins at " + std::to_string(tensor.offset) +
             " of the data, not at " + std::to_string(expected);
    }
    if (tensor.bytes > data_bytes - expected) {
      return "tensor " + tensor.name + " ends past the file's data of " +
             std::to_string(data_bytes) + " bytes";
    }
    expected += tensor.bytes;
  }
  if (expected == data_bytes) return {};
  return "tensors cover " + std::to_string(expected) + " of " + std::to_string(data_bytes) +
         " bytes of data";
}

// As JSON; what is not UTF-8 in it is replaced.
std::string Json(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

std::string SafetensorsHeader(std::vector<TensorInfo>& tensors,
                              const std::map<std::string, std::string>& metadata) {
  // Put together as text: an object of the JSON library looks for every new key among all others.
  std::string text = "{";
  if (!metadata.empty()) text += Json(kMetadataKey) + ':' + Json(metadata) + ',';
  std::uint64_t offset = 0;
  for (TensorInfo& tensor : tensors) {
    tensor.bytes = DtypeBytes(tensor.dtype);
    for (const std::int64_t extent : tensor.shape)
      tensor.bytes *= static_cast<std::uint64_t>(extent);
    tensor.offset = offset;
    offset += tensor.bytes;
    text +=
        fmt::format(R"({}:{{"dtype":{},"shape":[{}],"data_offsets":[{},{}]}},)", Json(tensor.name),
                    Json(tensor.dtype), fmt::join(tensor.shape, ","), tensor.offset, offset);
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  const std::uint64_t unpadded = kLengthBytes + text.size();
  text.append((kDataAlignment - unpadded % kDataAlignment) % kDataAlignment, ' ');
  const std::uint64_t length = text.size();
  std::string bytes(kLengthBytes, '\0');
  std::memcpy(bytes.data(), &length, kLengthBytes);
  bytes += text;
  for (TensorInfo& tensor : tensors) tensor.offset += bytes.size();
  return bytes;
}

Result<SafetensorsFile> ReadSafetensorsHeader(const RandomAccessFile& file,
                                              const std::string& path) {
  const auto lost = [&path](const std::string& what) { return DataLoss(path + ": " + what); };
  FEDMOE_ASSIGN_OR_RETURN(const std::uint64_t size, file.Size());
  if (size < kLengthBytes) return lost("is shorter than the 8 bytes of a header length");
  std::uint64_t length = 0;
  FEDMOE_RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > kMaxHeaderBytes || length > size - kLengthBytes) {
    return lost("header of " + std::to_string(length) + " bytes in a file of " +
                std::to_string(size));
  }
  std::string text(length, '\0');
  FEDMOE_RETURN_IF_ERROR(file.ReadAt(kLengthBytes, std::as_writable_bytes(std::span(text))));
  const nlohmann::json header = nlohmann::json::parse(text, nullptr, false);
  if (!header.is_object()) return lost("header is not a JSON object");

  SafetensorsFile content;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadataKey) {
      const std::string wrong = ReadMetadata(entry, content.metadata);
      if (!wrong.empty()) return lost(name + " " + wrong);
      continue;
    }
    TensorInfo tensor;
    tensor.name = name;
    const std::string wrong = ReadEntry(entry, tensor);
    if (!wrong.empty()) return lost("tensor " + name + " " + wrong);
    content.tensors.push_back(std::move(tensor));
  }
  // Empty tensors come before the one that begins at their place.
  std::sort(content.tensors.begin(), content.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
            });
  const std::uint64_t data_begin = kLengthBytes + length;
  const std::string wrong = CheckLayout(content.tensors, size - data_begin);
  if (!wrong.empty()) return lost(wrong);
  for (TensorInfo& tensor : content.tensors) tensor.offset += data_begin;
  return content;
}

}  // namespace fedmoe
