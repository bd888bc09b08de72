// A library needs a source.
#include "test_header.h"
