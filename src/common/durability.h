// Whether what is acknowledged survives a power cut.
#pragma once

namespace fedmoe {

enum class Durability {
  kFull,  // synced to disk before it is acknowledged
  kNone,  // survives the end of the process, not of the machine
};

}  // namespace fedmoe
