#include "_common/indexed.h"

#include <algorithm>
#include <cstdio>

#include "_common/checks.h"

namespace rta {

static const int64_t* copied(const StageSpec& spec, const char* name, int64_t count) {
  const int32_t* from = spec.attrs.ints(name, count);
  int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int64_t)));
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  return to;
}

DenseValue dense_value(const GraphIO& port, const Value& value, const char* name) {
  expect_dtype(value, RTA_FLOAT32, RTA_INT64, name);
  const int64_t element = value.dtype == RTA_INT64 ? 8 : 4;
  return {port, nullptr, element, elements(value), port.steps == 1 || port.pitch == port.width * element};
}

DenseValue Operands::take(const char* name) {
  if (!spec.attrs.has(name)) {
    if (next >= spec.input_count) fail("%s is neither a tensor nor an input", name);
    const int own = next++;
    return dense_value(spec.in(own), spec.input(own), name);
  }
  const int64_t count = spec.attrs.count(name), element = spec.attrs.dtype(name) == RTA_INT64 ? 8 : 4;
  const void* from = element == 8 ? static_cast<const void*>(spec.attrs.longs(name, count))
                                  : static_cast<const void*>(spec.attrs.floats(name, count));
  const size_t bytes = static_cast<size_t>(count * element);
  char* to = static_cast<char*>(spec.arena->take(bytes));
  if (bytes) __builtin_memcpy(to, from, bytes);
  return {spec.in(spec.input_count), to, element, count, true};  // no port
}

Selection read_selection(const StageSpec& spec, Operands& operands, int64_t elements) {
  Selection made = {};
  made.count = static_cast<int>(between(spec.attrs, "indices", 1, kMaxIndices));
  made.negative = flag(spec.attrs, "negative");
  made.lines = between(spec.attrs, "count", 0, kMaxElements);
  made.along = between(spec.attrs, "along", 0, kMaxElements);
  product(made.lines, made.along);
  made.base = copied(spec, "base", made.lines);
  made.step = copied(spec, "step", made.along);
  made.contiguous = true;
  for (int64_t i = 0; i < made.along; ++i) made.contiguous &= made.step[i] == i;
  const int32_t* sizes = spec.attrs.ints("sizes", made.count);
  const int32_t* strides = spec.attrs.ints("strides", made.count);
  int64_t low = 0, high = 0;  // what indices add
  for (int k = 0; k < made.count; ++k) {
    char name[16];
    std::snprintf(name, sizeof name, "i%d", k);
    made.index[k] = operands.take(name);
    if (made.index[k].element != 8) fail("%s is not int64", name);
    std::snprintf(name, sizeof name, "_i%d", k);
    made.walk[k] = read_lines(spec, name, made.lines, 1, made.index[k].port, 8, made.index[k].elements);
    expect(sizes[k] >= 0, "an index of %d elements", sizes[k]);
    made.size[k] = sizes[k];
    made.stride[k] = strides[k];
    const int64_t reach = std::max<int64_t>(sizes[k] - 1, 0) * strides[k];
    (reach < 0 ? low : high) += reach;
  }
  if (made.lines && made.along) {
    const auto [first, last] = std::minmax_element(made.base, made.base + made.lines);
    const auto [near, far] = std::minmax_element(made.step, made.step + made.along);
    expect(*first + *near + low >= 0 && *last + *far + high < elements,
           "indices reach elements %lld to %lld, expected 0 to %lld", static_cast<long long>(*first + *near + low),
           static_cast<long long>(*last + *far + high), static_cast<long long>(elements - 1));
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
