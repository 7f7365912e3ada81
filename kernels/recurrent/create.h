// The stages of an LSTM or GRU cell, for each format of weights; an operator registers them under its name.
#pragma once

#include "recurrent/sparse.h"
#include "recurrent/stage.h"

namespace rta {

template <class S, class Cell>
Stage* create_recurrent(const StageSpec& spec) {
  constexpr int kGates = Cell::kGates;
  const rta_dtype dtype = spec.attrs.dtype("weight_ih_l0");
  if (dtype == RTA_FLOAT32) return new RecurrentStage<S, Cell, Float32Dot<S, kGates>>(spec);
  if (dtype == kInt4Dtype) return new RecurrentStage<S, Cell, Int4Dot<S, kGates>>(spec);
  return new RecurrentStage<S, Cell, Int8Dot<S, kGates, S::kWidens>>(spec);
}

template <class S, class Cell>
Stage* create_sparse_recurrent(const StageSpec& spec) {
  RecurrentShape(spec).expect_short();  // columns have 16 bits
  if (spec.attrs.dtype("weight_ih_l0") == RTA_FLOAT32)
    return new RecurrentStage<S, Cell, SparseFloat32Dot<S, Cell::kGates>>(spec);
  return new RecurrentStage<S, Cell, SparseInt8Dot<S, Cell::kGates>>(spec);
}

}  // namespace rta
