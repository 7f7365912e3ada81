// LSTM on the CPU from weights with zeros: its cell over the sums of recurrent/sparse.h.
//
// Dot products: int8, permute
//
// Floor of a time step, batch 1: two bytes an int8 entry at the bandwidth of the cache that holds them, and the cells.
#pragma once

#include "recurrent/create.h"

namespace rta {

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "lstm", "cpu_sparse", (rejects_float32<S, recurrent_sparse_reject>),
             create_sparse_recurrent<S, Lstm<S>>);
}

}  // namespace rta
