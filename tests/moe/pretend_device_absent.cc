// Where libtorch is not the version that the device is written for.
#include "tests/moe/pretend_device.h"

namespace fedmoe {

const char* PretendDevice() { return nullptr; }

}  // namespace fedmoe
