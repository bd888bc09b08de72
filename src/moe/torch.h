// The one door through which libtorch enters. Precompiled: <torch/torch.h> costs about 14 s and 1
// GB a translation unit.
#pragma once

#include <ATen/core/ivalue.h>  // first, or clang 14 rejects it in C++20
#include <torch/torch.h>
