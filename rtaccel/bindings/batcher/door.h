// The door of a batcher for other processes, and their side of it, as Python sees them.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_torch {

void add_door(nanobind::module_& m);

}  // namespace rta_torch
