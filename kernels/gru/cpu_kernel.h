// GRU on the CPU: the cell of recurrent_cells.h in the stage of recurrent_stage.h, for each format of weights.
//
// Dot products: int8
#pragma once

#include "recurrent/stage.h"

namespace rta {

template <class S>
Stage* create_gru(const StageSpec& spec) {
  using Cell = Gru<S>;
  constexpr int kGates = Cell::kGates;
  const rta_dtype dtype = spec.attrs.dtype("weight_ih_l0");
  if (dtype == RTA_FLOAT32) return new RecurrentStage<S, Cell, Float32Dot<S, kGates>>(spec);
  if (dtype == kInt4Dtype) return new RecurrentStage<S, Cell, Int4Dot<S, kGates>>(spec);
  return new RecurrentStage<S, Cell, Int8Dot<S, kGates>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "gru", "cpu", recurrent_reject, create_gru<S>);
}

}  // namespace rta
