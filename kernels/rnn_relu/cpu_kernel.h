// RNN with relu on the CPU: its cell in the stage of recurrent/stage.h, with float32 weights.
#pragma once

#include "recurrent/create.h"

namespace rta {

// h = relu(sum), which it returns and carries.
template <class S>
struct RnnRelu {
  using F = typename S::F;
  using Paired = RnnRelu<Pair<S>>;  // of two streams at once
  static constexpr int kGates = 1;
  static constexpr bool kCarriesH = true, kQuantizes = false;
  static constexpr const char* kOp = "rnn_relu";

  static inline F exact(const F (&x)[1], const F (&h)[1], const F (&bias)[4], F& carried) {
    carried = S::max(S::set(0.0f), S::add(S::add(x[0], h[0]), bias[0]));  // a NaN stays: it is the second
    return carried;
  }
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "rnn_relu", "cpu", recurrent_float32_reject, create_recurrent<S, RnnRelu<S>>);
}

}  // namespace rta
