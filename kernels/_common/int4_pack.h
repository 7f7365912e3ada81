// int4 weights with a scale per group of k, as a state dict stores them, and the stream that the dot products read.
//
// A tile is `pairs` pairs of vectors of rows. In a byte of the stream the low nibble is of a row of the first vector,
// the high one of the same lane of the second; both are w + 8, so 0..15. A tile is one ascending stream:
//     [group][k / 4][pair][lane][4 k] bytes, and after each group [pair][lane] words of two bfloat16 scales,
// the second row's in the upper half. K ends in a group of its own length, filled up to a multiple of 4.
#pragma once

#include "_core/rta_plan.h"

#include <cstddef>
#include <cstdint>

namespace rta {

// How a stage says that its weights are int4: the dtype that holds two of them, and its name in `weight_dtype`.
constexpr rta_dtype kInt4Dtype = RTA_UINT8;
constexpr const char* kInt4Name = "uint8";

// weight [n][(k + 1) / 2]: two numbers a byte, the even k in the low nibble, each w + 8. scale [n][groups] holds
// numbers that bfloat16 represents; the group is a multiple of 16.
struct Int4Matrix {
  const uint8_t* weight;
  const float* scale;
  int64_t n, k;
  int64_t group;

  int64_t groups() const;
  int nibble(int64_t row, int64_t column) const;  // w + 8
};

size_t int4_tile_bytes(int64_t k, int64_t group, int pairs, int lanes);

// rows [pairs][2][lanes]: which row of the matrix each lane is, or -1 for one that stays zero. The scales of a pair's
// second vector are multiplied by second_scale, a power of two.
void pack_int4_tile(uint8_t* to, const Int4Matrix& matrix, const int64_t* rows, int pairs, int lanes,
                    float second_scale);

// A whole matrix in its own order of rows, in tiles of 4, 2 and 1 pairs: as many of `pairs` as fit, then half of it,
// ... `to` holds int4_matrix_bytes zeroed bytes.
size_t int4_matrix_bytes(int64_t n, int64_t k, int64_t group, int lanes);
void pack_int4_matrix(uint8_t* to, const Int4Matrix& matrix, int pairs, int lanes, float second_scale);

}  // namespace rta
