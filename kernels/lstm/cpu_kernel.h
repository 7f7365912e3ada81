// LSTM on the CPU: its cell in the stage of recurrent/stage.h, for each format of weights.
//
// Dot products: int8
#pragma once

#include "recurrent/create.h"

namespace rta {

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "lstm", "cpu", (rejects_float32<S, recurrent_reject>), create_recurrent<S, Lstm<S>>);
}

}  // namespace rta
