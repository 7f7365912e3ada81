// AVX-512 with VNNI and the bfloat16 dot product.
#pragma once

#include "_simd/simd_avx512vnni.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct Avx512Bf16 : Avx512Vnni {
  static constexpr Isa kIsa = Isa::kAvx512Bf16;

  using XB = __m512i;
  using WB = __m512i;
  static XB broadcast_bf16(const uint16_t* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, 4);
    return _mm512_set1_epi32(pair);
  }
  static WB load_w_bf16(const uint16_t* p) { return _mm512_load_si512(p); }
  // In assembly for the reason that the dot product of VNNI is.
  static F dot_bf16(F acc, XB x, WB w) {
    asm("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(x), "v"(w));
    return acc;
  }
};

using simd_avx512bf16 = Avx512Bf16;

}  // namespace
}  // namespace rta
