// A model from a file, as Python sees it.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_model_py {
void add_model(nanobind::module_& m);
}
