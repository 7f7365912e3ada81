// Operands that are walked line by line. What Python resolved (kernels/_common/lines.py) in elements of dense values
// becomes bytes here.
#pragma once

#include "_common/strided.h"

namespace rta {

// Where the elements of one operand lie, in bytes from the sample: lines[l] + along[i], or table[l * n + i].
struct LineOperand {
  const int64_t *lines, *along, *table;
  int64_t count, n;  // lines, elements along one
  bool contiguous;   // the elements of a line follow one another

  int64_t at(int64_t line, int64_t i) const { return table ? table[line * n + i] : lines[line] + along[i]; }
  // Lines from `line` on, at most `most`, whose elements lie one `element` further in each.
  int64_t beside(int64_t line, int64_t most, int64_t element) const {
    if (table) return 1;
    int64_t found = 1;
    while (found < most && lines[line + found] == lines[line] + found * element) ++found;
    return found;
  }
};

// Attributes lines<name> and along<name>, or table<name>. port: where the operand lies, absent for a dense constant.
// element: bytes of one. constant: elements of a dense constant. Fails where an element is outside of the operand.
LineOperand read_lines(const StageSpec& spec, const char* name, int64_t count, int64_t n, const GraphIO& port,
                       int64_t element, int64_t constant = 0);

}  // namespace rta
