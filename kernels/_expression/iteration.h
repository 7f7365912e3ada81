// What an expression walks through: the sizes of the iteration and, for each operand, bytes from step to step. It is
// read once, and walked by every instruction set.
#pragma once

#include "_expression/operands.h"

namespace rta {
namespace expression {

constexpr int kMaxOperands = 64;

// Dimension 0 is the samples, or what was joined with them. The last operand is the result.
struct Iteration {
  int count, dims;  // of operands without the result, of dimensions
  bool tables;      // whether an operand has a table: nothing is joined then
  int64_t size[kMaxDims], per_sample;
  Operand operands[kMaxOperands + 1];
  bool moves[kMaxOperands + 1];  // whether it lies elsewhere from plane to plane of the last two dimensions

  // Attributes dims, strides, table<operand>, c<constant> and by_row. Fails where an operand leaves its value, or sizes
  // are not those of y.
  explicit Iteration(const StageSpec& spec);

  // Whether an operand has one number for each run of the innermost dimension, and another for the next.
  bool one_number_a_run() const;

 private:
  void read_sizes(const StageSpec& spec);
  void read_operand(const StageSpec& spec, int i);
  void join_dims();
  void lengthen_blocks();
};

}  // namespace expression
}  // namespace rta
