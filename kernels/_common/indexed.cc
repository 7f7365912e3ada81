#include "_common/indexed.h"

#include <cstdio>

namespace rta {

static const int64_t* copied(const StageSpec& spec, const char* name, int64_t count) {
  const int32_t* from = spec.attrs.ints(name, count);
  int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  return to;
}

DenseValue Operands::take(const char* name) {
  DenseValue made = {};
  made.port = spec.in(spec.input_count);  // absent
  if (spec.attrs.has(name)) {
    const int64_t count = spec.attrs.count(name);
    made.element = spec.attrs.dtype(name) == RTA_INT64 ? 8 : 4;
    const void* from = made.element == 8 ? static_cast<const void*>(spec.attrs.longs(name, count))
                                         : static_cast<const void*>(spec.attrs.floats(name, count));
    const size_t bytes = static_cast<size_t>(count * made.element);
    char* to = static_cast<char*>(spec.arena->take(bytes));
    __builtin_memcpy(to, from, bytes);
    made.constant = to;
    made.flat = true;
    return made;
  }
  if (next >= spec.input_count) fail("%s is neither a tensor nor an input", name);
  const rta_dtype dtype = spec.input(next).dtype;
  if (dtype != RTA_FLOAT32 && dtype != RTA_INT64) fail("%s has dtype %d, expected float32 or int64", name, dtype);
  made.port = spec.in(next++);
  made.element = dtype == RTA_INT64 ? 8 : 4;
  made.flat = made.port.steps == 1 || made.port.pitch == made.port.width * made.element;
  return made;
}

Selection read_selection(const StageSpec& spec, Operands& operands) {
  Selection made = {};
  made.count = static_cast<int>(spec.attrs.integer("indices"));
  if (made.count < 1 || made.count > kMaxIndices) fail("%d indices", made.count);
  made.negative = spec.attrs.integer("negative") != 0;
  made.lines = spec.attrs.integer("count");
  made.along = spec.attrs.integer("along");
  made.base = copied(spec, "base", made.lines);
  made.step = copied(spec, "step", made.along);
  made.contiguous = true;
  for (int64_t i = 0; i < made.along; ++i) made.contiguous &= made.step[i] == i;
  const int32_t* sizes = spec.attrs.ints("sizes", made.count);
  const int32_t* strides = spec.attrs.ints("strides", made.count);
  for (int k = 0; k < made.count; ++k) {
    char name[16];
    std::snprintf(name, sizeof name, "i%d", k);
    made.index[k] = operands.take(name);
    if (made.index[k].element != 8) fail("%s is not int64", name);
    std::snprintf(name, sizeof name, "_i%d", k);
    made.walk[k] = read_lines(spec, name, made.lines, 1, made.index[k].port, 8);
    made.size[k] = sizes[k];
    made.stride[k] = strides[k];
  }
  return made;
}

const char* outside_reason(const Outside& outside, const char* op, char* reason) {
  int64_t index;
  if (!outside.take(&index)) return nullptr;
  std::snprintf(reason, 96, "%s: index %lld is outside", op, static_cast<long long>(index));
  return reason;
}

}  // namespace rta
