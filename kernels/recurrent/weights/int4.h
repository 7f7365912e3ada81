// The sums of all gates from int4 weights in groups: the dot products and the packed stream of int4_dot.h.
//
// A pair of vectors shares its bytes: two gates of the same units where the number of gates is even, one gate of two
// neighboring vectors of units where it is odd. A side is the tile of int4_pack.h and one more number, the
// activation's scale. Rows are read as signed bytes with the starts of their groups behind them: `prepare` makes one.
#pragma once

#include "_common/int4_dot.h"
#include "recurrent/recurrent.h"

namespace rta {

template <class S, int G>
class Int4Dot {
 public:
  using F = typename S::F;
  using Element = uint8_t;
  static constexpr bool kQuantized = true, kPrepared = true, kPropagatesNan = true;
  static constexpr int kBlocks = G % 2 ? 2 : 1;  // vectors of units in a tile
  static constexpr int kVectors = G * kBlocks;   // [gate][block]
  static constexpr int kRows = S::kRegisters == 32 ? 2 : 1;

  explicit Int4Dot(const Attrs& attrs) : group_(attrs.integer("group_size")) {
    if (group_ < 16 || group_ > 256 || group_ % 16) fail("a group size of %lld", static_cast<long long>(group_));
  }

  size_t side_bytes(int64_t k) const { return int4_tile_bytes(k, group_, kPairs, S::kLanes) + 64; }

  void pack(const RecurrentMatrix& m, int64_t unit, char* to) const {
    const int64_t groups = (m.k + group_ - 1) / group_, n = G * m.hidden;
    const Int4Matrix matrix{m.attrs.bytes(recurrent_name(m.what, m.layer, m.direction), n * ((m.k + 1) / 2)),
                            m.attrs.floats(recurrent_name(m.what, m.layer, m.direction, "_group_scale"), n * groups), n,
                            m.k, group_};
    int64_t rows[kVectors * S::kLanes];
    for (int v = 0; v < kVectors; ++v)
      for (int lane = 0; lane < S::kLanes; ++lane) {
        const int64_t own = unit + v % kBlocks * S::kLanes + lane;
        rows[v * S::kLanes + lane] = own < m.hidden ? v / kBlocks * m.hidden + own : -1;
      }
    pack_int4_tile(reinterpret_cast<uint8_t*>(to), matrix, rows, kPairs, S::kLanes, PairSum<S>::kSecondScale);
    const float multiplier =
        static_cast<float>(m.attrs.real(recurrent_name(m.what, m.layer, m.direction, "_multiplier")));
    __builtin_memcpy(to + int4_tile_bytes(m.k, group_, kPairs, S::kLanes), &multiplier, 4);
  }

  int64_t prepared_bytes(int64_t k) const { return starts_at(k) + (8 * ((k + group_ - 1) / group_) + 63) / 64 * 64; }
  void prepare(const char* row, int64_t k, char* to) const {
    group_rows<S>(reinterpret_cast<const uint8_t*>(row), k, group_, reinterpret_cast<int8_t*>(to),
                  reinterpret_cast<int32_t*>(to + starts_at(k)));
  }

  // rows: prepared, one after the other at the same distance.
  template <int R>
  inline const char* sums(const char* stream, const char* const (&rows)[R], const float* scales, int64_t k,
                          F (&t)[R][kVectors]) const {
    const int64_t pitch = R > 1 ? rows[R - 1] - rows[0] : 0;
    const GroupRows in{reinterpret_cast<const int8_t*>(rows[0]), pitch,
                       reinterpret_cast<const int32_t*>(rows[0] + starts_at(k)), pitch / 4};
    const uint8_t* w = reinterpret_cast<const uint8_t*>(stream);
    constexpr int P = S::kRegisters == 32 ? kPairs : 1;  // pairs at a time
#pragma GCC unroll 3
    for (int p = 0; p < kPairs; p += P) {
      F acc[R][2 * P];
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < 2 * P; ++v) acc[r][v] = S::set(0.0f);
      int4_dot<S, R, P, kPairs>(w + p * S::kLanes * 4, in, k, group_, acc);
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 6
        for (int v = 0; v < 2 * P; ++v) t[r][2 * p + v] = acc[r][v];
    }
    const char* end = stream + int4_tile_bytes(k, group_, kPairs, S::kLanes);
    float multiplier;
    __builtin_memcpy(&multiplier, end, 4);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const F factor = S::set(scales ? multiplier * scales[r] : multiplier);
#pragma GCC unroll 6
      for (int v = 0; v < kVectors; ++v) t[r][v] = S::mul(t[r][v], factor);
    }
    return end + 64;
  }

 private:
  static constexpr int kPairs = kVectors / 2;
  static int64_t starts_at(int64_t k) { return (k + 63) / 64 * 64; }
  int64_t group_;
};

}  // namespace rta
