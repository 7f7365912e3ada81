// The loop, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_torch {

void add_loop(nanobind::module_& m);
void add_loop_stats(nanobind::module_& m);
void add_loop_sim(nanobind::module_& m);

}  // namespace rta_torch
