// The second product of attention: y from the exponentials of the scores and the values, times 1 / their sum.
//
// Either the lanes are columns, a broadcast exponential for each query and key, or they stay queries, where a head has
// too few columns to fill a vector. Sums are in the order of the keys in both, so y has the same bits.
#pragma once

#include "_common/long_sums.h"
#include "_simd/transpose.h"

namespace rta {

// A head's part of a block of queries.
struct AttentionHead {
  int keys;       // that any query of the block sees
  int64_t first;  // the block's first query
  int rows;       // its queries
  int columns;    // head_dim
  bool causal;
  const float* queries;  // [head_dim][lanes of the block]
  float* scores;         // [keys][lanes of the block]
  const char *k, *v;     // first key
  int64_t v_pitch;
  const float* every;   // mask [keys] for all queries alike, or nullptr
  const float* masked;  // mask [keys][lanes of the block], or nullptr
  float* inverse;       // 1 / sum of the exps, by query
  char* y;              // result of the first query, whole vectors of columns
  int64_t y_pitch;
};

template <class S>
class Weigh {
 public:
  // padded: columns of y in whole vectors.
  template <int V>
  static void all(const AttentionHead& p, int padded) {
    if (!p.causal && p.columns <= S::kLanes && p.columns * V <= p.rows) return weigh_turned<V>(p);
    for (int c = 0; c < padded; c += kColumns * S::kLanes) {
      switch ((padded - c) / S::kLanes) {
        case 1: weigh<1, V>(p, c); break;
        case 2: weigh<2 < kColumns ? 2 : kColumns, V>(p, c); break;
        case 3: weigh<3 < kColumns ? 3 : kColumns, V>(p, c); break;
        default: weigh<kColumns, V>(p, c);
      }
    }
  }

 private:
  using F = typename S::F;
  static constexpr int kColumns = S::kRegisters >= 32 ? 4 : 2;  // vectors of v at once

  // C vectors of columns from c on, for every query of the block.
  template <int C, int V>
  static void weigh(const AttentionHead& p, int c) {
    constexpr int rows = S::kLanes >= 8 && C <= 2 ? 8 : 4;
    if (p.rows == 1) {
      weigh_tile<1, C, V>(p, 0, c);
      return;
    }
    for (int t = 0; t < p.rows; t += rows) weigh_tile<rows, C, V>(p, t, c);
  }

  template <int R, int C, int V>
  __attribute__((noinline)) static void weigh_tile(const AttentionHead& p, int first, int c) {
    F acc[R][C];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j) acc[r][j] = S::set(0.0f);
    int keys = p.keys;
    if (p.causal && p.first + first + R < keys) keys = static_cast<int>(p.first) + first + R;
    const char* v = p.v + 4 * c;
    const float* score = p.scores + first;
    LongSums<S, R, C> all;
    for (int64_t s = 0; s < keys;) {
      for (const int64_t end = run_end(s, keys); s < end; ++s, v += p.v_pitch, score += V * S::kLanes) {
        F value[C];
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) value[j] = S::load(reinterpret_cast<const float*>(v) + j * S::kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const F weight = S::set(score[r]);
#pragma GCC unroll 4
          for (int j = 0; j < C; ++j) acc[r][j] = S::mul_add(value[j], weight, acc[r][j]);
        }
      }
      if (s < keys) all.keep(acc);
    }
    all.finish(acc);
    const int left = p.rows - first;
    char* y = p.y + first * p.y_pitch + 4 * c;
    const float* inverses = p.inverse + first;
    const int64_t pitch = p.y_pitch;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      if (r >= left) return;
      const F inverse = S::set(inverses[r]);
#pragma GCC unroll 4
      for (int j = 0; j < C; ++j)
        S::store(reinterpret_cast<float*>(y + r * pitch) + j * S::kLanes, S::mul(acc[r][j], inverse));
    }
  }

  // Heads of few columns: the lanes stay queries, so that none of them is empty, and y is transposed at the end. Sums
  // are in the same order.
  template <int V>
  static void weigh_turned(const AttentionHead& p) {
    constexpr int lanes = V * S::kLanes, n = S::kLanes;
    alignas(64) float turned[n * lanes];
    int d = 0;
    for (; d + 8 <= p.columns; d += 8) turned_sums<8, V>(p, d, turned + d * lanes);
    for (; d + 4 <= p.columns; d += 4) turned_sums<4, V>(p, d, turned + d * lanes);
    for (; d < p.columns; ++d) turned_sums<1, V>(p, d, turned + d * lanes);
    for (int v = 0; v < V; ++v) {
      F row[n];
#pragma GCC unroll 16
      for (int c = 0; c < n; ++c) row[c] = c < p.columns ? S::load(turned + c * lanes + v * n) : S::set(0.0f);
      exchange_all<S, 1>(row);
      const int left = p.rows - v * n;
      char* y = p.y + v * n * p.y_pitch;
#pragma GCC unroll 16
      for (int r = 0; r < n; ++r)
        if (r < left) S::store(reinterpret_cast<float*>(y + r * p.y_pitch), row[r]);
    }
  }

  // Columns from d on, for all queries of the block.
  template <int C, int V>
  __attribute__((noinline)) static void turned_sums(const AttentionHead& p, int d, float* to) {
    F acc[C][V];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[c][v] = S::set(0.0f);
    const char* value = p.v + 4 * d;
    const float* scores = p.scores;
    LongSums<S, C, V> all;
    for (int64_t s = 0; s < p.keys;) {
      for (const int64_t end = run_end(s, p.keys); s < end; ++s, value += p.v_pitch, scores += V * S::kLanes) {
        F weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) weight[v] = S::load(scores + v * S::kLanes);
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) {
          const F one = S::set(reinterpret_cast<const float*>(value)[c]);
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) acc[c][v] = S::mul_add(one, weight[v], acc[c][v]);
        }
      }
      if (s < p.keys) all.keep(acc);
    }
    all.finish(acc);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const F inverse = S::load(p.inverse + v * S::kLanes);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) S::store(to + (c * V + v) * S::kLanes, S::mul(acc[c][v], inverse));
    }
  }
};

}  // namespace rta
