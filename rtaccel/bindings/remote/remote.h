// Endpoints and datagrams as Python sees them.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_remote_py {

void add_remote(nanobind::module_& m);

}  // namespace rta_remote_py
