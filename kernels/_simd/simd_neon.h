// Vectors of 4 float32 on AArch64. The int8 dot product multiplies to 16 bits and adds neighbors into 32: exact for
// all 8-bit inputs, as no two products meet in 16 bits.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "_simd/simd_common.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct NeonTypes {
  using F = float32x4_t;
  using I = int32x4_t;
  using M = uint32x4_t;
};

struct Neon : Common<Neon, NeonTypes> {
  static constexpr Isa kIsa = Isa::kNeon;
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 32;
  static constexpr int kTileVectors = 8;

  static F load(const float* p) { return vld1q_f32(p); }
  static void store(float* p, F v) { vst1q_f32(p, v); }
  static F load_n(const float* p, int n, float rest = 0) {
    F v = set(rest);
    if (n > 3) return load(p);
    if (n > 0) v = vld1q_lane_f32(p, v, 0);
    if (n > 1) v = vld1q_lane_f32(p + 1, v, 1);
    if (n > 2) v = vld1q_lane_f32(p + 2, v, 2);
    return v;
  }
  static void store_n(float* p, F v, int n) {
    if (n > 3) return store(p, v);
    if (n > 0) vst1q_lane_f32(p, v, 0);
    if (n > 1) vst1q_lane_f32(p + 1, v, 1);
    if (n > 2) vst1q_lane_f32(p + 2, v, 2);
  }
  static F set(float v) { return vdupq_n_f32(v); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F sub(F a, F b) { return vsubq_f32(a, b); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F div(F a, F b) { return vdivq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F mul_add(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  // Not vmaxq and vminq, which give a NaN where either is one.
  static F max(F a, F b) { return select(vcgtq_f32(a, b), a, b); }
  static F min(F a, F b) { return select(vcltq_f32(a, b), a, b); }
  static F abs(F a) { return vabsq_f32(a); }
  static F copy_sign(F magnitude, F sign) { return vbslq_f32(vdupq_n_u32(0x80000000), sign, magnitude); }
  static F sqrt(F a) { return vsqrtq_f32(a); }
  static F round(F a) { return vrndnq_f32(a); }
  static M less(F a, F b) { return vcltq_f32(a, b); }
  static M equal(F a, F b) { return vceqq_f32(a, b); }
  static bool all(M m) { return vminvq_u32(m) != 0; }
  static F select(M m, F yes, F no) { return vbslq_f32(m, yes, no); }
  static float max_of(F v) { return vmaxvq_f32(v); }
  static float sum_of(F v) {
    const float32x2_t s = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    return vget_lane_f32(s, 0) + vget_lane_f32(s, 1);
  }

  static I to_int(F v) { return vcvtnq_s32_f32(v); }
  static F to_float(I v) { return vcvtq_f32_s32(v); }
  static I set_int(int32_t v) { return vdupq_n_s32(v); }
  static I load_int(const int32_t* p) { return vld1q_s32(p); }
  static void store_int(int32_t* p, I v) { vst1q_s32(p, v); }
  static I add_int(I a, I b) { return vaddq_s32(a, b); }
  static I sub_int(I a, I b) { return vsubq_s32(a, b); }
  static I mul_int(I a, I b) { return vmulq_s32(a, b); }
  static I and_int(I a, I b) { return vandq_s32(a, b); }
  template <int n>
  static I shift_left(I v) {
    return vshlq_n_s32(v, n);
  }
  template <int n>
  static I shift_right(I v) {
    return vshrq_n_s32(v, n);
  }
  static I as_int(F v) { return vreinterpretq_s32_f32(v); }
  static F as_float(I v) { return vreinterpretq_f32_s32(v); }
  static I min_int(I a, I b) { return vminq_s32(a, b); }
  static I max_int(I a, I b) { return vmaxq_s32(a, b); }
  static I bits_of_abs(F v) { return vreinterpretq_s32_f32(vabsq_f32(v)); }
  static int32_t max_of_int(I v) { return vmaxvq_s32(v); }
  static int32_t sum_of_int(I v) { return vaddvq_s32(v); }

  static I load_u8(const uint8_t* p) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, p, 4);
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
  }
  static I load_s8(const int8_t* p) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, p, 4);
    return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(bytes))));
  }
  static I load_u16(const uint16_t* p) { return vreinterpretq_s32_u32(vmovl_u16(vld1_u16(p))); }
  static void store_u16(uint16_t* p, I v) { vst1_u16(p, vmovn_u32(vreinterpretq_u32_s32(v))); }
  static void store_u8(uint8_t* p, I v) {
    const int16x4_t words = vqmovn_s32(v);
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovun_s16(vcombine_s16(words, words))), 0);
    __builtin_memcpy(p, &bytes, 4);
  }

  // q + 128 becomes q by flipping one bit: there is no product of unsigned and signed bytes.
  static constexpr int kGroup = 2;
  static constexpr int kWeightBytes = 8;
  static constexpr int kXOffset = 0;
  using X = int8x8_t;
  using W = int8x8_t;
  static X broadcast_x(const uint8_t* p) {
    uint16_t pair;
    __builtin_memcpy(&pair, p, 2);
    return vreinterpret_s8_u16(vdup_n_u16(pair ^ 0x8080));
  }
  static W load_w(const int8_t* p) { return vld1_s8(p); }
  static I dot(I acc, X x, W w) { return vpadalq_s16(acc, vmull_s8(x, w)); }
};

using simd_neon = Neon;

}  // namespace
}  // namespace rta
