// Weights rounded for their inputs, as Python sees it: the loops of rtaccel/convert/weights/gptq.py on NumPy's arrays.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_weights {

void add_rounding(nanobind::module_& m);

}  // namespace rta_weights
