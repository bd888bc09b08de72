// A device for machines that have none: it computes on the processor, but libtorch takes it for
// another device, and nothing that holds for the CPU alone works on it.
//
//   - An operator that is given tensors of both throws, as CUDA's would ("... is on the CPU").
//   - Its memory cannot be read: data_ptr() gives an address that no process has.
//   - Backward runs on a thread of the autograd engine's own.
//
// So a model that trains on it touches no tensor of the CPU by mistake. For libtorch 1.13; includes
// no libtorch.
#pragma once

namespace fedmoe {

// For ComputeOptions::device; null where this libtorch is another version. Links the device into
// the program.
const char* PretendDevice();

}  // namespace fedmoe
