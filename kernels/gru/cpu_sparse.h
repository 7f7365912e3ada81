// GRU on the CPU from weights with zeros: the cell of recurrent_cells.h over the sums of recurrent_sparse.h.
//
// Dot products: int8, permute
//
// Floor of a time step, batch 1: two bytes an int8 entry at the bandwidth of the cache that holds them, and the cells.
#pragma once

#include "recurrent/sparse.h"
#include "recurrent/stage.h"

namespace rta {

template <class S>
Stage* create_sparse_gru(const StageSpec& spec) {
  using Cell = Gru<S>;
  if (spec.attrs.dtype("weight_ih_l0") == RTA_FLOAT32)
    return new RecurrentStage<S, Cell, SparseFloat32Dot<S, Cell::kGates>>(spec);
  return new RecurrentStage<S, Cell, SparseInt8Dot<S, Cell::kGates>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "gru", "cpu_sparse", recurrent_sparse_reject, create_sparse_gru<S>);
}

}  // namespace rta
