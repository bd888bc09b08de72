// Where a dataset stands when the configuration does not say.
#pragma once

#include "data/data_options.h"

namespace fedmoe {

// Fills an empty path of a dataset that has files: $FEDMOE_DATA_DIR/mnist if the variable is set,
// else the first of data/mnist and ../shared/data/mnist that is there, else data/mnist (where
// scripts/fetch_data puts it).
DataOptions WithDefaultPath(DataOptions options);

}  // namespace fedmoe
