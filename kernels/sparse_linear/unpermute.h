// Rows of a tile that changed places when they were packed: their sums go back by permutations in registers.
#pragma once

#include <cstdint>

#include "sparse_linear/pack.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace rta {

// Puts the sums of a tile where their outputs are.
template <class S, int R, class Sum>
static inline __attribute__((always_inline)) void unpermute([[maybe_unused]] const uint8_t* from,
                                                            [[maybe_unused]] Sum (&sums)[R][kTile]) {
#if defined(__AVX512F__)
  __m512i index[kTile];
#pragma GCC unroll 4
  for (int v = 0; v < kTile; ++v)
    index[v] = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + v * 16)));
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    __m512i in[kTile];
#pragma GCC unroll 4
    for (int v = 0; v < kTile; ++v) in[v] = (__m512i)sums[r][v];
#pragma GCC unroll 4
    for (int v = 0; v < kTile; ++v) {
      const __mmask16 upper = _mm512_test_epi32_mask(index[v], _mm512_set1_epi32(32));
      const __m512i low = _mm512_permutex2var_epi32(in[0], index[v], in[1]);
      sums[r][v] = (Sum)_mm512_mask_blend_epi32(upper, low, _mm512_permutex2var_epi32(in[2], index[v], in[3]));
    }
  }
#endif
}

#if defined(__AVX512F__)
constexpr bool kSorted = true;
#else
constexpr bool kSorted = false;
#endif

}  // namespace rta
