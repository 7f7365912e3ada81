#include "_common/lines.h"

#include <algorithm>
#include <cstdio>

#include "_common/checks.h"

namespace rta {

// The last row and the last column that a table of elements reaches.
struct Reach {
  int64_t row = 0, column = 0;
  Reach(const int32_t* table, int64_t count, int64_t width) {
    for (int64_t i = 0; i < count; ++i) {
      row = std::max<int64_t>(row, table[i] / width);
      column = std::max<int64_t>(column, table[i] % width);
    }
  }
};

LineOperand read_lines(const StageSpec& spec, const char* name, int64_t count, int64_t n, const GraphIO& port,
                       int64_t element, int64_t constant) {
  char stem[48];
  LineOperand made = {};
  made.count = count;
  made.n = n;
  const int64_t steps = port.exists() ? port.steps : 1, width = port.exists() ? port.width : constant;
  const int64_t limit = product(steps, width);
  std::snprintf(stem, sizeof stem, "table%s", name);
  if (spec.attrs.has(stem)) {
    made.table = read_table(spec, stem, product(count, n), port, element, limit);
    return made;
  }
  std::snprintf(stem, sizeof stem, "lines%s", name);
  made.lines = read_table(spec, stem, count, port, element, limit);
  const int32_t* lines = spec.attrs.ints(stem, count);
  std::snprintf(stem, sizeof stem, "along%s", name);
  made.along = read_table(spec, stem, n, port, element, limit);
  if (count && n) {  // each within the operand, but their sums too
    const Reach line(lines, count, width), along(spec.attrs.ints(stem, n), n, width);
    expect(line.row + along.row < steps && line.column + along.column < width,
           "lines%s and along%s reach row %lld, column %lld of %lld rows of %lld", name, name,
           static_cast<long long>(line.row + along.row), static_cast<long long>(line.column + along.column),
           static_cast<long long>(steps), static_cast<long long>(width));
  }
  made.contiguous = true;
  for (int64_t i = 0; i < n; ++i) made.contiguous &= made.along[i] == i * element;
  return made;
}

}  // namespace rta
