// Brings one sample into the padded image. Everything is written in ascending order, so that whole vectors may run over
// into what is written next; the image ends in a vector of slack. Of a stream, the column of a call goes into its row
// of the ring.
#pragma once

#include <type_traits>

#include "layer.h"

namespace rta {

constexpr int32_t kNotFinite = 0x7f800000;

// kWide: int8 numbers take 16 bits each in the image.
template <class S, bool kWide = false>
struct PaddedImageFill {
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int kBytes = S::kLanes * 4;
  enum Source { kBytesAsTheyAre, kFloats, kQuantize, kMiddle };  // kMiddle: q = 0 for every number
  template <Source source>
  static constexpr int kBytesOf = source == kFloats ? 4
                                  : kWide           ? 2
                                                    : 1;  // of a number in the image

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
    const I v = S::add_int(S::to_int(t), zero);
    if constexpr (kWide)
      S::store_u16(reinterpret_cast<uint16_t*>(to), S::max_int(S::set_int(0), S::min_int(S::set_int(255), v)));
    else
      S::store_u8(reinterpret_cast<uint8_t*>(to), v);
  }

  // Byte by byte the same, or word by word.
  static I pattern_of(uint32_t byte) {
    return S::set_int(static_cast<int32_t>((kWide ? 0x00010001u : 0x01010101u) * byte));
  }

  // n numbers that lie side by side, in both places.
  template <Source source>
  void run(char* to, const char* from, int64_t n) {
    if constexpr (source == kMiddle) spread(to, to + n * kBytesOf<source>, pattern_of(0x80));
    if constexpr (source == kBytesAsTheyAre && kWide) {
      const uint8_t* x = reinterpret_cast<const uint8_t*>(from);
      uint16_t* words = reinterpret_cast<uint16_t*>(to);
      const int64_t readable = limit && limit - from < n + 7 ? (limit - from) / 8 * 8 : n;
      int64_t i = 0;
      for (; i < n && i < readable; i += 8) S::widen_u8(x + i, words + i);
      for (; i < n; ++i) words[i] = x[i];
    }
    if constexpr (source == kBytesAsTheyAre && !kWide)
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
          quantize(v, to + i * kBytesOf<source>);
      }
    }
  }

  template <Source source>
  void positions(char* to, const char* from, int64_t count) {
    const int64_t pitch = p.x_step, element = kBytesOf<source>, given = source == kBytesAsTheyAre ? 1 : 4;
    const int64_t c = p.cell_channels();
    if (padded_image.cell == c * element && (source == kMiddle || pitch == c * given))
      return run<source>(to, from, count * c);
    for (int64_t i = 0; i < count; ++i) run<source>(to + i * padded_image.cell, from + i * pitch, c);
  }

  template <Source source>
  void fill(char* to, const char* x) {
    if (padded_image.upright) return fill_upright<source>(to, x);
    for (int64_t plane = 0; plane < p.planes(); ++plane)
      fill_plane<source>(to + plane * padded_image.plane, x + plane * p.x_plane);
  }

  template <Source source>
  void fill_plane(char* to, const char* x) {
    const ConvGeometry& g = p.at;
    const I pad = pattern_of(static_cast<uint32_t>(p.int8 ? p.x_zero : 0));
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
      positions<source>(data, x + from * p.x_row, count);
      spread(data + count * padded_image.cell, to + padded_image.row, pad);
    }
  }

  // Column by column, of few channels: a part of a row at a time, by way of the stack.
  template <Source source>
  void fill_upright(char* to, const char* x) {
    using Number = std::conditional_t<source == kFloats, float, std::conditional_t<kWide, uint16_t, uint8_t>>;
    constexpr int64_t kPart = 64;
    alignas(64) Number part[kPart * PaddedImage::kUprightChannels + 2 * S::kLanes];
    const ConvGeometry& g = p.at;
    const int64_t c = p.c, apart = padded_image.cell / static_cast<int64_t>(sizeof(Number));
    const int64_t given = source == kBytesAsTheyAre ? 1 : 4;
    spread(to, to + padded_image.bytes, pattern_of(static_cast<uint32_t>(p.int8 ? p.x_zero : 0)));
    const int64_t left = g.padding.x < g.reach.x ? g.padding.x : g.reach.x;
    const int64_t width = g.in.x < g.reach.x - left ? g.in.x : g.reach.x - left;
    for (int64_t y = 0; y < g.in.y && y + g.padding.y < g.reach.y; ++y)
      for (int64_t first = 0; first < width; first += kPart) {
        const int64_t count = width - first < kPart ? width - first : kPart;
        const char* from = x + y * p.x_row + first * p.x_step;
        if (p.x_step == c * given)
          run<source>(reinterpret_cast<char*>(part), from, count * c);
        else
          for (int64_t i = 0; i < count; ++i)
            run<source>(reinterpret_cast<char*>(part + i * c), from + i * p.x_step, c);
        Number* at = reinterpret_cast<Number*>(to + (first + left) * padded_image.cell) + (y + g.padding.y) * c;
        for (int64_t i = 0; i < count; ++i, at += apart)
          for (int64_t k = 0; k < c; ++k) at[k] = part[i * c + k];
      }
  }

  // The largest |x| of a sample, as bits: an integer maximum sees NaN and infinity as the largest of all.
  int32_t peak_bits(const char* x) const {
    I peak = S::set_int(0);
    const bool dense = p.x_step == p.cell_channels() * 4;
    const int64_t rows = p.x_planes ? p.c * p.at.in.y : dense ? 1 : p.at.in_count;
    const int64_t n = p.x_planes ? p.at.in.x : dense ? p.at.in_count * p.c : p.c;
    const int64_t apart = p.x_planes ? p.x_row : p.x_step;
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = reinterpret_cast<const float*>(x + r * apart);
      int64_t i = 0;
      for (; i + S::kLanes <= n; i += S::kLanes) peak = S::max_int(peak, S::bits_of_abs(S::load(row + i)));
      if (i < n) peak = S::max_int(peak, S::bits_of_abs(S::load_n(row + i, static_cast<int>(n - i))));
    }
    return S::max_of_int(peak);
  }
};

// One sample of x into the padded image. Returns the scale of its numbers where that is dynamic, else 1; marks the
// sample where an int8 value would have to hold what it cannot.
template <class S, bool kWide = false>
static float fill_padded_image(const ConvLayer& p, const PaddedImage& padded_image, char* to, const char* x,
                               float* nan_marks) {
  using Fill = PaddedImageFill<S, kWide>;
  Fill f{p,
         padded_image,
         S::set(p.x_inv_scale),
         S::set_int(p.x_zero),
         S::set(0.0f),
         p.flat ? x + p.x.steps * p.x.pitch : nullptr};
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

// Returns the ring of sample s with the column of this call in place. delta[tap]: where the tap reads in it.
template <class S>
static const char* turn_ring(const ConvLayer& p, const Run& run, int64_t s, int32_t* delta) {
  using Fill = PaddedImageFill<S>;
  const int64_t rows = p.ring.steps, pitch = p.ring_out.pitch, element = p.int8 ? 1 : 4;
  char* ring = p.ring_out.row(run, s * rows);
  if (p.ring.id != p.ring_out.id) {  // a caller's tensor in, another out
    const char* from = p.ring.row(run, s * rows);
    for (int64_t r = 0; r < rows; ++r) __builtin_memcpy(ring + r * pitch, from + r * p.ring.pitch, p.c * element);
  }
  const int64_t newest = (run.ticks ? run.ticks[s] : run.tick) % rows;
  const char* x = p.x.row(run, s);
  char* to = ring + newest * pitch;
  if (!p.int8) {
    __builtin_memcpy(to, x, p.c * 4);
  } else if (!p.quantizes) {
    __builtin_memcpy(to, x, p.c);
  } else {
    const PaddedImage none{};
    Fill f{p, none, S::set(p.x_inv_scale), S::set_int(p.x_zero), S::set(0.0f), nullptr};
    f.template run<Fill::kQuantize>(to, x, p.c);
    if (!(S::sum_of(f.nonfinite) == 0.0f)) {
      f.template run<Fill::kMiddle>(to, x, p.c);
      run.nan_marks[s] = __builtin_nanf("");
    }
  }
  const int64_t taps = p.at.taps, dilation = p.at.dilation.x;
  for (int64_t j = 0; j < taps; ++j) {
    const int64_t row = newest - (taps - 1 - j) * dilation;
    delta[j] = static_cast<int32_t>((row < 0 ? row + rows : row) * pitch);
  }
  return ring;
}

}  // namespace rta
