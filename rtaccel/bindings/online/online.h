// Heads that learn, streaming features and the detector, as Python sees them: NumPy arrays and tensors by address.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_online {

void add_ud(nanobind::module_& m);
void add_streams(nanobind::module_& m);  // Bank and Records
void add_ftrl(nanobind::module_& m);

inline void add_online(nanobind::module_& m) {
  add_ud(m);
  add_streams(m);
  add_ftrl(m);
}

}  // namespace rta_online
