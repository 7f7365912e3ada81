// Threads that batchers share, as Python sees them.
#pragma once

#include <nanobind/nanobind.h>

#include "rta_workers.h"

namespace rta_torch {

void add_workers(nanobind::module_& m);
rta_workers* workers_of(nanobind::handle object);

}  // namespace rta_torch
