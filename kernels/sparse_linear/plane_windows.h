// Unstructured sparse weights in windows of 128 words of 32 bits (byte_planes.h): float32 entries, or int8 entries in
// words of 4 neighboring columns, as blocks of one row have them.
//
// A step is two times 64 words from one window: two of each output of a tile, or more of fewer outputs (pack.h).
//
// Floor, 1 x 1024 x 1024 float32 at 95 %: 403 KB in steps that are 65 % full, 3.4 us at 118 GB/s; a step is 40
// operations and 18 loads, about 23 cycles for 640 bytes (Zen 4, 2026-11).
#pragma once

#include "sparse_linear/byte_planes.h"
#include "sparse_linear/tiles.h"
#include "sparse_linear/unpermute.h"

#if defined(__AVX512VBMI__)
namespace rta {

template <class S, bool Int8>
struct PlaneParams;

template <class S>
struct PlaneParams<S, true> {
  using Sum = typename S::I;
  static Sum zero() { return S::set_int(0); }
  static Sum add(Sum a, Sum b) { return S::add_int(a, b); }
  static Sum multiply(Sum acc, __m512i x, const char* w) {
    return S::dot(acc, x, S::load_w(reinterpret_cast<const int8_t*>(w)));
  }
};

template <class S>
struct PlaneParams<S, false> {
  using Sum = typename S::F;
  static Sum zero() { return S::set(0.0f); }
  static Sum add(Sum a, Sum b) { return S::add(a, b); }
  static Sum multiply(Sum acc, __m512i x, const char* w) {
    return S::mul_add(S::load(reinterpret_cast<const float*>(w)), _mm512_castsi512_ps(x), acc);
  }
};

template <class S, bool Int8>
class PlaneWindows {
  using Params = PlaneParams<S, Int8>;

 public:
  static constexpr bool kInt8 = Int8, kPrepared = true;
  static constexpr int kTogether = kTile;
  using Sum = typename Params::Sum;
  template <int R>
  struct Rows {
    const char* planes;
    Rows(const LinearLayer&, const char* at) : planes(at) {}
  };

  PlaneWindows(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    columns_ = rows.k;
    words_ = Int8 ? (rows.k + 3) / 4 : rows.k;
    pitch_ = plane_pitch(words_);
    packed_ = pack_words(spec, rows, form(rows));
    tiles_ = (rows.n + kTile * S::kLanes - 1) / (kTile * S::kLanes);
    read_numbers<S>(layer, spec, rows);
    spec.need_scratch(static_cast<size_t>(kBlockRows * prepared_bytes()));
  }

  static WordForm form(const SparseRows& rows) {
    return {S::kLanes, kPlaneWindow, kPlaneAlign, plane_readable(Int8 ? (rows.k + 3) / 4 : rows.k), kTile};
  }

  int64_t steps() const { return 8 * packed_.ends[tiles_ * kTile / packed_.together]; }
  int64_t prepared_bytes() const { return 4 * pitch_; }

  // Splits a row of x. 0, or NaN where a number is not finite.
  float prepare(const char* row, char* planes) const {
    [[maybe_unused]] typename S::F nonfinite = S::set(0.0f);
    for (int64_t i = 0; i < words_; i += 32) {
      const auto load = [&](int64_t at) {
        if constexpr (Int8) {  // rows have whole 64 bytes
          return at < words_ ? _mm512_loadu_si512(row + 4 * at) : _mm512_setzero_si512();
        } else {
          const int64_t left = columns_ - at;
          const auto x = left >= 16 ? S::load(reinterpret_cast<const float*>(row) + at)
                         : left > 0 ? S::load_n(reinterpret_cast<const float*>(row) + at, static_cast<int>(left))
                                    : S::set(0.0f);
          nonfinite = S::mul_add(x, S::set(0.0f), nonfinite);
          return _mm512_castps_si512(x);
        }
      };
      split_planes_of_bytes(load(i), load(i + 16), i, pitch_, planes);
    }
    if constexpr (Int8) return 0.0f;
    return S::sum_of(nonfinite);
  }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool,
                                                  Sum (&out)[kTile][R]) const {
    const int64_t first = vector / packed_.together;
    switch (packed_.together) {
      case 4: return unit<R>(first, rows, out);
      case 2: {
        Sum acc[2][kTile][R];
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          unit<R>(first + u, rows, acc[u]);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            out[2 * u][r] = Params::add(acc[u][0][r], acc[u][2][r]);
            out[2 * u + 1][r] = Params::add(acc[u][1][r], acc[u][3][r]);
          }
        }
        return;
      }
      default:
#pragma GCC unroll 4
        for (int u = 0; u < kTile; ++u) {
          Sum acc[kTile][R];
          unit<R>(first + u, rows, acc);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r)
            out[u][r] = Params::add(Params::add(acc[0][r], acc[1][r]), Params::add(acc[2][r], acc[3][r]));
        }
    }
  }

  template <int R>
  inline __attribute__((always_inline)) void arrange(int64_t tile, Sum (&sums)[R][kTile]) const {
    if (packed_.together < kTile) unpermute<S, R>(packed_.from + tile * kTile * S::kLanes, sums);
  }

 private:
  static constexpr int64_t kStep = 2 * (kTile + 1) * 64;  // two slots: values of each vector, then indices

  // The sums of the four words that each half of a step has for a lane.
  template <int R>
  void unit(int64_t unit, const Rows<R>& rows, Sum (&acc)[kTile][R]) const {
#pragma GCC unroll 4
    for (int v = 0; v < kTile; ++v)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[v][r] = Params::zero();
    const int64_t pitch = pitch_;
    const uint16_t *start = packed_.starts + packed_.ends[unit], *end = packed_.starts + packed_.ends[unit + 1];
    const char* w = packed_.stream + packed_.ends[unit] * kStep;
    for (; start < end; ++start, w += kStep)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const PlaneWindow window(rows.planes + r * 4 * pitch + *start, pitch);
#pragma GCC unroll 2
        for (int half = 0; half < 2; ++half) {
          const char* at = w + half * kStep / 2;
          __m512i x[kTile];
          window.pick(_mm512_load_si512(at + kTile * 64), x);
#pragma GCC unroll 4
          for (int v = 0; v < kTile; ++v) acc[v][r] = Params::multiply(acc[v][r], x[v], at + v * 64);
        }
      }
  }

  Words packed_;
  int64_t columns_, words_, pitch_, tiles_;
};

}  // namespace rta
#endif
