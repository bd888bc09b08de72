// How a client sends what it learned; travels with every task.
#pragma once

#include <cstdint>

#include "kernels/codec.h"

namespace fedmoe {

struct UploadOptions {
  Encoding encoding = Encoding::kFloat32;
  double top_k_fraction = 0.1;  // topk: values sent of every block, above 0 to 1
  bool zstd = false;            // compress blocks that become smaller by it
};

// topk: how many of a block's values are sent; at least one of any.
std::uint64_t KeptElements(const UploadOptions& upload, std::uint64_t elements);
// What a block of so many values is sent as: f32 where topk would take no fewer bytes.
Encoding BlockEncodingOf(const UploadOptions& upload, std::uint64_t elements);
// Of a large block, before compression.
double UploadBytesPerElement(const UploadOptions& upload);

}  // namespace fedmoe
