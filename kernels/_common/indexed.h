// Elements that computed indices select. kernels/_common/indexed.py says what its attributes are.
#pragma once

#include "_common/lines.h"

namespace rta {

constexpr int kMaxIndices = 4;

// A value of float32 or int64 as a dense one: an element is found by its number.
struct DenseValue {
  GraphIO port;
  const char* constant;  // instead of a port
  int64_t element;       // bytes
  int64_t elements;      // of a sample
  bool flat;             // rows lie back to back

  const char* sample(const Run& run, int64_t s) const { return constant ? constant : port.row(run, s * port.steps); }
  int64_t at(int64_t e) const { return flat ? e * element : e / port.width * port.pitch + e % port.width * element; }
  // Whether n elements from e on follow one another.
  bool run_of(int64_t e, int64_t n) const { return flat || e % port.width + n <= port.width; }
};

// Operands of a stage by name: a tensor of its attributes, or the next input.
struct Operands {
  const StageSpec& spec;
  int next = 0;
  DenseValue take(const char* name);
};

struct Selection {
  int count;
  bool negative;
  int64_t lines, along;
  const int64_t *base, *step;  // elements of what is selected from
  bool contiguous;             // step is 0, 1, 2, ...
  int64_t size[kMaxIndices], stride[kMaxIndices];
  DenseValue index[kMaxIndices];
  LineOperand walk[kMaxIndices];

  // The element that a line starts at. An index outside counts as 0, and is noted.
  int64_t start(const char* const* indices, int64_t line, const Outside& outside) const {
    int64_t e = base[line];
    for (int k = 0; k < count; ++k)
      e += inside(indices[k] + walk[k].at(line, 0), negative, size[k], outside) * stride[k];
    return e;
  }

  // body(line, the element that it starts at) for each line.
  template <class Body>
  void each_start(const char* const* indices, const Outside& outside, Body body) const {
    if (count > 1 || walk[0].table) {
      for (int64_t line = 0; line < lines; ++line) body(line, start(indices, line, outside));
      return;
    }
    // One index by tables that a write of the body could not change: nothing of them is read anew.
    const int64_t *const bases = base, *const at = walk[0].lines;
    const int64_t most = size[0], far = stride[0], count_of = lines;
    const char* const from = indices[0] + (count_of ? walk[0].along[0] : 0);
    const bool from_end = negative;
    for (int64_t line = 0; line < count_of; ++line)
      body(line, bases[line] + inside(from + at[line], from_end, most, outside) * far);
  }

  // The index that lies at `from`, below `most`.
  static inline __attribute__((always_inline)) int64_t inside(const char* from, bool from_end, int64_t most,
                                                              const Outside& outside) {
    const int64_t given = *reinterpret_cast<const int64_t*>(from);
    const int64_t i = given + (from_end && given < 0 ? most : 0);
    if (static_cast<uint64_t>(i) < static_cast<uint64_t>(most)) return i;
    outside.note(given);
    return 0;
  }
};

// A value of the stage that is float32 or int64.
DenseValue dense_value(const GraphIO& port, const Value& value, const char* name);
// The indices are the next operands. Fails where an element of what is selected from, of so many elements, is outside
// whatever the indices are.
Selection read_selection(const StageSpec& spec, Operands& operands, int64_t elements);
// A sentence about an index that was noted; nullptr where none was. reason: at least 96 bytes.
const char* outside_reason(const Outside& outside, const char* op, char* reason);

}  // namespace rta
