// Windows over a row of float32 numbers, for kernels that pick what sparse weights multiply.
#pragma once

#include <cstdint>

#include "_core/isa.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace rta {

// A window of one row of float32 x. pick<byte>: by that byte of each lane's 4 of indices.
template <class S>
struct FloatWindow {
  using F = typename S::F;
#if defined(__AVX512F__)
  static constexpr int kWindow = 32, kAlign = 8;
  using Index = __m512i;
  F low, high;
  explicit FloatWindow(const float* x) : low(S::load(x)), high(S::load(x + 16)) {}
  static Index load(const char* p) { return _mm512_loadu_si512(p); }
  template <int byte>
  F pick(Index index) const {  // the permutation reads 5 bits of each lane
    return _mm512_permutex2var_ps(low, byte ? _mm512_srli_epi32(index, 8 * byte) : index, high);
  }
#else
  static constexpr int kWindow = 256, kAlign = 1;
  using Index = const uint8_t*;
  const float* x;
  explicit FloatWindow(const float* at) : x(at) {}
  static Index load(const char* p) { return reinterpret_cast<const uint8_t*>(p); }
  template <int byte>
  F pick(Index index) const {
    alignas(32) float picked[S::kLanes];
    for (int i = 0; i < S::kLanes; ++i) picked[i] = x[index[4 * i + byte]];
    return S::load(picked);
  }
#endif
  static constexpr bool kTable = kWindow < 256;
};

}  // namespace rta
