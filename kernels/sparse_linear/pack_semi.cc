// Packing of 2:4 sparse rows: compiled once, for any CPU.
#include <algorithm>

#include "sparse_linear/pack.h"

namespace rta {

const char* pack_semi(const SparseRows& rows, int lanes, int group, Arena& arena) {
  const int64_t bytes = 4 * lanes, chunks = (rows.k + kSemiChunk - 1) / kSemiChunk, pitch = chunks * 5 * bytes;
  const int64_t vectors = (rows.n + lanes - 1) / lanes;
  char* packed = static_cast<char*>(arena.take(static_cast<size_t>(vectors * pitch)));
  for (int64_t row = 0; row < rows.n; ++row) {
    char* at = packed + row / lanes * pitch;
    for (int32_t i = rows.starts[row], found = 0; i < rows.starts[row + 1]; ++i) {
      const int32_t column = rows.columns[i], in_chunk = column % kSemiChunk;
      found = i > rows.starts[row] && rows.columns[i - 1] / 4 == column / 4 ? found + 1 : 0;
      if (found > 1)
        fail("sparse_linear: more than 2 of 4 neighbouring weights in row %lld", static_cast<long long>(row));
      const int slot = in_chunk / 4 % 2 * 2 + found;  // of the 4 that a register holds for a row
      const int64_t place = (slot / group * lanes + row % lanes) * group + slot % group;
      char* chunk = at + column / kSemiChunk * 5 * bytes;
      chunk[in_chunk / 8 * bytes + place] = rows.values[i];
      chunk[4 * bytes + place] = static_cast<char>(chunk[4 * bytes + place] | (column % 4) << (in_chunk / 8 * 2));
    }
  }
  return packed;
}

}  // namespace rta
