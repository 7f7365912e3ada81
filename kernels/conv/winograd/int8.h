// int8 convolutions of 3 x 3 with stride 1 by Winograd's F(2 x 2, 3 x 3), and of 3 x 1 and 1 x 3 by F(2, 3), exact,
// where a dot product takes 16 bits for each activation anyway: 16 products for 4 outputs instead of 36, and 4 instead
// of 6.
//
// Inputs d = q - zero_point of [-255, 255] transform to [-1020, 1020], and weights times 4 to [-1143, 1143]: both fit
// 16 bits. Sums come out times 4, and 4 * 9 C * 255 * 128 < 2^31 (suits_winograd: C <= 1800); what lies between may
// wrap. Along one axis all of these are smaller, and the factor is 2.
//     V[point][tile][channel]   int16, inputs transformed, 16 channels at a time, straight from x
//     P[point][tile][column]    = V[point] * U[point], int32
//     y                         P transformed back, divided by the factor, and the end of every int8 convolution
// The weights U are packed as [64 columns][point][panel of 2 vectors][pair of channels][vector][lane][2], int16.
//
// Floor: 16 / 36 or 4 / 6 of the multiply-adds of a sum of products, and about 1 cycle a vector of V and P.
#pragma once

#include "_common/checks.h"
#include "conv/epilogue.h"
#include "conv/share.h"
#include "conv/winograd/tiles.h"
#include "conv/winograd/transform.h"

namespace rta {

template <class S>
constexpr bool kWinogradInt8 = S::kWidens && S::kRegisters == 16;

// The products of a point, whatever the tiles are.
template <class S>
class WinogradInt8Products {
  using I = typename S::I;
  static constexpr int kLanes = S::kLanes, kWide = 2 * kLanes;

 public:
  template <int V>
  __attribute__((noinline)) void panel(const uint16_t* v, const int16_t* u, int32_t* to, int64_t tiles) const {
    over_tiles(tiles, [=, this](auto rows, int64_t t) __attribute__((always_inline)) {
      product<decltype(rows)::value, V>(v + t * v_pitch_, u, to + t * p_pitch_);
    });
  }

  template <int R, int V>
  inline __attribute__((always_inline)) void product(const uint16_t* v, const int16_t* u, int32_t* to) const {
    I sum[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int i = 0; i < V; ++i) sum[r][i] = S::set_int(0);
    const int64_t pitch = v_pitch_;
    for (int64_t g = pairs_; g > 0; --g, v += 2, u += V * kWide) {
      typename S::W weight[V];
#pragma GCC unroll 2
      for (int i = 0; i < V; ++i) weight[i] = S::load_int(reinterpret_cast<const int32_t*>(u + i * kWide));
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const typename S::X in = S::broadcast_wide(v + r * pitch);
#pragma GCC unroll 2
        for (int i = 0; i < V; ++i) sum[r][i] = S::dot_wide(sum[r][i], in, weight[i]);
      }
    }
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int i = 0; i < V; ++i) S::store_int(to + r * p_pitch_ + i * kLanes, sum[r][i]);
  }

  int64_t pairs_, v_pitch_, p_pitch_;  // pitches in numbers
};

template <class S, class Tiles>
class WinogradInt8Stage final : public Stage, private WinogradInt8Products<S> {
  using Products = WinogradInt8Products<S>;
  using Products::p_pitch_, Products::pairs_, Products::v_pitch_;
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int m = Tiles::kRight, kDown = Tiles::kDown, kLanes = S::kLanes, kWide = 2 * kLanes;
  static constexpr bool kSquare = kDown > 1;
  static constexpr int kIn = m + 2, kInDown = kSquare ? kIn : 1, kPoints = kInDown * kIn, kTaps = kSquare ? 9 : 3;
  static constexpr int kPanel = 2, kRows = kWinogradRows;
  static constexpr int64_t kColumns = 64;            // outputs that go through P together
  static constexpr int64_t kBlockBytes = 192 << 10;  // of V and P together, about
  static constexpr int64_t kMostTiles = 96;

 public:
  explicit WinogradInt8Stage(const StageSpec& spec) : p_(read_layer(spec, 1, kLanes, 0)) {
    vectors_ = (p_.n + kLanes - 1) / kLanes;
    pairs_ = (p_.c + 1) / 2;
    const int64_t columns = vectors_ * kLanes < kColumns ? vectors_ * kLanes : kColumns;
    v_pitch_ = (p_.c + 31) / 32 * 32 + 32;  // no power of two: neighbors would share sets of the cache
    p_pitch_ = (columns + 15) / 16 * 16 + 16;
    const size_t row = static_cast<size_t>(p_.c + kWide);
    tiles_ = {p_.at, p_.x_step, __builtin_memset(spec.arena->take(row), p_.x_zero, row)};
    const int64_t count = tiles_.count(), fit = kBlockBytes / (kPoints * (2 * v_pitch_ + 4 * p_pitch_)) / kRows;
    const int64_t most = fit < 1 ? kRows : fit * kRows < kMostTiles ? fit * kRows : kMostTiles;
    const int64_t blocks = (count + most - 1) / most, each = (count + blocks - 1) / blocks;
    block_ = (each + kRows - 1) / kRows * kRows;
    v_stride_ = odd_lines(block_ * v_pitch_ / 32) * 32;
    p_stride_ = odd_lines(block_ * p_pitch_ / 16) * 16;
    pack(spec, spec.attrs.int8s("weight", p_.n * p_.c * kTaps));
    spec.need_scratch(static_cast<size_t>(kPoints * (2 * v_stride_ + 4 * p_stride_)));
  }

  // As of float32.
  int parts(int64_t) const override { return static_cast<int>(std::max(groups(), tiles_.count() / kRows)); }
  int64_t cost_ns(int64_t samples) const override {
    return samples * products_ns<S>(tiles_.count() * kPoints * p_.c * p_.n / 2, false);
  }

  void run(const Run& run) const override {
    uint16_t* v = reinterpret_cast<uint16_t*>(run.scratch);
    int32_t* products = reinterpret_cast<int32_t*>(v + kPoints * v_stride_);
    const int64_t count = tiles_.count(), columns = vectors_ * kLanes;
    const bool by_columns = count < run.parts * 2 * kRows && run.parts <= groups();
    const Span mine = part_of(count, kRows, by_columns ? 0 : run.part, by_columns ? 1 : run.parts);
    const Span wide = part_of(columns, kColumns, by_columns ? run.part : 0, by_columns ? run.parts : 1);
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = p_.x.row(run, s * p_.x.steps);
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      for (int64_t first = mine.begin; first < mine.end; first += block_) {
        const int64_t tiles = mine.end - first < block_ ? mine.end - first : block_;
        for (int64_t t = 0; t < tiles; ++t) transform(x, first + t, v + t * v_pitch_);
        for (int64_t column = wide.begin; column < wide.end; column += kColumns) {
          const int64_t left = columns - column, width = left < kColumns ? left : kColumns;
          multiply(v, weights_ + column * kPoints * pairs_ * 2, products, tiles, width / kLanes);
          for (int64_t t = 0; t < tiles; ++t) {
            const WinogradOutputs made = tiles_.outputs(first + t);
            int64_t at = 0;
            for (; at + 2 * kLanes <= width; at += 2 * kLanes)
              finish<2>(products + t * p_pitch_ + at, made, column + at, y, other);
            if (at < width) finish<1>(products + t * p_pitch_ + at, made, column + at, y, other);
          }
        }
      }
    }
  }

 private:
  int64_t groups() const { return (vectors_ * kLanes + kColumns - 1) / kColumns; }

  // An odd number of cache lines, so that the points of a tile fall into different sets.
  static int64_t odd_lines(int64_t lines) { return lines % 2 ? lines : lines + 1; }

  void transform(const char* x, int64_t tile, uint16_t* v) const {
    const uint8_t* at[kPoints];
    tiles_.window(x, tile, at);
    const typename S::H zero = S::set_16(static_cast<int16_t>(p_.x_zero));
    // Rows end in padding; what lies there meets weights of 0.
    for (int64_t c = 0; c < p_.c; c += kWide, v += kWide) {
      typename S::H half[kIn][kIn];
      if constexpr (!kSquare) {
        typename S::H d[kIn], t[kIn];
#pragma GCC unroll 4
        for (int i = 0; i < kIn; ++i) d[i] = S::load_u8_16(at[i] + c);
        WinogradTransform<m>::template input<Words>(d, t);
        t[1] = S::sub_16(t[1], S::add_16(zero, zero));
#pragma GCC unroll 4
        for (int i = 0; i < kIn; ++i) S::store_16(v + i * v_stride_, t[i]);
        continue;
      }
#pragma GCC unroll 4
      for (int j = 0; j < kIn; ++j) {
        typename S::H d[kIn], t[kIn];
#pragma GCC unroll 4
        for (int i = 0; i < kIn; ++i) d[i] = S::load_u8_16(at[i * kIn + j] + c);
        WinogradTransform<m>::template input<Words>(d, t);
        t[1] = S::sub_16(t[1], S::add_16(zero, zero));  // the one sum among differences
#pragma GCC unroll 4
        for (int i = 0; i < kIn; ++i) half[i][j] = t[i];
      }
#pragma GCC unroll 4
      for (int i = 0; i < kIn; ++i) {
        typename S::H t[kIn];
        WinogradTransform<m>::template input<Words>(half[i], t);
#pragma GCC unroll 4
        for (int j = 0; j < kIn; ++j) S::store_16(v + (i * kIn + j) * v_stride_, t[j]);
      }
    }
  }

  // Rows of V beyond the last tile of a block may be read: what comes of them is not.
  void multiply(const uint16_t* v, const int16_t* u, int32_t* products, int64_t tiles, int64_t vectors) const {
    for (int point = 0; point < kPoints; ++point)
      for (int64_t first = 0; first < vectors; first += kPanel) {
        const uint16_t* from = v + point * v_stride_;
        int32_t* to = products + point * p_stride_ + first * kLanes;
        const int64_t now = vectors - first < kPanel ? vectors - first : kPanel;
        now == kPanel ? Products::template panel<kPanel>(from, u, to, tiles)
                      : Products::template panel<1>(from, u, to, tiles);
        u += now * kLanes * pairs_ * 2;
      }
  }

  // V vectors of columns of a tile: back to outputs, and out.
  template <int V>
  inline __attribute__((always_inline)) void finish(const int32_t* products, const WinogradOutputs& made,
                                                    int64_t column, char* y, const char* other) const {
    I out[kDown][m][1][V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      I half[kInDown][m];
#pragma GCC unroll 4
      for (int i = 0; i < kInDown; ++i) {
        I p[kIn];
#pragma GCC unroll 4
        for (int j = 0; j < kIn; ++j) p[j] = S::load_int(products + (i * kIn + j) * p_stride_ + v * kLanes);
        WinogradTransform<m>::template output<Ints>(p, half[i]);
      }
#pragma GCC unroll 2
      for (int j = 0; j < m; ++j) {
        if constexpr (!kSquare) {
          out[0][j][0][v] = S::template shift_right<1>(half[0][j]);
        } else {
          I p[kIn], t[m];
#pragma GCC unroll 4
          for (int i = 0; i < kIn; ++i) p[i] = half[i][j];
          WinogradTransform<m>::template output<Ints>(p, t);
#pragma GCC unroll 2
          for (int i = 0; i < m; ++i) out[i][j][0][v] = S::template shift_right<2>(t[i]);
        }
      }
    }
    for (int64_t i = 0; i < made.rows; ++i)
      for (int64_t j = 0; j < made.columns; ++j) {
        const int64_t position = made.position + i * made.down + j * made.right;
        char* to = y + position * p_.y.pitch;
        const ConvTarget at{to, other ? other + position * p_.other.pitch : nullptr, column, p_.n - column, true};
        int8_outputs<S, 1, V>(p_, out[i][j], column, 1.0f, at);
      }
  }

  struct Words {  // what the transforms of inputs ask for
    static typename S::H add(typename S::H a, typename S::H b) { return S::add_16(a, b); }
    static typename S::H sub(typename S::H a, typename S::H b) { return S::sub_16(a, b); }
  };
  struct Ints {
    static I add(I a, I b) { return S::add_int(a, b); }
    static I sub(I a, I b) { return S::sub_int(a, b); }
  };

  void pack(const StageSpec& spec, const int8_t* given) {
    const int64_t columns = vectors_ * kLanes;
    int16_t* to = static_cast<int16_t*>(spec.weights(static_cast<size_t>(columns * pairs_ * kPoints) * 4));
    weights_ = to;
    if (!spec.packs()) return;
    for (int64_t column = 0; column < p_.n; ++column) {
      const int64_t start = column / kColumns * kColumns, first = (column - start) / kWide * kWide;
      const int64_t width = columns - start < kColumns ? columns - start : kColumns;
      const int64_t now = width - first < kWide ? width - first : kWide, i = column - start - first;
      for (int64_t c = 0; c < p_.c; ++c) {
        const int8_t* w = given + (column * p_.c + c) * kTaps;
        int16_t* u = to + ((start * kPoints + first) * pairs_ + c / 2 * now + i) * 2 + c % 2;
        for (int a = 0; a < kInDown; ++a)
          for (int b = 0; b < kIn; ++b) u[(a * kIn + b) * width * pairs_ * 2] = transformed(w, a, b);
      }
    }
  }

  static int16_t transformed(const int8_t* w, int a, int b) {
    double sum = 0;  // exact: whole numbers, and halves or quarters of them
    for (int i = 0; i < kTaps / 3; ++i)
      for (int j = 0; j < 3; ++j)
        sum += (kSquare ? winograd_weight<m>(a, i) : 1.0) * winograd_weight<m>(b, j) * w[i * 3 + j];
    return static_cast<int16_t>((kSquare ? 4 : 2) * sum);
  }

  ConvLayer p_;
  Tiles tiles_;
  int64_t vectors_, block_, v_stride_, p_stride_;  // strides in numbers
  const int16_t* weights_;
};

}  // namespace rta
