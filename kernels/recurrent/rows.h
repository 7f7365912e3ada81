// Rows of float32 as recurrent layers read them: copied, or quantized and looked through for NaN and infinity at once.
#pragma once

#include "_core/stage.h"

namespace rta {

template <class S>
static inline void copy_row(const float* from, int64_t width, float* to) {
  int64_t i = 0;
  for (; i + S::kLanes <= width; i += S::kLanes) S::store(to + i, S::load(from + i));
  if (i < width) S::store_n(to + i, S::load_n(from + i, static_cast<int>(width - i)), static_cast<int>(width - i));
}

template <class S>
static inline bool all_finite(const float* x, int64_t width) {
  typename S::F nonfinite = S::set(0.0f);  // x * 0 is 0 unless x is not finite
  int64_t i = 0;
  for (; i + S::kLanes <= width; i += S::kLanes) nonfinite = S::mul_add(S::load(x + i), S::set(0.0f), nonfinite);
  if (i < width) nonfinite = S::mul_add(S::load_n(x + i, static_cast<int>(width - i)), S::set(0.0f), nonfinite);
  return S::sum_of(nonfinite) == 0.0f;
}

// q = clamp(rint(x * inverse) + zero - 128, -128, 127), as q + 128. to: a whole number of vectors. False where some x
// is not finite.
template <class S>
static inline bool quantize_static(const float* x, int64_t width, uint8_t* to, float inverse, int32_t zero = 128) {
  typename S::F nonfinite = S::set(0.0f);
  const auto one = [&](typename S::F v, uint8_t* at) {
    nonfinite = S::mul_add(v, S::set(0.0f), nonfinite);
    const auto t = S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(v, S::set(inverse))));
    S::store_u8(at, S::add_int(S::to_int(t), S::set_int(zero)));
  };
  int64_t i = 0;
  for (; i + S::kLanes <= width; i += S::kLanes) one(S::load(x + i), to + i);
  if (i < width) one(S::load_n(x + i, static_cast<int>(width - i)), to + i);
  return S::sum_of(nonfinite) == 0.0f;
}

// As `quantize` does it by row: *scale = max |x| / 127, q = rint(x * (127 / max |x|)). False where some x is not
// finite.
template <class S>
static inline bool quantize_dynamic(const float* x, int64_t width, uint8_t* to, float* scale) {
  typename S::I bits = S::set_int(0);
  int64_t i = 0;
  for (; i + S::kLanes <= width; i += S::kLanes) bits = S::max_int(bits, S::bits_of_abs(S::load(x + i)));
  if (i < width) bits = S::max_int(bits, S::bits_of_abs(S::load_n(x + i, static_cast<int>(width - i))));
  const int32_t largest = S::max_of_int(bits);
  const bool finite = largest < 0x7f800000;
  float peak;
  __builtin_memcpy(&peak, &largest, 4);
  if (!finite || peak < 0x1p-100f) {
    for (i = 0; i < width; ++i) to[i] = 128;
    *scale = 1.0f;
    return finite;
  }
  *scale = peak / 127.0f;
  return quantize_static<S>(x, width, to, 127.0f / peak);
}

}  // namespace rta
