#include "_common/strided.h"

#include <cstdio>

#include "_common/checks.h"

namespace rta {

int64_t iteration_elements(const int32_t* sizes, int64_t dims) {
  int64_t all = 1;
  for (int64_t d = 0; d < dims; ++d) {
    expect(sizes[d] >= 1, "a dimension of %d elements", sizes[d]);
    all = product(all, sizes[d]);
  }
  return all;
}

void expect_place(const int32_t* place, const int32_t* sizes, int64_t dims, int64_t steps, int64_t width) {
  const int64_t limits[] = {steps, width};
  for (int part = 0; part < 2; ++part) {
    int64_t low = place[part], high = place[part];  // at most 17 numbers below 2^62 each: stopped before they overflow
    for (int64_t d = 0; d < dims && low >= 0 && high < limits[part]; ++d) {
      const int64_t step = place[2 * (d + 1) + part], reach = step * (sizes[d] - 1);
      (step < 0 ? low : high) += reach;
    }
    expect(low >= 0 && high < limits[part], "%s %lld to %lld, expected 0 to %lld", part ? "columns" : "rows",
           static_cast<long long>(low), static_cast<long long>(high), static_cast<long long>(limits[part] - 1));
  }
}

Strided read_strided(const StageSpec& spec, const char* suffix, const GraphIO* ports, int count, int front,
                     const int64_t* constants) {
  char name[32];
  const auto named = [&](const char* stem) {
    std::snprintf(name, sizeof name, "%s%s", stem, suffix);
    return name;
  };
  Strided made = {};
  made.count = count;
  const int64_t given = spec.attrs.count(named("dims"));
  if (given > kMaxDims || count > Strided::kMaxOperands)
    fail("an iteration over %lld dimensions of %d operands", static_cast<long long>(given), count);
  const int32_t* sizes = spec.attrs.ints(name, given);
  const int32_t* strides = spec.attrs.ints(named("strides"), 2 * (given + 1) * count);
  made.elements = iteration_elements(sizes, given);
  bool tables = false;
  for (int i = 0; i < count; ++i) {
    const int64_t steps = ports[i].exists() ? ports[i].steps : 1, pitch = ports[i].exists() ? ports[i].pitch : 0;
    const int64_t width = ports[i].exists() ? ports[i].width : constants[i];
    char stem[24];
    std::snprintf(stem, sizeof stem, "table%d", i);
    if (spec.attrs.has(named(stem))) {  // its strides stay 0
      made.table[i] = read_table(spec, name, made.elements, ports[i], 4, product(steps, width));
      tables = true;
      continue;
    }
    const int32_t* own = strides + 2 * (given + 1) * i;
    expect_place(own, sizes, given, steps, width);
    made.offset[i] = own[0] * pitch + own[1] * int64_t{4};
    for (int64_t d = 0; d < given; ++d)  // of size 1: whatever it says, it is not walked
      made.stride[i][d] = sizes[d] == 1 ? 0 : own[2 * d + 2] * pitch + own[2 * d + 3] * int64_t{4};
  }
  int kept = 0, border = 0;
  for (int d = 0; d < given; ++d) {
    if (d == front) border = kept;
    if (sizes[d] == 1) continue;
    bool joins = kept > border && !tables;
    for (int i = 0; i < count && joins; ++i) joins = made.stride[i][kept - 1] == sizes[d] * made.stride[i][d];
    const int to = joins ? kept - 1 : kept;
    made.size[to] = joins ? made.size[to] * sizes[d] : sizes[d];
    for (int i = 0; i < count; ++i) made.stride[i][to] = made.stride[i][d];
    if (!joins) ++kept;
  }
  if (front >= given) border = kept;
  made.front = border;
  made.dims = kept;
  return made;
}

const int64_t* read_table(const StageSpec& spec, const char* name, int64_t count, const GraphIO& port, int64_t element,
                          int64_t limit) {
  if (limit < 0) limit = product(port.steps, port.width);
  const int32_t* from = spec.attrs.ints(name, count);
  expect_within(from, count, 0, limit, name);
  int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
  for (int64_t e = 0; e < count; ++e)
    to[e] = port.exists() ? from[e] / port.width * port.pitch + from[e] % port.width * element : from[e] * element;
  return to;
}

float* read_constant(const StageSpec& spec, const char* name, int64_t wanted) {
  const int64_t count = wanted < 0 ? spec.attrs.count(name) : wanted;
  const float* from = spec.attrs.floats(name, count);
  float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
  for (int64_t k = 0; k < count; ++k) to[k] = from[k];
  return to;
}

}  // namespace rta
