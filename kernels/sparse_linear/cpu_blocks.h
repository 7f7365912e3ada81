// Block-sparse weights on the CPU, written once over S: for each vector of outputs, the groups of neighboring k in
// which any of its weights is kept, as one stream of weights and one of offsets into x.
//
// A step broadcasts the group of x at its offset and multiplies it into one of 4 sums, or takes four groups that follow
// one another (blocks four groups wide), of which it loads x once. Blocks as tall as a vector (or its multiple) leave
// no zero in the stream, whatever their width; of smaller ones, and of any pattern, the stream holds what their rows
// have between them. Blocks need not divide the layer.
//
// Dot products: int8, permute
//
// Floor, 1 x 1024 x 1024 int8, 16 x 16 blocks at 80 %: 210 KB at the bandwidth of the second-level cache, less what the
// first level keeps of them.
#pragma once

#include "sparse_linear/tiles.h"

namespace rta {

#if defined(__AVX512F__)
// The four words of 32 bits at x, each in all lanes: one load instead of four, and loads are what bounds blocks.
static inline __attribute__((always_inline)) void four_words(const char* x, __m512i (&words)[4]) {
  __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  asm("" : "+v"(all));  // or the compiler makes four loads of it
  words[0] = _mm512_shuffle_epi32(all, _MM_PERM_AAAA);
  words[1] = _mm512_shuffle_epi32(all, _MM_PERM_BBBB);
  words[2] = _mm512_shuffle_epi32(all, _MM_PERM_CCCC);
  words[3] = _mm512_shuffle_epi32(all, _MM_PERM_DDDD);
}
#endif

template <class S, bool Int8>
struct BlockParams;

template <class S>
struct BlockParams<S, true> {
  using Sum = typename S::I;
  static constexpr int kGroup = S::kGroup, kStep = S::kWeightBytes;
  static Sum zero() { return S::set_int(0); }
  static Sum add(Sum a, Sum b) { return S::add_int(a, b); }
  using X = typename S::X;
  static X one(const char* x) { return S::broadcast_x(reinterpret_cast<const uint8_t*>(x)); }
  static void four(const char* x, X (&to)[4]) {
#if defined(__AVX512F__)
    if constexpr (S::kGroup == 4) return four_words(x, to);
#endif
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) to[i] = one(x + i * kGroup);
  }
  static Sum multiply(Sum acc, X x, const char* w) {
    return S::dot(acc, x, S::load_w(reinterpret_cast<const int8_t*>(w)));
  }
};

template <class S>
struct BlockParams<S, false> {
  using Sum = typename S::F;
  static constexpr int kGroup = 1, kStep = S::kLanes * static_cast<int>(sizeof(float));
  static Sum zero() { return S::set(0.0f); }
  static Sum add(Sum a, Sum b) { return S::add(a, b); }
  using X = Sum;
  static X one(const char* x) { return S::set(*reinterpret_cast<const float*>(x)); }
  static void four(const char* x, X (&to)[4]) {
#if defined(__AVX512F__)
    __m512i words[4];
    four_words(x, words);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) to[i] = _mm512_castsi512_ps(words[i]);
#else
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) to[i] = one(x + 4 * i);
#endif
  }
  static Sum multiply(Sum acc, X x, const char* w) {
    return S::mul_add(S::load(reinterpret_cast<const float*>(w)), x, acc);
  }
};

template <class S, bool Int8>
class Blocks {
  using Params = BlockParams<S, Int8>;

 public:
  static constexpr bool kInt8 = Int8, kPrepared = false;
  using Sum = typename Params::Sum;
  static constexpr int kTogether = 1;  // vectors that are summed at a time
  template <int R>
  struct Rows : RowsAt<char> {
    using RowsAt<char>::RowsAt;
  };

  Blocks(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    packed_ = pack_groups(spec, rows, S::kLanes, Params::kGroup);
    vectors_ = (rows.n + kTile * S::kLanes - 1) / (kTile * S::kLanes) * kTile;
    read_numbers<S>(layer, spec, rows);
  }
  int64_t steps() const { return packed_.ends[vectors_] * (packed_.fours ? 4 : 1); }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool back,
                                                  Sum (&out)[1][R]) const {
    constexpr int C = chains<R>();
    Sum acc[C][R];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[c][r] = Params::zero();
    if (packed_.fours)
      fours<R>(vector, rows, Int8 && back, acc);
    else
      groups<R>(vector, rows, acc);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      out[0][r] = acc[0][r];
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) out[0][r] = Params::add(out[0][r], acc[c][r]);
    }
  }

  template <int R>
  void arrange(int64_t, Sum (&)[R][kTile]) const {}

 private:
  static constexpr int kBytes = Int8 ? 1 : 4;

  template <int R>
  inline __attribute__((always_inline)) void groups(int64_t vector, const Rows<R>& rows,
                                                    Sum (&acc)[chains<R>()][R]) const {
    constexpr int C = chains<R>();
    const uint16_t *offset = packed_.offsets + packed_.ends[vector], *end = packed_.offsets + packed_.ends[vector + 1];
    const char* w = packed_.values + packed_.ends[vector] * Params::kStep;
    const auto step = [&](int c, int i) __attribute__((always_inline)) {
      const char* x = rows.x + int64_t{offset[i]} * kBytes;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
        acc[c][r] = Params::multiply(acc[c][r], Params::one(x + r * rows.pitch), w + i * Params::kStep);
    };
    for (; offset + C <= end; offset += C, w += C * Params::kStep) {
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) step(c, c);
    }
    for (; offset < end; ++offset, w += Params::kStep) step(0, 0);
  }

  // back: from the last to the first. Integers are the same, and what the call before read last is still near.
  template <int R>
  inline __attribute__((always_inline)) void fours(int64_t vector, const Rows<R>& rows, bool back,
                                                   Sum (&acc)[chains<R>()][R]) const {
    constexpr int64_t kStep = 4 * Params::kStep;
    const int64_t first = packed_.ends[vector], end = packed_.ends[vector + 1], by = back ? -1 : 1;
    const int64_t at = back ? end - 1 : first;
    const uint16_t* offset = packed_.offsets + at;
    const char* w = packed_.values + at * kStep;
    for (int64_t left = end - first; left > 0; --left, offset += by, w += by * kStep) {
      const char* x = rows.x + int64_t{*offset} * kBytes;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        typename Params::X words[4];
        Params::four(x + r * rows.pitch, words);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          Sum& sum = acc[i % chains<R>()][r];
          sum = Params::multiply(sum, words[i], w + i * Params::kStep);
        }
      }
    }
  }

  Groups packed_;
  int64_t vectors_;
};

static const char* blocks_reject(const Attrs& attrs) {
  return sparse_reject(attrs, "blocks", "packs blocks, and this weight is packed otherwise");
}

template <class S>
static Stage* create_blocks(const StageSpec& spec) {
  if constexpr (kHasFloat32<S>)
    if (spec.attrs.text_is("weight_dtype", "float32")) return new SparseStage<S, Blocks<S, false>>(spec);
  return new SparseStage<S, Blocks<S, true>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "sparse_linear", "cpu_blocks", (rejects_float32<S, blocks_reject>), create_blocks<S>);
}

}  // namespace rta
