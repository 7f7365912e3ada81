// The stages of a recurrent cell, for each format of weights that it takes; an operator registers them under its name.
#pragma once

#include "recurrent/stage.h"
#include "recurrent/weights/sparse.h"

namespace rta {

template <class S, class Cell>
RTA_ONCE Stage* create_recurrent(const StageSpec& spec) {
  constexpr int kGates = Cell::kGates;
  const rta_dtype dtype = spec.attrs.dtype("weight_ih_l0");
  if constexpr (RTA_WANTS(Cell::kOp, "float32") && kHasFloat32<S>)
    if (dtype == RTA_FLOAT32) return new RecurrentStage<S, Cell, Float32Dot<S, kGates>>(spec);
  if constexpr (Cell::kQuantizes && RTA_WANTS(Cell::kOp, "uint8"))
    if (dtype == kInt4Dtype) return new RecurrentStage<S, Cell, Int4Dot<S, kGates>>(spec);
  if constexpr (Cell::kQuantizes && RTA_WANTS(Cell::kOp, "int8"))
    if (dtype == RTA_INT8) return new RecurrentStage<S, Cell, Int8Dot<S, kGates, S::kWidens>>(spec);
  fail("weights of dtype %s, for which this was not built", dtype_name(dtype));
}

template <class S, class Cell>
RTA_ONCE Stage* create_sparse_recurrent(const StageSpec& spec) {
  RecurrentShape(spec).expect_short();  // columns have 16 bits
  const rta_dtype dtype = spec.attrs.dtype("weight_ih_l0");
  if constexpr (RTA_WANTS(Cell::kOp, "float32") && kHasFloat32<S>)
    if (dtype == RTA_FLOAT32) return new RecurrentStage<S, Cell, SparseFloat32Dot<S, Cell::kGates>>(spec);
  if constexpr (RTA_WANTS(Cell::kOp, "int8"))
    if (dtype == RTA_INT8) return new RecurrentStage<S, Cell, SparseInt8Dot<S, Cell::kGates>>(spec);
  fail("weights of dtype %s, for which this was not built", dtype_name(dtype));
}

}  // namespace rta
