// The sums of all gates of one vector of units, in each format of weights.
//
// A side (W_h h or W_x x) of a tile is one ascending stream, packed in the order it is read. `sums` reads a side for R
// rows of activations that share it, and returns where the stream goes on. kSpoils: streams with a number that is not
// finite come out as NaN, as these sums cannot say it.
#pragma once

#include "recurrent/recurrent.h"

namespace rta {

template <class S, int G>
class Float32Dot {
 public:
  using F = typename S::F;
  using Element = float;
  static constexpr bool kQuantized = false, kPrepared = false, kPropagatesNan = false;
  static constexpr int kBlocks = 1;  // vectors of units in a tile
  static constexpr int kVectors = G * kBlocks;
  static constexpr int kRows = S::kRegisters == 32 || G == 3 ? 4 : 2;  // streams or time steps that share a weight

  explicit Float32Dot(const Attrs&) {}

  size_t side_bytes(int64_t k) const { return static_cast<size_t>(k * G * S::kLanes) * sizeof(float); }

  void pack(const RecurrentMatrix& m, int64_t unit, char* to) const {
    const float* w = m.attrs.floats(recurrent_name(m.what, m.layer, m.direction), G * m.hidden * m.k);
    float* at = reinterpret_cast<float*>(to);
    for (int64_t k = 0; k < m.k; ++k)
      for (int g = 0; g < G; ++g)
        for (int lane = 0; lane < S::kLanes; ++lane, ++at)
          if (unit + lane < m.hidden) *at = w[(g * m.hidden + unit + lane) * m.k + k];
  }

  template <int R>
  inline const char* sums(const char* stream, const char* const (&rows)[R], const float*, int64_t k,
                          F (&t)[R][G]) const {
    constexpr int C = R * G >= 6 ? 1 : 2;  // sums that do not wait for one another
    const float* w = reinterpret_cast<const float*>(stream);
    F acc[C][R][G];
#pragma GCC unroll 2
    for (int c = 0; c < C; ++c)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) acc[c][r][g] = S::set(0.0f);
    const auto step = [&](int c, int64_t i) __attribute__((always_inline)) {
      if constexpr (R == 4 && S::kRegisters == 16) {
        F weight[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) weight[g] = S::load(w + (c * G + g) * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const F x = S::set(reinterpret_cast<const float*>(rows[r])[i]);
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g) acc[c][r][g] = S::mul_add(x, weight[g], acc[c][r][g]);
        }
        return;
      }
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const F weight = S::load(w + (c * G + g) * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
          acc[c][r][g] = S::mul_add(S::set(reinterpret_cast<const float*>(rows[r])[i]), weight, acc[c][r][g]);
      }
    };
    int64_t i = 0;
    for (; i + C <= k; i += C, w += C * G * S::kLanes) {
#pragma GCC unroll 2
      for (int c = 0; c < C; ++c) step(c, i + c);
    }
    for (; i < k; ++i, w += G * S::kLanes) step(0, i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) t[r][g] = C == 1 ? acc[0][r][g] : S::add(acc[0][r][g], acc[C - 1][r][g]);
    return reinterpret_cast<const char*>(w);
  }
};

// A side: compensation int32 [G][lanes], weights [k / group][G][lanes][group], multiplier float32 [G][lanes].
// Wide: rows are brought to 16 bits before the sums of all tiles read them, each number 3 to 4 times in instructions
// that would widen it (S::kWidens).
template <class S, int G, bool Wide = false>
class Int8Dot {
 public:
  using F = typename S::F;
  using I = typename S::I;
  using Element = uint8_t;
  static constexpr bool kQuantized = true, kPrepared = Wide, kPropagatesNan = true;
  static constexpr int kBlocks = 1;
  static constexpr int kVectors = G * kBlocks;
  static constexpr int kRows = S::kRegisters == 32 || (Wide && G == 3) ? 4 : 2;
  static constexpr int64_t kHead = G * S::kLanes * 4;

  explicit Int8Dot(const Attrs&) {}

  static int64_t groups(int64_t k) { return (k + S::kGroup - 1) / S::kGroup; }
  size_t side_bytes(int64_t k) const { return static_cast<size_t>(2 * kHead + groups(k) * G * S::kWeightBytes); }

  void pack(const RecurrentMatrix& m, int64_t unit, char* to) const {
    const int8_t* w = m.attrs.int8s(recurrent_name(m.what, m.layer, m.direction), G * m.hidden * m.k);
    const float* multiplier = m.attrs.floats(recurrent_name(m.what, m.layer, m.direction, "_multiplier"), G * m.hidden);
    int32_t* compensation = reinterpret_cast<int32_t*>(to);
    int8_t* weights = reinterpret_cast<int8_t*>(to + kHead);
    float* factors = reinterpret_cast<float*>(to + kHead + groups(m.k) * G * S::kWeightBytes);
    for (int g = 0; g < G; ++g)
      for (int lane = 0; lane < S::kLanes; ++lane) {
        if (unit + lane >= m.hidden) continue;
        const int64_t row = g * m.hidden + unit + lane;
        int32_t sum = 0;
        for (int64_t k = 0; k < m.k; ++k) {
          sum += w[row * m.k + k];
          weights[((k / S::kGroup * G + g) * S::kLanes + lane) * S::kGroup + k % S::kGroup] = w[row * m.k + k];
        }
        compensation[g * S::kLanes + lane] = -(S::kXOffset + m.zero_point) * sum;
        factors[g * S::kLanes + lane] = multiplier[row];
      }
  }

  int64_t prepared_bytes(int64_t k) const { return (2 * k + 63) / 64 * 64; }
  void prepare(const char* row, int64_t k, char* to) const {
    if constexpr (Wide)
      for (int64_t i = 0; i < k; i += S::kLanes)
        S::widen_u8(reinterpret_cast<const uint8_t*>(row) + i, reinterpret_cast<uint16_t*>(to) + i);
  }

  // scales: by row, or nullptr.
  template <int R>
  inline const char* sums(const char* stream, const char* const (&rows)[R], const float* scales, int64_t k,
                          F (&t)[R][G]) const {
    constexpr int C = R * G >= 6 ? 1 : 2;
    const int32_t* start = reinterpret_cast<const int32_t*>(stream);
    const int8_t* w = reinterpret_cast<const int8_t*>(stream + kHead);
    I acc[C][R][G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        acc[0][r][g] = S::load_int(start + g * S::kLanes);
        if constexpr (C == 2) acc[1][r][g] = S::set_int(0);
      }
    const auto step = [&](int c, int64_t at, int64_t from) __attribute__((always_inline)) {
      if constexpr (R == 4 && S::kRegisters == 16) {
        typename S::W weight[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) weight[g] = S::load_w(w + (at * G + g) * S::kWeightBytes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const typename S::X x = broadcast(rows[r], (from + at) * S::kGroup);
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g) acc[c][r][g] = dot(acc[c][r][g], x, weight[g]);
        }
        return;
      }
      typename S::X x[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) x[r] = broadcast(rows[r], (from + at) * S::kGroup);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const typename S::W weight = S::load_w(w + (at * G + g) * S::kWeightBytes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) acc[c][r][g] = dot(acc[c][r][g], x[r], weight);
      }
    };
    const int64_t count = groups(k);
    int64_t i = 0;
    if constexpr (R < 4 || S::kRegisters > 16)  // else a step is long enough, and more of them would not fit
      for (; i + 4 <= count; i += 4, w += 4 * G * S::kWeightBytes) {
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) step(j % C, j, i);
      }
    for (; i < count; ++i, w += G * S::kWeightBytes) step(0, 0, i);
    const float* multiplier = reinterpret_cast<const float*>(w);
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const F factor = S::load(multiplier + g * S::kLanes);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const I sum = C == 1 ? acc[0][r][g] : S::add_int(acc[0][r][g], acc[C - 1][r][g]);
        t[r][g] = S::mul(S::to_float(sum), scales ? S::mul(factor, S::set(scales[r])) : factor);
      }
    }
    return reinterpret_cast<const char*>(multiplier + G * S::kLanes);
  }

 private:
  static I dot(I acc, typename S::X x, typename S::W w) {
    if constexpr (Wide)
      return S::dot_wide(acc, x, w);
    else
      return S::dot(acc, x, w);
  }
  static typename S::X broadcast(const char* row, int64_t k) {
    if constexpr (Wide)
      return S::broadcast_wide(reinterpret_cast<const uint16_t*>(row) + k);
    else
      return S::broadcast_x(reinterpret_cast<const uint8_t*>(row) + k);
  }
};

}  // namespace rta
