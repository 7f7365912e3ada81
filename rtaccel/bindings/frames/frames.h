// Frames as Python sees them: a writer and a reader bound to arrays, so that a frame costs one call and no allocation.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_frames {

void add_frames(nanobind::module_& m);

}  // namespace rta_frames
