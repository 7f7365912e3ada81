// The way into a compiled model without Python: a callable that stands in a class as its method and takes the call to
// the model's plan at once. Whatever is out of the ordinary goes on to the method that it was made from.
#pragma once

#include <nanobind/nanobind.h>

namespace rta_torch {

// Defines `entry(kind, method)`. kind "call": method(self, *inputs); kind "run": method(self, *inputs, out=).
void add_entry(nanobind::module_& m);

}  // namespace rta_torch
