// Tiles of dense.h, which includes it: some positions by some vectors of outputs, whose sums stay in registers.
#pragma once

#include "dense.h"

namespace rta {

template <class S, template <class> class Kind>
template <int R, int V>
void ConvStage<S, Kind>::tile(const Block& b, const ConvTarget& to, int64_t position, const Part& part,
                              float* sums) const {
  constexpr int kFit = S::kRegisters * 5 / 8 / (R * V), C = kFit < 1 ? 1 : kFit > 4 ? 4 : kFit;
  uint64_t seen = 0;
  if (!K::kInt8 && seen_) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) seen |= seen_[position + r];
  }
  typename K::Sum acc[C][R][V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) {
    const typename K::Sum start = K::start(p_, b.params + v * S::kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      acc[0][r][v] = start;
#pragma GCC unroll 4
      for (int c = 1; c < C; ++c) acc[c][r][v] = K::zero();
    }
  }
  const bool later = !K::kInt8 && sums && (part.from || part.first);
  if (later) {
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[0][r][v] = K::zero();
  }
  LongSums<S, R, V> all;
  int64_t left = kSumRun * C;  // numbers until the sums are kept apart
  const auto join = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int c = 1; c < C; ++c)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          acc[0][r][v] = K::add(acc[0][r][v], acc[c][r][v]);
          acc[c][r][v] = K::zero();
        }
  };
  const auto keep = [&]() __attribute__((always_inline)) {
    if constexpr (!K::kInt8) {
      join();
      all.keep(acc[0]);
      left = kSumRun * C;
    }
  };
  const char* base[R];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) base[r] = b.image + offset_[position + r];
  const char* w = b.w + (part.from * per_segment_ + part.first) * V * K::kStep;
  const int64_t end = part.to, groups = part.last;
  [[maybe_unused]] const char* next = part.next;
  const auto step = [&](int c, int64_t delta, int64_t g) __attribute__((always_inline)) {
    if constexpr (K::kFirstWeights) {
      typename K::W weight[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weight[v] = K::w(w + v * K::kStep);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const typename K::X in = K::x(base[r] + delta, g);
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[c][r][v] = K::dot(acc[c][r][v], in, weight[v]);
      }
      w += V * K::kStep;
      return;
    }
    if constexpr (!K::kInt8 && RTA_WANTS_FAR_WEIGHTS) {
      if (next) {  // into the second-level cache: a part is more than the first has
        __builtin_prefetch(next, 0, 2);
        if (part.vectors == 2) __builtin_prefetch(next + K::kStep, 0, 2);
        next += part.vectors * K::kStep;
      }
    }
    typename K::X in[R];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) in[r] = K::x(base[r] + delta, g);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const typename K::W weight = K::w(w + v * K::kStep);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) acc[c][r][v] = K::dot(acc[c][r][v], in[r], weight);
    }
    w += V * K::kStep;
  };
  if (!K::kInt8 && per_segment_ == 1) {
    int64_t s = part.from;
    while (true) {
      const int64_t run = run_end(s, end, C);
      for (; s + C <= run; s += C) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) step(c, b.delta[s + c], 0);
      }
      if (run == end) break;
      keep();
    }
    for (; s < end; ++s) step(0, b.delta[s], 0);
  } else {
    for (int64_t s = part.from; s < end; ++s) {
      if (!K::kInt8 && seen_ && !(seen >> s & 1)) {
        w += (groups - part.first) * V * K::kStep;
        if (next) next += (groups - part.first) * part.vectors * K::kStep;
        continue;
      }
      const int64_t delta = b.delta[s];
      int64_t g = part.first;
      for (; g + C <= groups; g += C) {
#pragma GCC unroll 4
        for (int c = 0; c < C; ++c) step(c, delta, g + c);
      }
      for (; g < groups; ++g) step(0, delta, g);
      if (!K::kInt8 && (left -= groups - part.first) <= 0 && s + 1 < end) keep();
    }
  }
  join();
  if constexpr (!K::kInt8) {
    all.finish(acc[0]);
    if (later) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[0][r][v] = S::add(S::load(sums + (r * V + v) * S::kLanes), acc[0][r][v]);
    }
    if (sums && (part.to != segments_ || part.last != per_segment_)) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) S::store(sums + (r * V + v) * S::kLanes, acc[0][r][v]);
      return;
    }
  }
  finish<R, V>(acc[0], b, to, position);
}

// Positions that lie `apart_` one after the other: with one address for three of them there are registers for twice as
// many, so that each weight serves more products and enough sums are on their way for the multiply-adds to wait for
// none.
template <class S, template <class> class Kind>
template <int R, int V>
void ConvStage<S, Kind>::even_tile(const Block& b, const ConvTarget& to, int64_t position) const {
  typename K::Sum acc[R][V];
#pragma GCC unroll 2
  for (int v = 0; v < V; ++v) {
    const typename K::Sum start = K::start(p_, b.params + v * S::kLanes);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) acc[r][v] = start;
  }
  constexpr int kThirds = R / 3;
  const int64_t apart = apart_, segments = segments_, groups = per_segment_;
  const char *base = b.image + offset_[position], *w = b.w;
  LongSums<S, R, V> all;
  int64_t left = kSumRun;
  for (int64_t s = 0; s < segments; ++s) {
    const char* from[kThirds];
#pragma GCC unroll 4
    for (int i = 0; i < kThirds; ++i) from[i] = base + b.delta[s] + 3 * i * apart;
    for (int64_t g = 0; g < groups; ++g, w += V * K::kStep) {
      typename K::W weight[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) weight[v] = K::w(w + v * K::kStep);
#pragma GCC unroll 4
      for (int i = 0; i < kThirds; ++i) {
#pragma GCC unroll 3
        for (int r = 0; r < 3; ++r) {
          const typename K::X in = K::x(from[i] + r * apart, 0);
#pragma GCC unroll 2
          for (int v = 0; v < V; ++v) acc[3 * i + r][v] = K::dot(acc[3 * i + r][v], in, weight[v]);
        }
        from[i] += K::kGroup * K::kElement;
      }
    }
    if constexpr (!K::kInt8)
      if ((left -= groups) <= 0 && s + 1 < segments) all.keep(acc), left = kSumRun;
  }
  if constexpr (!K::kInt8) all.finish(acc);
  // In parts: the ends are written for up to 6 positions.
#pragma GCC unroll 4
  for (int half = 0; half < R; half += kRows) {
    typename K::Sum part[kRows][V];
#pragma GCC unroll 6
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) part[r][v] = acc[half + r][v];
    finish<kRows, V>(part, b, to, position + half);
  }
}

template <class S, template <class> class Kind>
template <int R, int V>
inline __attribute__((always_inline)) void ConvStage<S, Kind>::finish(typename K::Sum (&acc)[R][V], const Block& b,
                                                                      const ConvTarget& to, int64_t position) const {
  const ConvTarget at{to.y + position * p_.y.pitch, to.other ? to.other + position * p_.other.pitch : nullptr,
                      to.column, to.left, to.spills};
  if constexpr (K::kInt8) {
    int8_outputs<S, R, V>(p_, acc, b.params, b.scale, at);
  } else if (p_.plain) {
    epilogue_floats<S, R, V>(acc, at.y + to.column * 4, p_.y.pitch, p_.bounds, to.left);
  } else {
    conv_epilogue<S, R, V>(p_, acc, at);
  }
}

}  // namespace rta
