// Depthwise kernels of 3 x 3 without gaps: the rest of interleaved.h, which includes it.
//
// A column of 4 interleaved rows stays in registers: it is the last of one output, the middle of the next and the first
// of the one after, in both output rows that these 4 rows hold. Through memory each of its vectors would be stored once
// and loaded six times, and loads are the bound. 64 channels go in two halves, so that the weights stay in registers
// too: a layer of 125 positions takes 0.88 us, and 1.24 in one pass that loads them for each column, 1.30 through
// memory (Zen 4, 2026-11).
#pragma once

#include "interleaved.h"

#if defined(__AVX512VNNI__)

namespace rta {

// kDown output rows from row o on, 64 channels. kept: what the first half leaves for the second.
template <class S>
template <int kDown, bool kFast>
void InterleavedStage<S>::slide(const char* image, const char* w, int64_t o, float scale, const ConvTarget& at,
                                char* kept) const {
  half<0, kDown, kFast>(image, w, o, scale, at, kept);
  half<1, kDown, kFast>(image, w, o, scale, at, kept);
  if constexpr (kFast) return;
  for (int64_t d = 0; d < kDown; ++d)
    for (int64_t i = 0; i < across_.out; ++i)
      epilogue_row(reinterpret_cast<const float*>(kept) + (d * across_.out + i) * 64, at,
                   (o + d) * down_.out_step + i * across_.out_step);
}

template <class S>
template <int kHalf, int kDown, bool kFast>
void InterleavedStage<S>::half(const char* image, const char* w, int64_t o, float scale, const ConvTarget& at,
                               char* kept) const {
  const Axis across = across_;
  const char* row[4];
  int64_t moves[4];  // all bits, or none in padding
  for (int64_t j = 0; j < 4; ++j) {
    const int64_t from = o + j - down_.padding;
    const bool inside = from >= 0 && from < down_.in;
    row[j] = inside ? image + from * down_.image_step : pad_;
    moves[j] = inside ? -1 : 0;
  }
  I weight[3][kDown][2], start[2];
#pragma GCC unroll 2
  for (int v = 0; v < 2; ++v) {
    start[v] = S::load_int(start_ + at.column + 16 * (2 * kHalf + v));
#pragma GCC unroll 2
    for (int d = 0; d < kDown; ++d)
#pragma GCC unroll 3
      for (int tap = 0; tap < 3; ++tap)
        weight[tap][d][v] = _mm512_load_si512(w + (d * 3 + tap) * 256 + 64 * (2 * kHalf + v));
  }
  const I pad = _mm512_set1_epi8(static_cast<char>(p_.x_zero));
  int64_t along = 0;
  const auto column = [&](I(&x)[2], int64_t i) __attribute__((always_inline)) {
    if (i < across.padding || i >= across.padding + across.in) {
      x[0] = x[1] = pad;
      return;
    }
    const auto in = [&](int j) __attribute__((always_inline)) { return load(row[j] + (along & moves[j])); };
    const I upper = kHalf ? _mm512_unpackhi_epi8(in(0), in(1)) : _mm512_unpacklo_epi8(in(0), in(1));
    const I lower = kHalf ? _mm512_unpackhi_epi8(in(2), in(3)) : _mm512_unpacklo_epi8(in(2), in(3));
    x[0] = _mm512_unpacklo_epi16(upper, lower);
    x[1] = _mm512_unpackhi_epi16(upper, lower);
    along += across.image_step;
  };
  const auto add = [&](I(&sum)[kDown][2], const I(&x)[2], int tap) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int d = 0; d < kDown; ++d)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[d][v] = S::dot(sum[d][v], x[v], weight[tap][d][v]);
  };
  const float *multiplier = multiplier_ + at.column + 32 * kHalf, *offset = offset_ + at.column + 32 * kHalf;
  const I zero = _mm512_set1_epi16(static_cast<int16_t>(p_.y_zero));
  const I low = _mm512_set1_epi8(static_cast<char>(p_.y_low));
  char* y = at.y + o * down_.out_step * p_.y.pitch + at.column;
  const int64_t down = down_.out_step * p_.y.pitch, further = across.out_step * p_.y.pitch;
  const bool dynamic = p_.dynamic;
  const auto epilogue = [&](const I(&sum)[kDown][2]) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int d = 0; d < kDown; ++d) {
      F t[2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        F m = S::load(multiplier + 16 * v);
        if (!kFast && dynamic) m = S::mul(m, S::set(scale));
        t[v] = S::add(S::mul(S::to_float(sum[d][v]), m), S::load(offset + 16 * v));
      }
      char* from = kept + d * across.out * (kFast ? 64 : 256);
      if constexpr (kFast) {
        const I words = _mm512_adds_epi16(_mm512_packs_epi32(S::to_int(t[0]), S::to_int(t[1])), zero);
        if constexpr (kHalf == 0)
          _mm512_store_si512(from, words);
        else
          _mm512_storeu_si512(y + d * down, _mm512_max_epu8(_mm512_packus_epi16(_mm512_load_si512(from), words), low));
      } else {
        for (int v = 0; v < 2; ++v) S::store(reinterpret_cast<float*>(from) + 32 * kHalf + 16 * v, t[v]);
      }
    }
    kept += kFast ? 64 : 256;
    y += further;
  };
  const auto begin = [&](I(&sum)[kDown][2], const I(&x)[2]) __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int d = 0; d < kDown; ++d)
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) sum[d][v] = start[v];
    add(sum, x, 0);
  };
  // Column i ends one output, goes into the next and begins the one after it, in the place of the first.
  const auto middle = [&](I(&ending)[kDown][2], I(&next)[kDown][2], int64_t i) __attribute__((always_inline)) {
    I x[2];
    column(x, i);
    add(ending, x, 2);
    epilogue(ending);
    add(next, x, 1);
    begin(ending, x);
  };
  const auto end = [&](I(&ending)[kDown][2], I(&last)[kDown][2], int64_t i) __attribute__((always_inline)) {
    I x[2];
    column(x, i);
    add(ending, x, 2);
    epilogue(ending);
    add(last, x, 1);
    column(x, i + 1);
    add(last, x, 2);
    epilogue(last);
  };
  I a[kDown][2], b[kDown][2], x[2];
  column(x, 0);
  begin(a, x);
  column(x, 1);
  add(a, x, 1);
  begin(b, x);
  int64_t i = 2;
  for (; i + 1 < across.out; i += 2) {
    middle(a, b, i);
    middle(b, a, i + 1);
  }
  if (i == across.out) return end(a, b, i);
  middle(a, b, i);
  end(b, a, i + 1);
}

}  // namespace rta
#endif
