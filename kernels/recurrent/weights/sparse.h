// The sums of all gates of one vector of units from weights with zeros: what recurrent_dots.h does, from what is not
// zero.
//
// Every side of every tile is packed as whichever takes the fewest bytes: dense, as recurrent_dots.h packs it; windows,
// where a step holds up to 4 int8 entries, or two floats, of each row and picks what they multiply from a part of x in
// registers (byte_window.h); or blocks, the groups of neighboring inputs in which a gate of these units has a weight.
// The integers are those of the dense sums.
//
// One window serves all gates of a step: loads are what bounds them, and rows may run ahead of one another by a window.
// Up to 128 inputs, with VBMI, a side is one window, loaded once.
#pragma once

#include "_common/windows/byte_window.h"
#include "_common/windows/float_window.h"
#include "recurrent/weights/dots.h"
#include "recurrent/weights/tiles.h"

namespace rta {

enum class TileForm : int64_t { kDense, kWindows, kBlocks };

struct alignas(16) SparseSide {  // of 64 bytes where addresses have four, too
  TileForm form;
  union {
    const char* dense;
    TileWindows windows;
    TileBlocks blocks;
  };
};
static_assert(sizeof(SparseSide) == 64);

// What a window of a step takes against bytes that are only multiplied: permutations, and a start.
constexpr int64_t kWindowCost = 5, kDenseCost = 4;

// The rows of a tile in the dense matrix of a stage: gate g of unit `unit + lane` is row g * hidden + unit + lane.
template <int G, int kLanes>
static inline void tile_rows(const RecurrentMatrix& m, const char* w, int size, int64_t unit,
                             const char* (&rows)[G * kLanes]) {
  for (int g = 0; g < G; ++g)
    for (int lane = 0; lane < kLanes; ++lane)
      rows[g * kLanes + lane] = unit + lane < m.hidden ? w + (g * m.hidden + unit + lane) * m.k * size : nullptr;
}

// A side: compensation int32 [G][lanes], multiplier float32 [G][lanes], SparseSide.
template <class S, int G>
class SparseInt8Dot {
 public:
  using F = typename S::F;
  using I = typename S::I;
  using Element = uint8_t;
  static constexpr bool kQuantized = true, kPrepared = false, kPropagatesNan = true;
  static constexpr bool kApart = true;  // a side leads to what is packed elsewhere
  static constexpr int kBlocks = 1;
  static constexpr int kVectors = G;
  static constexpr int kRows = S::kRegisters == 32 ? 4 : 1;

  explicit SparseInt8Dot(const Attrs& attrs) : dense_(attrs) {}

  size_t side_bytes(int64_t) const { return 2 * kHead + sizeof(SparseSide); }

  void pack(const RecurrentMatrix& m, int64_t unit, char* to) const {
    const int8_t* w = m.attrs.int8s(recurrent_name(m.what, m.layer, m.direction), G * m.hidden * m.k);
    const float* multiplier = m.attrs.floats(recurrent_name(m.what, m.layer, m.direction, "_multiplier"), G * m.hidden);
    const char* rows[G * S::kLanes];
    tile_rows<G, S::kLanes>(m, reinterpret_cast<const char*>(w), 1, unit, rows);
    int32_t* compensation = reinterpret_cast<int32_t*>(to);
    float* factors = reinterpret_cast<float*>(to + kHead);
    for (int i = 0; i < G * S::kLanes; ++i) {
      if (!rows[i]) continue;
      int32_t sum = 0;
      for (int64_t k = 0; k < m.k; ++k) sum += static_cast<int8_t>(rows[i][k]);
      compensation[i] = -(S::kXOffset + m.zero_point) * sum;
      factors[i] = multiplier[(rows[i] - rows[0]) / m.k + unit];
    }
    const TileRows tile{rows, G, S::kLanes, m.k, 1};
    const int64_t dense = Int8Dot<S, G>::groups(m.k) * G * S::kWeightBytes * kDenseCost;
    const int64_t windows = count_tile_steps(tile, form(m.k)) * G * 2 * kStep * kWindowCost;
    const int64_t blocks = count_tile_blocks(tile, S::kGroup) * S::kWeightBytes * kDenseCost;
    SparseSide* side = reinterpret_cast<SparseSide*>(to + 2 * kHead);
    if (windows < dense && windows <= blocks) {
      side->form = TileForm::kWindows;
      side->windows = pack_tile_windows(tile, form(m.k), m.arena);
    } else if (blocks < dense) {
      side->form = TileForm::kBlocks;
      side->blocks = pack_tile_blocks(tile, S::kGroup, m.arena);
    } else {
      side->form = TileForm::kDense;
      char* at = static_cast<char*>(m.arena.take(dense_.side_bytes(m.k)));
      dense_.pack(m, unit, at);
      side->dense = at;
    }
  }

  template <int R>
  inline const char* sums(const char* stream, const char* const (&rows)[R], const float* scales, int64_t k,
                          F (&t)[R][G]) const {
    const SparseSide& side = *reinterpret_cast<const SparseSide*>(stream + 2 * kHead);
    const char* end = stream + 2 * kHead + sizeof(SparseSide);
    if (side.form == TileForm::kDense) {
      dense_.template sums<R>(side.dense, rows, scales, k, t);
      return end;
    }
    I acc[R][G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][g] = S::load_int(reinterpret_cast<const int32_t*>(stream) + g * S::kLanes);
    if (side.form == TileForm::kBlocks)
      blocks<R>(side.blocks, rows, acc);
    else if (Window::kTable && k <= Window::kWindow)
      windows<R, true>(side.windows, rows, k, acc);
    else
      windows<R, false>(side.windows, rows, k, acc);
    const float* multiplier = reinterpret_cast<const float*>(stream + kHead);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const F factor = S::load(multiplier + g * S::kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        t[r][g] = S::mul(S::to_float(acc[r][g]), scales ? S::mul(factor, S::set(scales[r])) : factor);
    }
    return end;
  }

 private:
  using Window = ByteWindow<S>;
  static constexpr int64_t kHead = G * S::kLanes * 4;
  static constexpr int64_t kStep = Bytes<S>::kBytes;  // bytes of the values of a vector in a step

  static int64_t readable(int64_t k) { return (k + 63) / 64 * 64; }
  static TileWindowForm form(int64_t k) {
    const int64_t most = k <= Window::kWindow ? Window::kWindow : readable(k);  // one window starts at 0
    return {4, S::kGroup, Window::kWindow, Window::kAlign, Window::kTable ? most : 0};
  }

  // kOne: the row of x is one window.
  template <int R, bool kOne>
  static inline void windows(const TileWindows& packed, const char* const (&rows)[R], int64_t k, I (&acc)[R][G]) {
    const int64_t limit = readable(k);
    const char* w = packed.stream;
    const auto at = [&](int r, int64_t start) {
      return Window(reinterpret_cast<const uint8_t*>(rows[r]) + start, limit);
    };
    const auto step = [&](int r, const Window& window) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        acc[r][g] = Bytes<S>::dot(acc[r][g], window.pick(Bytes<S>::load(w + g * 2 * kStep + kStep)),
                                  reinterpret_cast<const int8_t*>(w + g * 2 * kStep));
    };
    if constexpr (kOne && R == 1) {
      const Window whole = at(0, 0);
      for (int64_t s = 0; s < packed.steps; ++s, w += G * 2 * kStep) step(0, whole);
    } else {
      for (int64_t s = 0; s < packed.steps; ++s, w += G * 2 * kStep)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) step(r, at(r, kOne ? 0 : packed.starts[s]));
    }
  }

  template <int R>
  static inline void blocks(const TileBlocks& packed, const char* const (&rows)[R], I (&acc)[R][G]) {
    constexpr int C = R == 1 ? 4 : R == 2 ? 2 : 1;  // sums that do not wait for one another
    const char* w = packed.stream;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      I more[C][R];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) more[c][r] = c ? S::set_int(0) : acc[r][g];
      for (int32_t i = packed.ends[g]; i < packed.ends[g + 1]; i += 4, w += 4 * S::kWeightBytes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          const auto weight = S::load_w(reinterpret_cast<const int8_t*>(w + j * S::kWeightBytes));
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const uint8_t* x = reinterpret_cast<const uint8_t*>(rows[r]) + packed.offsets[i + j];
            more[j % C][r] = S::dot(more[j % C][r], S::broadcast_x(x), weight);
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        acc[r][g] = more[0][r];
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) acc[r][g] = S::add_int(acc[r][g], more[c][r]);
      }
    }
  }

  Int8Dot<S, G> dense_;
};

// A side: SparseSide. Rows of fewer numbers than a window has stay dense.
template <class S, int G>
class SparseFloat32Dot {
 public:
  using F = typename S::F;
  using Element = float;
  static constexpr bool kQuantized = false, kPrepared = false, kPropagatesNan = true;
  static constexpr bool kApart = true;  // a side leads to what is packed elsewhere
  static constexpr int kBlocks = 1;
  static constexpr int kVectors = G;
  static constexpr int kRows = S::kRegisters == 32 ? 2 : 1;

  explicit SparseFloat32Dot(const Attrs& attrs) : dense_(attrs) {}

  size_t side_bytes(int64_t) const { return sizeof(SparseSide); }

  void pack(const RecurrentMatrix& m, int64_t unit, char* to) const {
    const float* w = m.attrs.floats(recurrent_name(m.what, m.layer, m.direction), G * m.hidden * m.k);
    const char* rows[G * S::kLanes];
    tile_rows<G, S::kLanes>(m, reinterpret_cast<const char*>(w), 4, unit, rows);
    const TileRows tile{rows, G, S::kLanes, m.k, 4};
    const int64_t dense = m.k * G * kStep * kDenseCost;
    const int64_t pairs = (count_tile_steps(tile, form(m.k)) + 1) / 2;
    const int64_t windows = m.k < kReadable ? dense : pairs * G * 5 * kStep * kWindowCost;
    const int64_t blocks = count_tile_blocks(tile, 1) * kStep * kDenseCost;
    SparseSide* side = reinterpret_cast<SparseSide*>(to);
    if (windows < dense && windows <= blocks) {
      side->form = TileForm::kWindows;
      side->windows = pack_tile_windows(tile, form(m.k), m.arena);
    } else if (blocks < dense) {
      side->form = TileForm::kBlocks;
      side->blocks = pack_tile_blocks(tile, 1, m.arena);
    } else {
      side->form = TileForm::kDense;
      char* at = static_cast<char*>(m.arena.take(dense_.side_bytes(m.k)));
      dense_.pack(m, unit, at);
      side->dense = at;
    }
  }

  template <int R>
  inline const char* sums(const char* stream, const char* const (&rows)[R], const float*, int64_t k,
                          F (&t)[R][G]) const {
    const SparseSide& side = *reinterpret_cast<const SparseSide*>(stream);
    if (side.form == TileForm::kWindows)
      windows<R>(side.windows, rows, t);
    else if (side.form == TileForm::kBlocks)
      blocks<R>(side.blocks, rows, t);
    else
      dense_.template sums<R>(side.dense, rows, nullptr, k, t);
    return stream + sizeof(SparseSide);
  }

 private:
  using Window = FloatWindow<S>;
  static constexpr int64_t kStep = S::kLanes * 4;
  static constexpr int64_t kReadable = Window::kTable ? Window::kWindow : 1;

  static TileWindowForm form(int64_t k) { return {2, 1, Window::kWindow, Window::kAlign, Window::kTable ? k : 0}; }
  static F load(const char* values) { return S::load(reinterpret_cast<const float*>(values)); }

  template <int R>
  static inline void windows(const TileWindows& packed, const char* const (&rows)[R], F (&t)[R][G]) {
    F acc[R][G];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) acc[r][g] = S::set(0.0f);
    const char* w = packed.stream;
    for (int64_t s = 0; s < packed.steps; s += 2, w += G * 5 * kStep)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const float* x = reinterpret_cast<const float*>(rows[r]);
        const Window one(x + packed.starts[s]), two(x + packed.starts[s + 1]);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
          const char* at = w + g * 5 * kStep;
          const auto index = Window::load(at + 4 * kStep);
          acc[r][g] = S::mul_add(load(at), one.template pick<0>(index), acc[r][g]);
          acc[r][g] = S::mul_add(load(at + kStep), one.template pick<1>(index), acc[r][g]);
          acc[r][g] = S::mul_add(load(at + 2 * kStep), two.template pick<2>(index), acc[r][g]);
          acc[r][g] = S::mul_add(load(at + 3 * kStep), two.template pick<3>(index), acc[r][g]);
        }
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) t[r][g] = acc[r][g];
  }

  template <int R>
  static inline void blocks(const TileBlocks& packed, const char* const (&rows)[R], F (&t)[R][G]) {
    constexpr int C = R == 1 ? 4 : 2;
    const char* w = packed.stream;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      F acc[C][R];
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) acc[c][r] = S::set(0.0f);
      for (int32_t i = packed.ends[g]; i < packed.ends[g + 1]; i += 4, w += 4 * kStep)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j)
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const float* x = reinterpret_cast<const float*>(rows[r]) + packed.offsets[i + j];
            acc[j % C][r] = S::mul_add(load(w + j * kStep), S::set(*x), acc[j % C][r]);
          }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        t[r][g] = acc[0][r];
#pragma GCC unroll 4
        for (int c = 1; c < C; ++c) t[r][g] = S::add(t[r][g], acc[c][r]);
      }
    }
  }

  Float32Dot<S, G> dense_;
};

}  // namespace rta
