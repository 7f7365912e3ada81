// Operands that are walked by strides: an iteration of up to eight dimensions, and for each operand bytes from step to
// step. What Python resolved (kernels/_common/strides.py) in rows and columns becomes bytes here, and dimensions are
// joined where every operand walks through them in one stride.
#pragma once

#include "_core/stage.h"

namespace rta {

constexpr int kMaxDims = 8;

// One iteration over `count` operands. table: bytes by element in order, for an operand without strides; nullptr for
// others.
struct Strided {
  static constexpr int kMaxOperands = 4;
  int dims, count, front;
  int64_t elements;
  int64_t size[kMaxDims];
  int64_t offset[kMaxOperands], stride[kMaxOperands][kMaxDims];
  const int64_t* table[kMaxOperands];

  int64_t step(int operand, int d) const { return d < 0 ? 0 : stride[operand][d]; }
};

// Attributes <dims><suffix>, <strides><suffix> and table<operand><suffix>. ports: where the operands lie, absent for a
// dense constant of float32. front: so many dimensions come first and are joined only with one another, as those that a
// reduction keeps; `Strided::front` has their number afterwards. 0 for no such border.
Strided read_strided(const StageSpec& spec, const char* suffix, const GraphIO* ports, int count, int front);

}  // namespace rta
