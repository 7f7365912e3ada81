// Packing of int4 weights: compiled once, for any CPU.
#include "_common/int4_pack.h"

#include <cstring>
#include <vector>

#include "_core/stage.h"

namespace rta {

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

int64_t Int4Matrix::groups() const { return (k + group - 1) / group; }

int Int4Matrix::nibble(int64_t row, int64_t column) const {
  const int byte = weight[row * ((k + 1) / 2) + column / 2];
  return column % 2 ? byte >> 4 : byte & 15;
}

size_t int4_tile_bytes(int64_t k, int64_t group, int pairs, int lanes) {
  const int64_t groups = (k + group - 1) / group;
  return static_cast<size_t>((round_up(k, 4) + 4 * groups) * pairs * lanes);
}

static uint32_t bf16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (bits & 0xffff) fail("linear: the group scale %g is no bfloat16 number", static_cast<double>(value));
  return bits >> 16;
}

void pack_int4_tile(uint8_t* to, const Int4Matrix& m, const int64_t* rows, int pairs, int lanes, float second_scale) {
  for (int64_t first = 0, g = 0; first < m.k; first += m.group, ++g) {
    const int64_t last = first + m.group < m.k ? first + m.group : m.k;
    for (int64_t k0 = first; k0 < last; k0 += 4)
      for (int p = 0; p < pairs; ++p)
        for (int lane = 0; lane < lanes; ++lane)
          for (int64_t k = k0; k < k0 + 4; ++k, ++to) {
            const int64_t* row = rows + 2 * p * lanes + lane;
            const int low = k < last && row[0] >= 0 ? m.nibble(row[0], k) : 8;
            const int high = k < last && row[lanes] >= 0 ? m.nibble(row[lanes], k) : 8;
            *to = static_cast<uint8_t>(low | high << 4);
          }
    for (int p = 0; p < pairs; ++p)
      for (int lane = 0; lane < lanes; ++lane, to += 4) {
        const int64_t* row = rows + 2 * p * lanes + lane;
        const float low = row[0] >= 0 ? m.scale[row[0] * m.groups() + g] : 0.0f;
        const float high = row[lanes] >= 0 ? m.scale[row[lanes] * m.groups() + g] * second_scale : 0.0f;
        const uint32_t word = bf16_bits(low) | bf16_bits(high) << 16;
        std::memcpy(to, &word, 4);
      }
  }
}

size_t int4_matrix_bytes(int64_t n, int64_t k, int64_t group, int lanes) {
  const int64_t all = (n + 2 * lanes - 1) / (2 * lanes);
  return static_cast<size_t>(all) * int4_tile_bytes(k, group, 1, lanes);
}

void pack_int4_matrix(uint8_t* to, const Int4Matrix& matrix, int pairs, int lanes, float second_scale) {
  std::vector<int64_t> rows(static_cast<size_t>(2 * pairs * lanes));
  for (int64_t first = 0; first < matrix.n; first += 2 * pairs * lanes) {
    const int64_t left = (matrix.n - first + 2 * lanes - 1) / (2 * lanes);
    while (pairs > left) pairs /= 2;
    for (int64_t i = 0; i < 2 * pairs * lanes; ++i)
      rows[static_cast<size_t>(i)] = first + i < matrix.n ? first + i : -1;
    pack_int4_tile(to, matrix, rows.data(), pairs, lanes, second_scale);
    to += int4_tile_bytes(matrix.k, matrix.group, pairs, lanes);
  }
}

}  // namespace rta
