// Operands that are walked by strides: an iteration of up to sixteen dimensions, and for each operand bytes from step
// to step. What Python resolved (kernels/_common/strides.py) in rows and columns becomes bytes here, and dimensions are
// joined where every operand walks through them in one stride.
#pragma once

#include "_core/stage.h"

namespace rta {

constexpr int kMaxDims = 16;

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
// dense constant of float32, of so many elements as `constants` says by operand. Fails where an element that the
// iteration reaches is outside of its operand, or a size is 0. front: so many dimensions come first and are joined only
// with one another, as those that a reduction keeps; `Strided::front` has their number afterwards. 0 for no such
// border.
Strided read_strided(const StageSpec& spec, const char* suffix, const GraphIO* ports, int count, int front,
                     const int64_t* constants = nullptr);

// The elements of an iteration of these sizes, each at least 1.
int64_t iteration_elements(const int32_t* sizes, int64_t dims);

// place: pairs of rows and columns, an offset and then the stride of each dimension. Fails where it leaves `steps` rows
// of `width` elements.
void expect_place(const int32_t* place, const int32_t* sizes, int64_t dims, int64_t steps, int64_t width);

// The attribute `name`, elements of a dense value, as bytes from where the value lies. element: bytes of one. limit:
// elements that there are; by default those of the port.
const int64_t* read_table(const StageSpec& spec, const char* name, int64_t count, const GraphIO& port, int64_t element,
                          int64_t limit = -1);

// A copy of the float32 tensor `name` among the weights of the plan; of `count` elements, where that is given.
float* read_constant(const StageSpec& spec, const char* name, int64_t count = -1);

// body(x, y) for every index of the dimensions first .. end - 1, with both pointers moved to it.
template <class Body>
static inline void for_each_index(const Strided& walk, int first, int end, const char* x, char* y, Body body) {
  int64_t index[kMaxDims];
  for (int d = first; d < end; ++d) index[d] = 0;
  while (true) {
    body(x, y);
    int d = end - 1;
    for (; d >= first; --d) {
      x += walk.stride[0][d], y += walk.stride[1][d];
      if (++index[d] < walk.size[d]) break;
      x -= walk.size[d] * walk.stride[0][d], y -= walk.size[d] * walk.stride[1][d];
      index[d] = 0;
    }
    if (d < first) return;
  }
}

}  // namespace rta
