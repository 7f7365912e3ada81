// AVX2 with the int8 dot product of AVX-VNNI: processors without AVX-512, from 2021 on.
#pragma once

#include "_simd/simd_avx2.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct AvxVnni : Avx2 {
  static constexpr Isa kIsa = Isa::kAvxVnni;
  static constexpr bool kAddsDots = true;

  static constexpr int kGroup = 4;
  static constexpr int kWeightBytes = 32;
  static constexpr int kXOffset = 128;
  static constexpr bool kWidens = false;
  static X broadcast_x(const uint8_t* p) {
    int32_t word;
    __builtin_memcpy(&word, p, 4);
    return _mm256_set1_epi32(word);
  }
  static W load_w(const int8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  // In assembly for the reason that the one of AVX-512 is.
  static I dot(I acc, X x, W w) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(x), "x"(w));
    return acc;
  }
};

using simd_avxvnni = AvxVnni;

}  // namespace
}  // namespace rta
