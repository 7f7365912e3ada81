// Unstructured sparse weights on the CPU, in sliding windows over the row of x (pack.h), written once over S.
//
// A step holds the values and the indices of up to 4 entries (int8) or two (float32) of each output of a vector. The
// inputs that these multiply are picked from a window of x with a permutation in registers: 128 bytes with vpermi2b, 64
// with tbl, 32 with vpshufb; 32 floats with vpermi2ps. Sets without such a permutation load them one by one. Rows
// of a tile of 4 vectors may change places, so that the rows of a vector have about as many entries; the sums go back
// to their places by permutations in registers.
//
// Dot products: int8, permute
//
// Floor, 1 x 1024 x 1024 int8 at 90 %: 105 thousand entries of 2 bytes in steps that are 85 % full, 250 KB at the
// bandwidth of the second-level cache.
#pragma once

#include "_common/windows/byte_window.h"
#include "_common/windows/float_window.h"
#include "sparse_linear/plane_windows.h"
#include "sparse_linear/tiles.h"
#include "sparse_linear/unpermute.h"

namespace rta {

template <class S>
class Int8Windows {
 public:
  static constexpr bool kInt8 = true, kPrepared = false;
  static constexpr int kTogether = ByteWindow<S>::kTogether;  // vectors that are summed at a time
  using Sum = typename S::I;
  template <int R>
  struct Rows : RowsAt<uint8_t> {
    using RowsAt<uint8_t>::RowsAt;
  };

  Int8Windows(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    limit_ = padded(rows.k);
    packed_ = pack_windows(spec, rows, form(rows));
    vectors_ = (rows.n + kTile * S::kLanes - 1) / (kTile * S::kLanes) * kTile;
    read_numbers<S>(layer, spec, rows);
  }
  static WindowForm form(const SparseRows& rows) {
    return {S::kLanes, 4,      S::kGroup, Window::kWindow, Window::kAlign, Window::kTable ? padded(rows.k) : 0,
            kTogether, kSorted};
  }
  int64_t steps() const { return 2 * packed_.ends[vectors_ / packed_.together]; }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool,
                                                  Sum (&out)[kTogether][R]) const {
    Sum acc[2][R];
    if constexpr (kTogether == 2) {
      if (packed_.together == 2) return pairs<R, 2>(vector / 2, rows, out);
      pairs<R, 1>(vector + 1, rows, acc);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) out[kTogether - 1][r] = S::add_int(acc[0][r], acc[1][r]);
    }
    pairs<R, 1>(vector, rows, acc);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[0][r] = S::add_int(acc[0][r], acc[1][r]);
  }

  template <int R>
  inline __attribute__((always_inline)) void arrange(int64_t tile, Sum (&sums)[R][kTile]) const {
    if constexpr (kSorted) unpermute<S, R>(packed_.from + tile * kTile * S::kLanes, sums);
  }

 private:
  using Window = ByteWindow<S>;
  static int64_t padded(int64_t k) { return (k + 63) / 64 * 64; }  // columns up to there exist

  // The sums of the two halves of all pairs of a unit: of two vectors in one window, or of two steps of one vector.
  template <int R, int T>
  inline __attribute__((always_inline)) void pairs(int64_t unit, const Rows<R>& rows, Sum (&acc)[2][R]) const {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[0][r] = acc[1][r] = S::set_int(0);
    constexpr int kStarts = 2 / T;
    const int64_t first = packed_.ends[unit], limit = limit_;
    const char* w = packed_.stream + first * 4 * kStep;
    const uint16_t *start = packed_.starts + first * kStarts, *end = packed_.starts + packed_.ends[unit + 1] * kStarts;
    for (; start < end; start += kStarts, w += 4 * kStep) {
      const auto one = Bytes<S>::load(w + kStep), two = Bytes<S>::load(w + 3 * kStep);  // indices
      const int8_t* values = reinterpret_cast<const int8_t*>(w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const uint8_t* x = rows.x + r * rows.pitch;
        const Window window(x + start[0], limit);
        acc[0][r] = Bytes<S>::dot(acc[0][r], window.pick(one), values);
        const Window next = T == 2 ? window : Window(x + start[kStarts - 1], limit);
        acc[1][r] = Bytes<S>::dot(acc[1][r], next.pick(two), values + 2 * kStep);
      }
    }
  }

  static constexpr int kStep = Bytes<S>::kBytes;  // bytes of the values of a step
  Windows packed_;
  int64_t limit_, vectors_;
};

template <class S>
class FloatWindows {
 public:
  static constexpr bool kInt8 = false, kPrepared = false;
  static constexpr int kTogether = 1;
  using Sum = typename S::F;
  using Window = FloatWindow<S>;

  // Rows shorter than a window are copied to where a whole one may be read.
  template <int R>
  struct Rows {
    const char* x;
    int64_t pitch;
    float copied[Window::kTable ? R * Window::kWindow : 1];
    Rows(const LinearLayer& p, const char* at) : x(at), pitch(p.x.pitch) {
      if (!Window::kTable || p.k >= Window::kWindow) return;
      for (int r = 0; r < R; ++r)
        for (int i = 0; i < Window::kWindow; ++i)
          copied[r * Window::kWindow + i] = i < p.k ? reinterpret_cast<const float*>(at + r * pitch)[i] : 0.0f;
      x = reinterpret_cast<const char*>(copied);
      pitch = Window::kWindow * static_cast<int64_t>(sizeof(float));
    }
  };

  FloatWindows(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    packed_ = pack_windows(spec, rows, form(rows));
    vectors_ = (rows.n + kTile * S::kLanes - 1) / (kTile * S::kLanes) * kTile;
    read_numbers<S>(layer, spec, rows);
  }
  static WindowForm form(const SparseRows& rows) {
    const int64_t readable = rows.k < Window::kWindow ? Window::kWindow : rows.k;
    return {S::kLanes, 2, 1, Window::kWindow, Window::kAlign, Window::kTable ? readable : 0, kTogether, kSorted};
  }
  int64_t steps() const { return 2 * packed_.ends[vectors_ / packed_.together]; }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool, Sum (&out)[1][R]) const {
    Sum acc[2][R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[0][r] = acc[1][r] = S::set(0.0f);
    const int64_t first = packed_.ends[vector];
    const char* w = packed_.stream + first * 5 * kStep;
    const uint16_t *start = packed_.starts + 2 * first, *end = packed_.starts + 2 * packed_.ends[vector + 1];
    for (; start < end; start += 2, w += 5 * kStep) {
      const auto index = Window::load(w + 4 * kStep);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const float* x = reinterpret_cast<const float*>(rows.x + r * rows.pitch);
        const Window one(x + start[0]), two(x + start[1]);
        acc[0][r] = S::mul_add(load(w), one.template pick<0>(index), acc[0][r]);
        acc[1][r] = S::mul_add(load(w + kStep), one.template pick<1>(index), acc[1][r]);
        acc[0][r] = S::mul_add(load(w + 2 * kStep), two.template pick<2>(index), acc[0][r]);
        acc[1][r] = S::mul_add(load(w + 3 * kStep), two.template pick<3>(index), acc[1][r]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[0][r] = S::add(acc[0][r], acc[1][r]);
  }

  template <int R>
  inline __attribute__((always_inline)) void arrange(int64_t tile, Sum (&sums)[R][kTile]) const {
    if constexpr (kSorted) unpermute<S, R>(packed_.from + tile * kTile * S::kLanes, sums);
  }

 private:
  static constexpr int kStep = S::kLanes * static_cast<int>(sizeof(float));
  static Sum load(const char* values) { return S::load(reinterpret_cast<const float*>(values)); }
  Windows packed_;
  int64_t vectors_;
};

static const char* window_reject(const Attrs& attrs) {
  return sparse_reject(attrs, "window", "packs unstructured weights, and this one is packed otherwise");
}

#if defined(__AVX512VBMI__)
// Whether windows of words, shared by 64 outputs, take less time than windows of entries. A step of the former is 23
// cycles, one of 4 int8 entries 4.6, and one of two floats 7 (1024 x 1024, Zen 4, 2026-11).
template <class S, bool Int8, class Entries>
static bool words_are_faster(const StageSpec& spec) {
  if (!spec.packs()) return is_there_as(spec, SparseHead::kWords);
  const SparseRows rows(spec);
  const int64_t words = count_words(rows, PlaneWindows<S, Int8>::form(rows)) * 230;
  return words < count_windows(rows, Entries::form(rows)) * (Int8 ? 46 : 70);
}
#endif

template <class S>
static Stage* create_window(const StageSpec& spec) {
#if defined(__AVX512VBMI__)
  if (spec.attrs.text_is("weight_dtype", "float32")) {
    if (words_are_faster<S, false, FloatWindows<S>>(spec)) return new SparseStage<S, PlaneWindows<S, false>>(spec);
  } else if (words_are_faster<S, true, Int8Windows<S>>(spec)) {
    return new SparseStage<S, PlaneWindows<S, true>>(spec);
  }
#endif
  if constexpr (kHasFloat32<S>)
    if (spec.attrs.text_is("weight_dtype", "float32")) return new SparseStage<S, FloatWindows<S>>(spec);
  return new SparseStage<S, Int8Windows<S>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "sparse_linear", "cpu_window", (rejects_float32<S, window_reject>), create_window<S>);
}

}  // namespace rta
