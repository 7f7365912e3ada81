// 2:4 sparse float32 weights: two values of every 4 neighboring k, and two bits for each that say which.
//
// A chunk is 32 columns: one register with the positions of the 16 values that each row has there, two bits a value,
// and 16 registers of values. 4 neighbors of x are in every 128 bits, and vpermilps picks among them by the low two
// bits of each lane, so that a value costs a shift, a permutation and a multiply-add. Sets without it load numbers one
// by one.
#pragma once

#include <utility>

#include "sparse_linear/tiles.h"

#if defined(__x86_64__) && defined(__AVX2__)
#include <immintrin.h>
#endif

namespace rta {

// Four neighbors of x, one of which each lane picks by the two bits of its positions from bit n on.
template <class S>
struct Four {
  using F = typename S::F;
#if defined(__AVX512F__)
  using Positions = __m512i;
  __m512 x;
  explicit Four(const float* at) : x(_mm512_broadcast_f32x4(_mm_loadu_ps(at))) {}
  static Positions load(const char* p) { return _mm512_loadu_si512(p); }
  template <int n>
  static Positions shifted(Positions p) {
    return n ? _mm512_srli_epi32(p, n) : p;
  }
  F pick(Positions p) const { return _mm512_permutevar_ps(x, p); }
#elif defined(__AVX2__)
  using Positions = __m256i;
  __m256 x;
  explicit Four(const float* at) : x(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(at))) {}
  static Positions load(const char* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  template <int n>
  static Positions shifted(Positions p) {
    return n ? _mm256_srli_epi32(p, n) : p;
  }
  F pick(Positions p) const { return _mm256_permutevar_ps(x, p); }
#else
  struct Positions {
    uint32_t at[S::kLanes];
  };
  const float* x;
  explicit Four(const float* at) : x(at) {}
  static Positions load(const char* p) {
    Positions positions;
    __builtin_memcpy(&positions, p, sizeof positions);
    return positions;
  }
  template <int n>
  static Positions shifted(Positions p) {
    for (uint32_t& position : p.at) position >>= n;
    return p;
  }
  F pick(const Positions& p) const {
    alignas(16) float picked[S::kLanes];
    for (int i = 0; i < S::kLanes; ++i) picked[i] = x[p.at[i] & 3];
    return S::load(picked);
  }
#endif
};

template <class S>
class SemiFloats {
 public:
  static constexpr bool kInt8 = false, kPrepared = false;
  static constexpr int kTogether = 1;
  using Sum = typename S::F;
  template <int R>
  struct Rows : RowsAt<char> {
    using RowsAt<char>::RowsAt;
  };

  SemiFloats(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    packed_ = pack_semi_floats(spec, rows, S::kLanes);
    whole_ = rows.k / kSemiChunk;
    rest_ = rows.k % kSemiChunk;
    chunks_ = whole_ + (rest_ != 0);
    vectors_ = (rows.n + S::kLanes - 1) / S::kLanes;
    read_numbers<S>(layer, spec, rows);
  }
  int64_t steps() const { return vectors_ * chunks_ * 8; }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool, Sum (&out)[1][R]) const {
    constexpr int C = chains<R>();
    Sum acc[C][R];
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[c][r] = S::set(0.0f);
    if (vector < vectors_) {
      const char* w = packed_ + vector * chunks_ * kBytes;
      for (int64_t i = 0; i < whole_; ++i, w += kBytes)
        chunk<R, C>(w, rows.x + i * kSemiChunk * 4, rows.pitch, acc, std::make_integer_sequence<int, 8>());
      if (rest_) {  // a row ends with its numbers
        alignas(64) float x[R][kSemiChunk] = {};
        for (int r = 0; r < R; ++r)
          __builtin_memcpy(x[r], rows.x + r * rows.pitch + whole_ * kSemiChunk * 4, static_cast<size_t>(rest_) * 4);
        chunk<R, C>(w, reinterpret_cast<const char*>(x), sizeof x[0], acc, std::make_integer_sequence<int, 8>());
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      out[0][r] = acc[0][r];
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) out[0][r] = S::add(out[0][r], acc[c][r]);
    }
  }

  template <int R>
  void arrange(int64_t, Sum (&)[R][kTile]) const {}

 private:
  static constexpr int64_t kVector = S::kLanes * 4, kBytes = (1 + kSemiChunk / 2) * kVector;

  template <int R, int C, int... group>
  static inline __attribute__((always_inline)) void chunk(const char* w, const char* x, int64_t pitch, Sum (&acc)[C][R],
                                                          std::integer_sequence<int, group...>) {
    const auto positions = Four<S>::load(w);
    const auto value = [&](int i) { return S::load(reinterpret_cast<const float*>(w + (1 + i) * kVector)); };
    const auto four = [&]<int g>(std::integral_constant<int, g>) __attribute__((always_inline)) {
      const auto first = Four<S>::template shifted<4 * g>(positions);
      const auto second = Four<S>::template shifted<4 * g + 2>(positions);
      const Sum v = value(2 * g), w2 = value(2 * g + 1);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Four<S> at(reinterpret_cast<const float*>(x + r * pitch) + 4 * g);
        Sum &a = acc[2 * g % C][r], &b = acc[(2 * g + 1) % C][r];
        a = S::mul_add(v, at.pick(first), a);
        b = S::mul_add(w2, at.pick(second), b);
      }
    };
    (four(std::integral_constant<int, group>()), ...);
  }

  const char* packed_;
  int64_t whole_, rest_, chunks_, vectors_;
};

}  // namespace rta
