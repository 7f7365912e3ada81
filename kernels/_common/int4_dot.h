// Dot products of int4 weights in groups along k with int8 activations, over the vectors S: for linear layers and for
// the gates of recurrent ones.
//
// acc[row] = sum over groups g, in this order, of fma(float(D_g), scale_g, acc),  D_g = sum over k of w * x, int32
// exact.
//
// The weights of a byte are unsigned, w + 8, so D_g starts from -8 * sum of the group's x (`GroupRows::start`).
// With the unsigned-by-signed byte product of VNNI a byte is used twice: as it is, which gives low + 16 * high, and
// with the upper nibble masked, which gives low. One subtraction a group then leaves 16 * high, and the 16 is in the
// scale. Per 64 bytes of weights that is one load, one mask, two dot products.
#pragma once

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "_common/int4_pack.h"
#include "_simd/lanes.h"

namespace rta {

// Rows of activations as the dot products read them. x is signed and has zeros up to a multiple of 4; start holds
// {-8, -136} * sum of x over each group. Planes of one row lie one after the other.
struct GroupRows {
  const int8_t* x;
  int64_t x_pitch;
  const int32_t* start;
  int64_t start_pitch;  // in int32
};

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

template <class S>
struct PairSum {
  using I = typename S::I;
  static constexpr float kSecondScale = 1.0f / 16;
  I low, whole;

  void begin(const int32_t* start) {
    low = S::set_int(start[0]);
    whole = S::set_int(start[1]);
  }
  struct Weights {
    I whole, low;
  };
  static Weights load(const uint8_t* w, I nibbles) {
    const I bytes = Bits<S>::pinned(Bits<S>::load(w));  // two loads of it cost 15 %
    return {bytes, Bits<S>::both(bytes, nibbles)};
  }
  void add(const Weights& w, I x) {
    whole = S::dot(whole, w.whole, x);
    low = S::dot(low, w.low, x);
  }
  void flush() {}
  I first() const { return low; }
  I second() const { return Bits<S>::sub(whole, low); }
};

#elif defined(__AVX2__)

// Without it: products of bytes are added in pairs to 16 bits, 8 of them before they could overflow (15 * 128 * 2 * 8).
template <class S>
struct PairSum {
  using I = typename S::I;
  static constexpr float kSecondScale = 1.0f;
  I low, high, low16, high16;

#ifdef __AVX512BW__
  static I multiply(I w, I x) { return _mm512_maddubs_epi16(w, x); }
  static I add16(I a, I b) { return _mm512_add_epi16(a, b); }
  static I widen(I a) { return _mm512_madd_epi16(a, _mm512_set1_epi16(1)); }
#else
  static I multiply(I w, I x) { return _mm256_maddubs_epi16(w, x); }
  static I add16(I a, I b) { return _mm256_add_epi16(a, b); }
  static I widen(I a) { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }
#endif
  void begin(const int32_t* start) {
    low = high = S::set_int(start[0]);
    low16 = high16 = S::set_int(0);
  }
  struct Weights {
    I low, high;
  };
  static Weights load(const uint8_t* w, I nibbles) {
    const I bytes = Bits<S>::pinned(Bits<S>::load(w));
    return {Bits<S>::both(bytes, nibbles), Bits<S>::both(Bits<S>::right(bytes, 4), nibbles)};
  }
  void add(const Weights& w, I x) {
    low16 = add16(low16, multiply(w.low, x));
    high16 = add16(high16, multiply(w.high, x));
  }
  void flush() {
    low = S::add_int(low, widen(low16));
    high = S::add_int(high, widen(high16));
    low16 = high16 = S::set_int(0);
  }
  I first() const { return low; }
  I second() const { return high; }
};

#else

template <class S>
struct PairSum {
  using I = typename S::I;
  using Words = typename Bits<S>::Words;
  static constexpr float kSecondScale = 1.0f;
  Words low, high;

  void begin(const int32_t* start) { low = high = (Words)S::set_int(start[0]); }
  struct Weights {
    I bytes;
  };
  static Weights load(const uint8_t* w, I) { return {Bits<S>::load(w)}; }
  void add(const Weights& w, I x) {
    const Words word = (Words)x;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Words factor = (word << (24 - 8 * j)) >> 24;
      low += (Words)Bits<S>::both(Bits<S>::right(w.bytes, 8 * j), 15) * factor;
      high += (Words)Bits<S>::both(Bits<S>::right(w.bytes, 8 * j + 4), 15) * factor;
    }
  }
  void flush() {}
  I first() const { return (I)low; }
  I second() const { return (I)high; }
};

#endif

// Adds the products of R rows of activations with P of the Q pairs of a tile, over all k, to acc [row][vector].
// Planes = 2: a row is two planes of x, 256 * first + second. w: the tile's stream, at the first of the P pairs.
template <class S, int R, int P, int Q, int Planes = 1>
static inline __attribute__((always_inline)) void int4_dot(const uint8_t* w, const GroupRows& in, int64_t k,
                                                           int64_t group, typename S::F (&acc)[R][2 * P]) {
  using I = typename S::I;
  using F = typename S::F;
  constexpr int kBytes = S::kLanes * 4;
  const I nibbles = Bits<S>::pinned(S::set_int(0x0f0f0f0f));
  const I upper = Bits<S>::pinned(S::set_int(static_cast<int32_t>(0xffff0000)));
  const int8_t* x = in.x;
  const int32_t* start = in.start;
#pragma GCC unroll 1
  for (int64_t left = k; left > 0; left -= group, start += 2) {
    int64_t steps = ((left < group ? left : group) + 3) / 4;
    PairSum<S> sum[R][Planes][P];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int plane = 0; plane < Planes; ++plane)
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) sum[r][plane][p].begin(start + (r * Planes + plane) * in.start_pitch);
    const auto step = [&]() __attribute__((always_inline)) {
      typename PairSum<S>::Weights weights[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) weights[p] = PairSum<S>::load(w + p * kBytes, nibbles);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int plane = 0; plane < Planes; ++plane) {
          int32_t word;
          __builtin_memcpy(&word, x + (r * Planes + plane) * in.x_pitch, 4);
          const I broadcast = S::set_int(word);
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) sum[r][plane][p].add(weights[p], broadcast);
        }
      w += Q * kBytes;
      x += 4;
    };
    const auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int plane = 0; plane < Planes; ++plane)
#pragma GCC unroll 4
          for (int p = 0; p < P; ++p) sum[r][plane][p].flush();
    };
    // Few sums take 8 steps in one piece, as their loop would cost. Many do not feel it: theirs is there once. Four are
    // between the two: in one piece they have too few registers, and with one loop 9 % more time (GCC 12, AVX-512).
    constexpr int kSums = R * Planes * P;
    if constexpr (kSums > 4) {
#pragma GCC unroll 1
      while (steps > 0) {
#pragma GCC unroll 1
        for (int64_t now = steps < 8 ? steps : 8; now > 0; --now) step();
        flush();
        steps -= 8;
      }
    } else {
#pragma GCC unroll 1
      for (; steps >= 8; steps -= 8) {
        if constexpr (kSums == 4) {
#pragma GCC unroll 1
          for (int i = 0; i < 8; ++i) step();
        } else {
#pragma GCC unroll 8
          for (int i = 0; i < 8; ++i) step();
        }
        flush();
      }
      if (steps) {
#pragma GCC unroll 1
        for (; steps; --steps) step();
        flush();
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      const I words = Bits<S>::pinned(Bits<S>::load(w + p * kBytes));
      const F first = Bits<S>::low_bf16(words), second = Bits<S>::high_bf16(words, upper);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        I low = sum[r][0][p].first(), high = sum[r][0][p].second();
        if constexpr (Planes == 2) {
          low = S::add_int(Bits<S>::left(low, 8), sum[r][1][p].first());
          high = S::add_int(Bits<S>::left(high, 8), sum[r][1][p].second());
        }
        acc[r][2 * p] = S::fma(S::to_float(low), first, acc[r][2 * p]);
        acc[r][2 * p + 1] = S::fma(S::to_float(high), second, acc[r][2 * p + 1]);
      }
    }
    w += Q * kBytes;
  }
}

// x8 [k] signed and the starts of its groups, from u = x + 128 [k] as values lie between stages.
template <class S>
static inline void group_rows(const uint8_t* u, int64_t k, int64_t group, int8_t* x8, int32_t* start) {
  int64_t i = 0;
  for (; i + S::kLanes * 4 <= k; i += S::kLanes * 4)
    Bits<S>::store(x8 + i, Bits<S>::flip(Bits<S>::load(u + i), static_cast<int32_t>(0x80808080)));
  for (; i < k; ++i) x8[i] = static_cast<int8_t>(u[i] ^ 0x80);
  for (; i % 4; ++i) x8[i] = 0;
  for (int64_t first = 0; first < k; first += group, start += 2) {
    const int64_t length = k - first < group ? k - first : group;
    int32_t sum = 0;
    int64_t j = 0;
#ifdef __AVX2__
    __m256i sums = _mm256_setzero_si256();
    for (; j + 32 <= length; j += 32)
      sums = _mm256_add_epi64(sums, _mm256_sad_epu8(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(u + first + j)),
                                                    _mm256_setzero_si256()));
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    sum = _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_unpackhi_epi64(half, half)));
#endif
    for (; j < length; ++j) sum += u[first + j];
    start[0] = -8 * (sum - 128 * static_cast<int32_t>(length));
    start[1] = 17 * start[0];
  }
}

}  // namespace rta
