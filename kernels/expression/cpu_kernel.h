// Expression on the CPU: the stage is _expression/stage.h, made by _expression/create.h.
#pragma once

#include "_expression/create.h"

namespace rta {

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "expression", "cpu", nullptr, expression::create<S>);
}

}  // namespace rta
