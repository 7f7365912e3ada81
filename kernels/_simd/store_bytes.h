// V vectors of int32 to V * kLanes bytes: clamp(v + zero, low, 255), low >= 0; kPlain: zero and low are 0. With packing
// instructions this is one store and about half the operations of one S::store_u8 for each vector.
#pragma once

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rta {

template <class S, int V, bool kPlain = false>
static inline void store_bytes(uint8_t* to, const typename S::I (&v)[V], int32_t zero, int32_t low) {
  static_assert(V >= 1 && V <= 4);
#if defined(__AVX512BW__)
  if constexpr (S::kLanes == 16) {
    const __m512i zeros = _mm512_set1_epi16(static_cast<int16_t>(zero));
    __m512i a = _mm512_packs_epi32(v[0], v[V > 1 ? 1 : 0]);
    __m512i b = V > 2 ? _mm512_packs_epi32(v[V > 2 ? 2 : 0], v[V > 3 ? 3 : 0]) : a;
    if constexpr (!kPlain) {
      a = _mm512_adds_epi16(a, zeros);
      b = _mm512_adds_epi16(b, zeros);
    }
    // Each 128 bits hold 4 numbers of each vector: a transposition of 4 x 4 words of 32 bits puts them in order.
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i bytes = _mm512_packus_epi16(a, b);
    if constexpr (!kPlain) bytes = _mm512_max_epu8(bytes, _mm512_set1_epi8(static_cast<char>(low)));
    bytes = _mm512_permutexvar_epi32(order, bytes);
    if constexpr (V == 4) _mm512_storeu_si512(to, bytes);
    if constexpr (V == 2 || V == 3) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
    if constexpr (V == 3) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 32), _mm512_extracti32x4_epi32(bytes, 2));
    if constexpr (V == 1) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_castsi512_si128(bytes));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (S::kLanes == 8 && V == 2) {
    __m256i words = _mm256_packs_epi32(v[0], v[1]);
    if constexpr (!kPlain) words = _mm256_adds_epi16(words, _mm256_set1_epi16(static_cast<int16_t>(zero)));
    words = _mm256_permute4x64_epi64(words, 0xd8);  // the first vector's numbers, then the second's
    __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    if constexpr (!kPlain) bytes = _mm_max_epu8(bytes, _mm_set1_epi8(static_cast<char>(low)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    return;
  }
  if constexpr (S::kLanes == 8 && V == 4) {
    const __m256i zeros = _mm256_set1_epi16(static_cast<int16_t>(zero));
    __m256i a = _mm256_packs_epi32(v[0], v[1]), b = _mm256_packs_epi32(v[2], v[3]);
    if constexpr (!kPlain) {
      a = _mm256_adds_epi16(a, zeros);
      b = _mm256_adds_epi16(b, zeros);
    }
    __m256i bytes = _mm256_packus_epi16(a, b);
    if constexpr (!kPlain) bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(static_cast<char>(low)));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
    return;
  }
#endif
  const auto zeros = S::set_int(zero), lows = S::set_int(low);
#pragma GCC unroll 4
  for (int i = 0; i < V; ++i) S::store_u8(to + i * S::kLanes, S::max_int(lows, S::add_int(v[i], zeros)));
}

}  // namespace rta
