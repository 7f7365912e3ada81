// RNN with tanh on the CPU: its cell in the stage of recurrent/stage.h, for each format of weights.
//
// Dot products: int8
#pragma once

#include "recurrent/create.h"

namespace rta {

// h = tanh(sum), which both return and carry.
template <class S>
struct RnnTanh {
  using F = typename S::F;
  using Paired = RnnTanh<Pair<S>>;  // of two streams at once
  static constexpr int kGates = 1;
  static constexpr bool kCarriesH = true, kQuantizes = true;
  static constexpr const char* kOp = "rnn_tanh";

  static inline F quantized(const F (&x)[1], const F (&h)[1], const F (&bias)[4], F& carried) {
    const Tanh<S> t(S::add(S::add(x[0], h[0]), bias[0]));
    carried = S::div(t.num, t.den);
    return carried;
  }

  static inline F exact(const F (&x)[1], const F (&h)[1], const F (&bias)[4], F& carried) {
    carried = tanh<S>(S::add(S::add(x[0], h[0]), bias[0]));
    return carried;
  }
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "rnn_tanh", "cpu", (rejects_float32<S, recurrent_reject>), create_recurrent<S, RnnTanh<S>>);
}

}  // namespace rta
