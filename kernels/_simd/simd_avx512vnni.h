// AVX-512 with the int8 dot product of VNNI.
#pragma once

#include "_simd/simd_avx512.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct Avx512Vnni : Avx512 {
  static constexpr Isa kIsa = Isa::kAvx512Vnni;
  static constexpr bool kAddsDots = true;

  static constexpr int kGroup = 4;
  static constexpr int kWeightBytes = 64;
  static constexpr int kXOffset = 128;
  static constexpr bool kWidens = false;
  using X = __m512i;
  using W = __m512i;
  static X broadcast_x(const uint8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm512_set1_epi32(word);
  }
  static W load_w(const int8_t* p) { return _mm512_load_si512(p); }
  // In assembly, because around the intrinsic gcc 12 copies and stores 20 and more accumulators in the loop: 16 rows of
  // 1024 x 1024 take 74 us so and 46 us like this (Xeon with AVX-512-VNNI, 2026-11).
  static I dot(I acc, X x, W w) {
    asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
  }
};

using simd_avx512vnni = Avx512Vnni;

}  // namespace
}  // namespace rta
