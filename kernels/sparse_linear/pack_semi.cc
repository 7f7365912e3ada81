// Packing of 2:4 sparse rows: compiled once, for any CPU.
#include <algorithm>
#include <cstring>

#include "sparse_linear/pack.h"

namespace rta {

const char* pack_semi(const StageSpec& spec, const SparseRows& rows, int lanes, int group) {
  const int64_t bytes = 4 * lanes, chunks = (rows.k + kSemiChunk - 1) / kSemiChunk, pitch = chunks * 5 * bytes;
  const int64_t vectors = (rows.n + lanes - 1) / lanes;
  char* packed = static_cast<char*>(spec.weights(static_cast<size_t>(vectors * pitch)));
  if (!spec.packs()) return packed;
  for (int64_t row = 0; row < rows.n; ++row) {
    char* at = packed + row / lanes * pitch;
    for (int32_t i = rows.starts[row], found = 0; i < rows.starts[row + 1]; ++i) {
      const int32_t column = rows.columns[i], in_chunk = column % kSemiChunk;
      found = i > rows.starts[row] && rows.columns[i - 1] / 4 == column / 4 ? found + 1 : 0;
      if (found > 1)
        fail("sparse_linear: more than 2 of 4 neighboring weights in row %lld", static_cast<long long>(row));
      const int slot = in_chunk / 4 % 2 * 2 + found;  // of the 4 that a register holds for a row
      const int64_t place = (slot / group * lanes + row % lanes) * group + slot % group;
      char* chunk = at + column / kSemiChunk * 5 * bytes;
      chunk[in_chunk / 8 * bytes + place] = rows.values[i];
      chunk[4 * bytes + place] = static_cast<char>(chunk[4 * bytes + place] | (column % 4) << (in_chunk / 8 * 2));
    }
  }
  return packed;
}

const char* pack_semi_floats(const StageSpec& spec, const SparseRows& rows, int lanes) {
  const int64_t chunks = (rows.k + kSemiChunk - 1) / kSemiChunk, vectors = (rows.n + lanes - 1) / lanes;
  const int64_t words = (1 + kSemiChunk / 2) * lanes, pitch = chunks * words;  // of 4 bytes
  char* packed = static_cast<char*>(spec.weights(static_cast<size_t>(vectors * pitch) * 4));
  if (!spec.packs()) return packed;
  for (int64_t row = 0; row < rows.n; ++row)
    for (int32_t i = rows.starts[row], found = 0; i < rows.starts[row + 1]; ++i) {
      const int32_t column = rows.columns[i], in_chunk = column % kSemiChunk;
      found = i > rows.starts[row] && rows.columns[i - 1] / 4 == column / 4 ? found + 1 : 0;
      if (found > 1)
        fail("sparse_linear: more than 2 of 4 neighboring weights in row %lld", static_cast<long long>(row));
      const int slot = in_chunk / 4 * 2 + found;
      char* chunk = packed + (row / lanes * pitch + column / kSemiChunk * words) * 4;
      uint32_t positions;
      std::memcpy(&positions, chunk + row % lanes * 4, 4);
      positions |= static_cast<uint32_t>(column % 4) << (2 * slot);
      std::memcpy(chunk + row % lanes * 4, &positions, 4);
      std::memcpy(chunk + ((1 + slot) * lanes + row % lanes) * 4, rows.values + int64_t{i} * 4, 4);
    }
  return packed;
}

}  // namespace rta
