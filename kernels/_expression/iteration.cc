#include "_expression/iteration.h"

#include <cstdio>

#include "_common/checks.h"
#include "_expression/create.h"

namespace rta {
namespace expression {

namespace {

constexpr int64_t kShort = 64;  // elements of a block below which it costs more than what it computes

const char* label(char* name, const char* stem, int i) {
  std::snprintf(name, 24, "%s%d", stem, i);
  return name;
}

void swap(int64_t& a, int64_t& b) {
  const int64_t kept = a;
  a = b, b = kept;
}

}  // namespace

Iteration::Iteration(const StageSpec& spec) {
  read_sizes(spec);
  tables = false;
  for (int i = 0; i <= count; ++i) read_operand(spec, i);
  if (flag(spec.attrs, "by_row")) size[0] = operands[count].port.steps;  // every row is an iteration
  join_dims();
  lengthen_blocks();
  for (int i = 0; i <= count; ++i) {
    moves[i] = false;
    for (int d = 0; d + 2 < dims; ++d) moves[i] |= operands[i].stride[d] != 0;
  }
}

bool Iteration::one_number_a_run() const {
  for (int i = 0; i < count; ++i)
    if (!operands[i].table && operands[i].stride[dims - 1] == 0 && operands[i].stride[dims - 2] != 0) return true;
  return false;
}

void Iteration::read_sizes(const StageSpec& spec) {
  expect_inputs(spec, 1, kMaxOperands);
  expect_ports(spec, spec.input_count, 1);
  expect_dtype(spec.output(0), RTA_FLOAT32, "y");
  char name[24];
  int constants = 0;
  while (constants <= kMaxOperands && spec.attrs.has(label(name, "c", constants))) ++constants;
  count = spec.input_count + constants;
  const int64_t given = spec.attrs.count("dims");
  if (count > kMaxOperands || given + 1 > kMaxDims)
    fail("expression: %d operands over %d dimensions", count, static_cast<int>(given));
  const int32_t* sizes = spec.attrs.ints("dims", given);
  dims = static_cast<int>(given) + 1;
  size[0] = 1;
  for (int d = 1; d < dims; ++d) size[d] = sizes[d - 1];
  per_sample = iteration_elements(sizes, given);
  const Value& y = spec.output(0);
  expect(per_sample == (flag(spec.attrs, "by_row") ? y.width : elements(y)),
         "an iteration over %lld elements for y of %lld rows of %lld", static_cast<long long>(per_sample),
         static_cast<long long>(y.steps), static_cast<long long>(y.width));
}

void Iteration::read_operand(const StageSpec& spec, int i) {
  const bool by_row = flag(spec.attrs, "by_row");
  const int64_t given = dims - 1;
  const int32_t* sizes = spec.attrs.ints("dims", given);
  const int32_t* strides = spec.attrs.ints("strides", 2 * dims * (count + 1));
  char name[24];
  Operand& o = operands[i];
  o = {};
  o.port = i < spec.input_count ? spec.in(i) : i == count ? spec.out(0) : GraphIO{-1, 0, 0, 0};
  int64_t element = 4, steps = by_row ? 1 : o.port.steps, width = o.port.width;
  if (i < spec.input_count) {
    const rta_dtype dtype = spec.input(i).dtype;
    if (dtype != RTA_FLOAT32 && dtype != RTA_INT64) fail("expression: an input of dtype %d", dtype);
    o.int64 = dtype == RTA_INT64;
    element = o.int64 ? 8 : 4;
    if (by_row) expect(o.port.steps == spec.output(0).steps, "x%d has other rows than y", i);
  } else if (i < count) {
    o.constant = read_constant(spec, label(name, "c", i - spec.input_count));
    steps = 1, width = spec.attrs.count(name);
  }
  o.stride[0] = o.port.exists() ? o.port.pitch * (by_row ? 1 : o.port.steps) : 0;
  if (i < count && spec.attrs.has(label(name, "table", i))) {  // its other strides stay 0
    o.table = read_table(spec, name, per_sample, o.port, element, product(steps, width));
    tables = true;
    return;
  }
  const int32_t* own = strides + 2 * dims * i;
  expect_place(own, sizes, given, steps, width);
  o.offset = own[0] * o.port.pitch + own[1] * element;
  for (int d = 1; d < dims; ++d)  // of size 1: whatever it says, it is not walked
    o.stride[d] = size[d] == 1 ? 0 : own[2 * d] * o.port.pitch + own[2 * d + 1] * element;
}

// Neighbors that every operand walks through in one stride become one dimension; those of size 1 go.
void Iteration::join_dims() {
  int kept = 1;
  for (int d = 1; d < dims; ++d) {
    if (size[d] == 1) continue;
    bool joins = !tables;
    for (int i = 0; i <= count && joins; ++i) joins = operands[i].stride[kept - 1] == size[d] * operands[i].stride[d];
    const int to = joins ? kept - 1 : kept;
    size[to] = joins ? size[to] * size[d] : size[d];
    for (int i = 0; i <= count; ++i) operands[i].stride[to] = operands[i].stride[d];
    if (!joins) ++kept;
  }
  dims = kept;
}

// Where the last two dimensions make short blocks, as those of many small matrices do, the longest come last: strides
// cost less than blocks. Samples stay in front.
void Iteration::lengthen_blocks() {
  if (tables || dims < 3 || size[dims - 1] * size[dims - 2] >= kShort) return;
  if (size[0] > 1 && dims < kMaxDims) {  // what was joined with the samples
    for (int d = dims++; d > 0; --d) {
      size[d] = size[d - 1];
      for (int i = 0; i <= count; ++i) operands[i].stride[d] = operands[i].stride[d - 1];
    }
    for (int i = 0; i <= count; ++i) operands[i].stride[0] *= size[0];
    size[0] = 1;
  }
  const int last = dims - 1;
  for (int end = last; end >= last - 1; --end) {
    int longest = end;
    for (int d = 1; d < end; ++d)
      if (size[d] > size[longest]) longest = d;
    for (int d = longest; d < end; ++d) {
      swap(size[d], size[d + 1]);
      for (int i = 0; i <= count; ++i) swap(operands[i].stride[d], operands[i].stride[d + 1]);
    }
  }
}

#ifndef RTA_PACKED
Create& creator(Isa isa) {
  static Create made[static_cast<int>(Isa::kCount)];
  return made[static_cast<int>(isa)];
}
#endif

}  // namespace expression
}  // namespace rta
