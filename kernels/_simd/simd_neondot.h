// AArch64 with the int8 dot product of ARMv8.2 (Cortex-A55 and A76 on, Neoverse, Raspberry Pi 5, Jetson Orin).
#pragma once

#include "_simd/simd_neon.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct NeonDot : Neon {
  static constexpr Isa kIsa = Isa::kNeonDot;
  static constexpr bool kAddsDots = true;

  static constexpr int kGroup = 4;
  static constexpr int kWeightBytes = 16;
  static constexpr int kXOffset = 0;
  using X = int8x16_t;
  using W = int8x16_t;
  static X broadcast_x(const uint8_t* p) {
    uint32_t word;
    __builtin_memcpy(&word, p, 4);
    return vreinterpretq_s8_u32(vdupq_n_u32(word ^ 0x80808080));
  }
  static W load_w(const int8_t* p) { return vld1q_s8(p); }
  static I dot(I acc, X x, W w) { return vdotq_s32(acc, x, w); }
};

using simd_neondot = NeonDot;

}  // namespace
}  // namespace rta
