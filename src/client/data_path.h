// Where a dataset stands when the configuration does not say.
#pragma once

#include "data/data_options.h"

namespace fedmoe {

// Fills an empty path of a dataset that has a usual folder NAME: idx mnist, image_folder and
// cifar_binary cifar10, text languages for the partition `files` and else shakespeare. It is
// $FEDMOE_DATA_DIR/NAME if the variable is set, else the first of data/NAME and
// ../shared/data/NAME that is there, else data/NAME (where scripts/fetch_data puts it).
DataOptions WithDefaultPath(DataOptions options);

}  // namespace fedmoe
