// 2:4 sparse weights on the CPU; float32 in semi_floats.h. int8, written once over S: two values of every 4
// neighboring k, and two bits for each that say which.
//
// A chunk is 32 columns: 4 registers of values, of 8 columns each, and one register with all their positions, two bits
// of each byte for each of the 4. Positions become indices into 16 bytes of x with a shift, a mask and the place of
// their group, and x is picked by vpshufb or tbl.
//
// Dot products: int8, permute
//
// Floor, 1 x 1024 x 1024: 512 KiB of values and 128 KiB of positions at the bandwidth of the second-level cache.
#pragma once

#include "_common/windows/byte_window.h"
#include "sparse_linear/semi_floats.h"
#include "sparse_linear/tiles.h"

namespace rta {

template <class S>
class Semi {
  using B = typename Bytes<S>::B;
  static constexpr int kBytes = Bytes<S>::kBytes, kChunk = 5 * kBytes;

 public:
  static constexpr bool kInt8 = true, kPrepared = false;
  using Sum = typename S::I;
  static constexpr int kTogether = 1;  // vectors that are summed at a time
  template <int R>
  struct Rows : RowsAt<uint8_t> {
    using RowsAt<uint8_t>::RowsAt;
  };

  Semi(const StageSpec& spec, LinearLayer& layer) {
    const SparseRows rows(spec);
    packed_ = pack_semi(spec, rows, S::kLanes, S::kGroup);
    chunks_ = (rows.k + kSemiChunk - 1) / kSemiChunk;
    vectors_ = (rows.n + S::kLanes - 1) / S::kLanes;
    read_numbers<S>(layer, spec, rows);
    for (int i = 0; i < kBytes; ++i) {
      const int slot = i / (S::kLanes * S::kGroup) * S::kGroup + i % S::kGroup;  // 0, 1: of the first group of 4
      base_[i] = static_cast<uint8_t>(slot / 2 * 4);
      base_[kBytes + i] = static_cast<uint8_t>(base_[i] + 8);
    }
  }
  int64_t steps() const { return vectors_ * chunks_ * 4; }

  template <int R>
  inline __attribute__((always_inline)) void sums(int64_t vector, const Rows<R>& rows, bool, Sum (&out)[1][R]) const {
    Sum acc[2][R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[0][r] = acc[1][r] = S::set_int(0);
    const int64_t chunks = vector < vectors_ ? chunks_ : 0;
    const char* w = packed_ + vector * chunks * kChunk;
    const B first = Bytes<S>::load(base_), second = Bytes<S>::load(base_ + kBytes);
    for (int64_t chunk = 0; chunk < chunks; ++chunk, w += kChunk) {
      const B positions = Bytes<S>::load(w + 4 * kBytes);
      const B index[4] = {Bytes<S>::template field<0>(positions, first), Bytes<S>::template field<2>(positions, second),
                          Bytes<S>::template field<4>(positions, first),
                          Bytes<S>::template field<6>(positions, second)};
      const int8_t* values = reinterpret_cast<const int8_t*>(w);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const uint8_t* x = rows.x + r * rows.pitch + chunk * kSemiChunk;
        const B low = Bytes<S>::repeat16(x), high = Bytes<S>::repeat16(x + 16);
        acc[0][r] = Bytes<S>::dot(acc[0][r], Bytes<S>::pick16(low, index[0]), values);
        acc[1][r] = Bytes<S>::dot(acc[1][r], Bytes<S>::pick16(low, index[1]), values + kBytes);
        acc[0][r] = Bytes<S>::dot(acc[0][r], Bytes<S>::pick16(high, index[2]), values + 2 * kBytes);
        acc[1][r] = Bytes<S>::dot(acc[1][r], Bytes<S>::pick16(high, index[3]), values + 3 * kBytes);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) out[0][r] = S::add_int(acc[0][r], acc[1][r]);
  }

  template <int R>
  void arrange(int64_t, Sum (&)[R][kTile]) const {}

 private:
  const char* packed_;
  int64_t chunks_, vectors_;
  alignas(64) uint8_t base_[2 * kBytes];  // where in 16 bytes of x the group of each value begins
};

static const char* semi_reject(const Attrs& attrs) {
  return sparse_reject(attrs, "2:4", "packs 2:4 weights, and this one is packed otherwise");
}

template <class S>
static Stage* create_semi(const StageSpec& spec) {
  if constexpr (kHasFloat32<S>)
    if (spec.attrs.text_is("weight_dtype", "float32")) return new SparseStage<S, SemiFloats<S>>(spec);
  return new SparseStage<S, Semi<S>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "sparse_linear", "cpu_semi", (rejects_float32<S, semi_reject>), create_semi<S>);
}

}  // namespace rta
