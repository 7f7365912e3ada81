// Brings one sample into the padded image. Everything is written in ascending order, so that whole vectors may run over
// into what is written next; the image ends in a vector of slack.
#pragma once

#include "layer.h"

namespace rta {

constexpr int32_t kNotFinite = 0x7f800000;

template <class S>
struct PaddedImageFill {
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int kBytes = S::kLanes * 4;
  enum Source { kBytesAsTheyAre, kFloats, kQuantize, kMiddle };  // kMiddle: q = 0 for every number

  const ConvLayer& p;
  const PaddedImage& padded_image;
  F inverse;
  I zero;
  F nonfinite;        // 0 as long as every x was finite
  const char* limit;  // bytes of x from here on are not there; null where rows have padding

  static void spread(char* at, const char* end, I pattern) {
    for (; at < end; at += kBytes) S::store_int(reinterpret_cast<int32_t*>(at), pattern);
  }

  void quantize(F x, char* to) {
    // x * 0 is 0 unless x is not finite
    nonfinite = S::mul_add(x, S::set(0.0f), nonfinite);
    const F t = S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(x, inverse)));
    S::store_u8(reinterpret_cast<uint8_t*>(to), S::add_int(S::to_int(t), zero));
  }

  // n numbers that lie side by side, in both places.
  template <Source source>
  void run(char* to, const char* from, int64_t n) {
    if constexpr (source == kMiddle) spread(to, to + n, S::set_int(static_cast<int32_t>(0x80808080u)));
    if constexpr (source == kBytesAsTheyAre)
      for (int64_t i = 0; i < n; i += kBytes) {
        if (limit && from + i + kBytes > limit) {
          __builtin_memcpy(to + i, from + i, static_cast<size_t>(n - i));
          break;
        }
        S::store_int(reinterpret_cast<int32_t*>(to + i), S::load_int(reinterpret_cast<const int32_t*>(from + i)));
      }
    if constexpr (source == kFloats || source == kQuantize) {
      const float* x = reinterpret_cast<const float*>(from);
      int64_t i = 0;
      for (; i < n; i += S::kLanes) {
        const F v = n - i >= S::kLanes ? S::load(x + i) : S::load_n(x + i, static_cast<int>(n - i));
        if constexpr (source == kFloats)
          S::store(reinterpret_cast<float*>(to) + i, v);
        else
          quantize(v, to + i);
      }
    }
  }

  template <Source source>
  void positions(char* to, const char* from, int64_t count) {
    const int64_t pitch = p.x_step, element = source == kFloats ? 4 : 1, given = source == kBytesAsTheyAre ? 1 : 4;
    const int64_t c = p.c;
    if (padded_image.cell == c * element && (source == kMiddle || pitch == c * given))
      return run<source>(to, from, count * c);
    for (int64_t i = 0; i < count; ++i) run<source>(to + i * padded_image.cell, from + i * pitch, c);
  }

  template <Source source>
  void fill(char* to, const char* x) {
    const ConvGeometry& g = p.at;
    const I pad = S::set_int(static_cast<int32_t>(0x01010101u * static_cast<uint32_t>(p.int8 ? p.x_zero : 0)));
    if (g.in_steps) {  // here cells are whole vectors: nothing runs over
      spread(to, to + padded_image.bytes, pad);
      for (int64_t i = 0; i < g.in_count; ++i) {
        const int64_t y = g.in_steps[i] / g.in.x + g.padding.y, column = g.in_steps[i] % g.in.x + g.padding.x;
        if (y < g.reach.y && column < g.reach.x)
          positions<source>(to + y * padded_image.row + column * padded_image.cell, x + i * p.x_step, 1);
      }
      return;
    }
    const int64_t left = g.padding.x < g.reach.x ? g.padding.x : g.reach.x;
    const int64_t count = g.in.x < g.reach.x - left ? g.in.x : g.reach.x - left;
    for (int64_t y = 0; y < g.reach.y; ++y, to += padded_image.row) {
      const int64_t from = y - g.padding.y;
      if (from < 0 || from >= g.in.y) {
        spread(to, to + padded_image.row, pad);
        continue;
      }
      char* data = to + left * padded_image.cell;
      spread(to, data, pad);
      positions<source>(data, x + from * g.in.x * p.x_step, count);
      spread(data + count * padded_image.cell, to + padded_image.row, pad);
    }
  }

  // The largest |x| of a sample, as bits: an integer maximum sees NaN and infinity as the largest of all.
  int32_t peak_bits(const char* x) const {
    I peak = S::set_int(0);
    const bool dense = p.x_step == p.c * 4;
    const int64_t rows = dense ? 1 : p.at.in_count, n = dense ? p.at.in_count * p.c : p.c;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = reinterpret_cast<const float*>(x + r * p.x_step);
      int64_t i = 0;
      for (; i + S::kLanes <= n; i += S::kLanes) peak = S::max_int(peak, S::bits_of_abs(S::load(row + i)));
      if (i < n) peak = S::max_int(peak, S::bits_of_abs(S::load_n(row + i, static_cast<int>(n - i))));
    }
    return S::max_of_int(peak);
  }
};

// One sample of x into the padded image. Returns the scale of its numbers where that is dynamic, else 1; marks the
// sample where an int8 value would have to hold what it cannot.
template <class S>
static float fill_padded_image(const ConvLayer& p, const PaddedImage& padded_image, char* to, const char* x,
                               float* nan_marks) {
  using Fill = PaddedImageFill<S>;
  Fill f{p, padded_image, S::set(p.x_inv_scale), S::set_int(p.x_zero), S::set(0.0f), p.flat ? x + p.x.pitch : nullptr};
  if (!p.int8) {
    f.template fill<Fill::kFloats>(to, x);
    return 1.0f;
  }
  if (!p.quantizes) {
    f.template fill<Fill::kBytesAsTheyAre>(to, x);
    return 1.0f;
  }
  if (!p.dynamic) {
    f.template fill<Fill::kQuantize>(to, x);
    if (S::sum_of(f.nonfinite) == 0.0f) return 1.0f;
    f.template fill<Fill::kMiddle>(to, x);
    *nan_marks = __builtin_nanf("");
    return 1.0f;
  }
  const int32_t bits = f.peak_bits(x);
  float peak;
  __builtin_memcpy(&peak, &bits, 4);
  if (bits < kNotFinite && peak >= 0x1p-100f) {
    f.inverse = S::set(127.0f / peak);
    f.template fill<Fill::kQuantize>(to, x);
    return peak / 127.0f;
  }
  f.template fill<Fill::kMiddle>(to, x);
  if (bits < kNotFinite) return 1.0f;
  if (!p.int8_out) return __builtin_nanf("");
  *nan_marks = __builtin_nanf("");
  return 1.0f;
}

}  // namespace rta
