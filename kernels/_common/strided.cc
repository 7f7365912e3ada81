#include "_common/strided.h"

#include <cstdio>

namespace rta {

Strided read_strided(const StageSpec& spec, const char* suffix, const GraphIO* ports, int count, int front) {
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
  made.elements = 1;
  for (int64_t d = 0; d < given; ++d) made.elements *= sizes[d];
  bool tables = false;
  for (int i = 0; i < count; ++i) {
    const int64_t pitch = ports[i].exists() ? ports[i].pitch : 0;
    const int32_t* own = strides + 2 * (given + 1) * i;
    made.offset[i] = own[0] * pitch + own[1] * 4;
    for (int64_t d = 0; d < given; ++d) made.stride[i][d] = own[2 * d + 2] * pitch + own[2 * d + 3] * 4;
    char stem[16];
    std::snprintf(stem, sizeof stem, "table%d", i);
    if (!spec.attrs.has(named(stem))) continue;
    made.table[i] = read_table(spec, name, made.elements, ports[i], 4);
    made.offset[i] = 0;
    tables = true;
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

const int64_t* read_table(const StageSpec& spec, const char* name, int64_t count, const GraphIO& port,
                          int64_t element) {
  const int32_t* from = spec.attrs.ints(name, count);
  int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
  for (int64_t e = 0; e < count; ++e)
    to[e] = port.exists() ? from[e] / port.width * port.pitch + from[e] % port.width * element : from[e] * element;
  return to;
}

float* read_constant(const StageSpec& spec, const char* name) {
  const int64_t count = spec.attrs.count(name);
  const float* from = spec.attrs.floats(name, count);
  float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
  for (int64_t k = 0; k < count; ++k) to[k] = from[k];
  return to;
}

}  // namespace rta
