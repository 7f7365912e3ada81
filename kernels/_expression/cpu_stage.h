// The stage of expressions on the CPU, compiled once for each instruction set; create.h hands it to the operators.
#pragma once

#include "_expression/create.h"
#include "_expression/stage.h"

namespace rta {

template <class S>
static void register_kernels() {
  expression::creator(S::kIsa) = create_stage<expression::ExpressionStage<S>>;
}

}  // namespace rta
