#include "_common/lines.h"

#include <cstdio>

namespace rta {

LineOperand read_lines(const StageSpec& spec, const char* name, int64_t count, int64_t n, const GraphIO& port,
                       int64_t element) {
  char stem[48];
  LineOperand made = {};
  made.count = count;
  made.n = n;
  std::snprintf(stem, sizeof stem, "table%s", name);
  if (spec.attrs.has(stem)) {
    made.table = read_table(spec, stem, count * n, port, element);
    return made;
  }
  std::snprintf(stem, sizeof stem, "lines%s", name);
  made.lines = read_table(spec, stem, count, port, element);
  std::snprintf(stem, sizeof stem, "along%s", name);
  made.along = read_table(spec, stem, n, port, element);
  made.contiguous = true;
  for (int64_t i = 0; i < n; ++i) made.contiguous &= made.along[i] == i * element;
  return made;
}

}  // namespace rta
