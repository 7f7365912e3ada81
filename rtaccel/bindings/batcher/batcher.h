// A batcher of many streams, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_torch {

void add_batcher(nanobind::module_& m);

}  // namespace rta_torch
