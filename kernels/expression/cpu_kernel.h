// Expression on the CPU: the stage is _expression/stage.h.
#pragma once

#include "_expression/stage.h"

namespace rta {

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "expression", "cpu", nullptr, create_stage<expression::ExpressionStage<S>>);
}

}  // namespace rta
