// float32 activations as 16-bit fixed point with a scale per row, in two planes of bytes, over the vectors S.
//
// scale = max |x| / 32639, q = rint(x / scale) = 256 * high + low with high and low in -128..127: the products of both
// planes with int8 or int4 weights are exact int32 sums, and run at the speed of int8. The rounding of x is at most
// max |x| / 65278, where bfloat16 would lose up to |x| / 256.
#pragma once

#include "_core/stage.h"
#include "_simd/lanes.h"

namespace rta {

constexpr float kPlaneSteps = 32639.0f;  // 127 * 256 + 127

// high, low: + 128, as values lie between stages; whole vectors are written past the width. Gives the scale: 1 for a
// row of zeros (to any precision there is), NaN for one with a NaN or an infinity, whose planes are zero.
template <class S>
static inline float split_planes(const float* x, int width, uint8_t* high, uint8_t* low) {
  using F = typename S::F;
  using I = typename S::I;
  I peaks = S::set_int(0);
  int i = 0;
  for (; i + S::kLanes <= width; i += S::kLanes) peaks = S::max_int(peaks, S::bits_of_abs(S::load(x + i)));
  if (i < width) peaks = S::max_int(peaks, S::bits_of_abs(S::load_n(x + i, width - i)));
  const int32_t bits = S::max_of_int(peaks);
  float peak;
  __builtin_memcpy(&peak, &bits, 4);
  const bool finite = bits < 0x7f800000;
  if (!finite || peak < 0x1p-100f) {
    for (i = 0; i < width; ++i) high[i] = low[i] = 128;
    return finite ? 1.0f : __builtin_nanf("");
  }
  const F inverse = S::set(kPlaneSteps / peak), limit = S::set(kPlaneSteps);
  const I half = S::set_int(128);
  const auto split = [&](F v, int at) __attribute__((always_inline)) {
    const F t = S::max(S::sub(S::set(0.0f), limit), S::min(limit, S::mul(v, inverse)));
    const I q = S::to_int(t), shifted = S::add_int(q, half);
    const I upper = Bits<S>::right_sign(shifted, 8);
    S::store_u8(high + at, S::add_int(upper, half));
    S::store_u8(low + at, Bits<S>::both(shifted, 255));  // q - 256 * upper + 128
  };
  for (i = 0; i + S::kLanes <= width; i += S::kLanes) split(S::load(x + i), i);
  if (i < width) split(S::load_n(x + i, width - i), i);
  return peak / kPlaneSteps;
}

}  // namespace rta
