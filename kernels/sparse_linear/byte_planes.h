// Windows over words of 32 bits in four planes of bytes: for kernels that pick what sparse weights multiply, where
// bytes can be permuted between two registers (VBMI).
//
// A permutation of words picks 16 from 32. Split into its first, second, third and fourth bytes, a row is four tables
// of bytes, and two registers of each are a window of 128 words: four permutations, all by the same indices, give the
// bytes of 64 words, and eight interleavings put them together. That is less than one permutation and two cheaper
// operations for 16 words, from a window four times as wide.
#pragma once

#include <cstdint>

#if defined(__AVX512VBMI__)
#include <immintrin.h>

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

constexpr int kPlaneWindow = 128, kPlaneAlign = 32;

// Words of a plane that hold `words`: whole windows may be loaded from each start of at most this - kPlaneWindow.
static inline int64_t plane_readable(int64_t words) {
  return words <= kPlaneWindow ? kPlaneWindow : (words + kPlaneAlign - 1) / kPlaneAlign * kPlaneAlign;
}

// Bytes from one plane to the next: no multiple of 4096, where loads of all planes would meet in one set of a cache.
static inline int64_t plane_pitch(int64_t words) { return (plane_readable(words) + 63) / 64 * 64 + 64; }

// Writes words i .. i + 31 of a row to its planes.
static inline void split_planes_of_bytes(__m512i first, __m512i second, int64_t i, int64_t pitch, char* planes) {
  alignas(64) static constexpr struct Picks {
    uint8_t at[2][64];
    constexpr Picks() : at() {
      for (int half = 0; half < 2; ++half)
        for (int j = 0; j < 64; ++j) at[half][j] = static_cast<uint8_t>(j % 32 * 4 + half * 2 + j / 32);
    }
  } kPicks;
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512i bytes = _mm512_permutex2var_epi8(first, _mm512_load_si512(kPicks.at[half]), second);
    char* to = planes + 2 * half * pitch + i;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + pitch), _mm512_extracti64x4_epi64(bytes, 1));
  }
}

struct PlaneWindow {
  __m512i low[4], high[4];

  PlaneWindow(const char* planes, int64_t pitch) {
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      low[p] = _mm512_loadu_si512(planes + p * pitch);
      high[p] = _mm512_loadu_si512(planes + p * pitch + 64);
    }
  }

  // Word i of words[v] is the one that byte 16 * (i / 4) + 4 * v + i % 4 of the indices names.
  void pick(__m512i indices, __m512i (&words)[4]) const {
    __m512i bytes[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) bytes[p] = _mm512_permutex2var_epi8(low[p], indices, high[p]);
    const __m512i a = _mm512_unpacklo_epi8(bytes[0], bytes[1]), b = _mm512_unpackhi_epi8(bytes[0], bytes[1]);
    const __m512i c = _mm512_unpacklo_epi8(bytes[2], bytes[3]), d = _mm512_unpackhi_epi8(bytes[2], bytes[3]);
    words[0] = _mm512_unpacklo_epi16(a, c);
    words[1] = _mm512_unpackhi_epi16(a, c);
    words[2] = _mm512_unpacklo_epi16(b, d);
    words[3] = _mm512_unpackhi_epi16(b, d);
  }
};

}  // namespace
}  // namespace rta
#endif
