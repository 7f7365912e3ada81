// W8A8 linear with the tile registers of AMX. Few rows take the kernel of AVX-512 VNNI on the same packed weights, and
// layers of short sums the one that packs for them. A tile of packed weights is [k / 4][vector][16 outputs][4 k], and
// an operand of TDPBUSD is 16 rows of [16 outputs][4 k]: a tile load whose pitch is that of k / 4. Only the end of K
// differs: packed tiles are filled up with zeros to 64 k, so that whatever lies behind a row of x, up to its pitch, is
// multiplied by zero.
//
// Up to 16 rows, a block is one tile of x by four of weights, so that 4 KiB of weights pass in one piece. From 17 on it
// is two by two, where each load serves two products. Sums start from the compensation, loaded with pitch 0 into every
// row. The outputs of a block are computed behind the products of the next one, while those still run: sums that are
// read back right after a tile store wait for it, which costs a third of the time at 16 rows.
//
// Floors at 1024 x 1024 (Xeon with AMX at 3.4 GHz, 2026-11), the larger of two: TDPBUSD takes 16 clocks, and 18.6 where
// its data is not all zero and changes, so 16 rows take 5.7 us (up to 4 rows 2.9); the weights pass from L2 in 5.8 us,
// once for 32 rows.
#include "_simd/amx.h"
#include "_simd/simd_avx512vnni.h"
#include "linear/cpu_kernel.h"

namespace rta {
namespace {

using S = Avx512Vnni;
constexpr int64_t kMostRows = 2 * kTileRows;  // of one pass over the weights
constexpr int kGroupsPerTile = kTileBytes / S::kGroup;
constexpr int kMostSums = 2 * kTileRows * 2 * S::kLanes;  // of a block: 16 rows of 4 vectors or 32 of 2
static_assert(S::kTileVectors == 4 && S::kWeightBytes == kTileBytes);

// The rows of one pass.
struct Rows {
  const char *x, *scale;
  char* y;
  int64_t count;
};

// What the products of a block read: its weights, what its sums start from, and x.
struct Block {
  const char* w;
  int64_t w_pitch;
  const int32_t* start;
  const char* x;
  int64_t x_pitch, groups;
};

// Tiles 0-3 hold sums, 4 holds x, 5-7 weights.
struct Wide {
  static constexpr int kVectors = 4, kRows = 2;  // of a whole block; of one step of its outputs

  static void shape(TileShapes& shapes, int64_t rows) {
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, tile < 5 ? rows : kTileRows);
  }

  template <int V>
  static inline void multiply(const Block& b) {
    load_tile<0>(b.start, 0);
    if constexpr (V > 1) load_tile<1>(b.start + S::kLanes, 0);
    if constexpr (V > 2) load_tile<2>(b.start + 2 * S::kLanes, 0);
    if constexpr (V > 3) load_tile<3>(b.start + 3 * S::kLanes, 0);
    const char *x = b.x, *w = b.w;
    for (int64_t g = 0; g < b.groups; g += kGroupsPerTile) {
      load_tile<4>(x, b.x_pitch);
      load_tile<5>(w, b.w_pitch);
      multiply_u8_s8<0, 4, 5>();
      if constexpr (V > 1) {
        load_tile<6>(w + kTileBytes, b.w_pitch);
        multiply_u8_s8<1, 4, 6>();
      }
      if constexpr (V > 2) {
        load_tile<7>(w + 2 * kTileBytes, b.w_pitch);
        multiply_u8_s8<2, 4, 7>();
      }
      if constexpr (V > 3) {
        load_tile<5>(w + 3 * kTileBytes, b.w_pitch);
        multiply_u8_s8<3, 4, 5>();
      }
      x += kTileBytes;
      w += kGroupsPerTile * b.w_pitch;
    }
  }

  template <int V>
  static inline void store(int32_t* sums) {
    constexpr int64_t kPitch = V * S::kLanes * sizeof(int32_t);
    store_tile<0>(sums, kPitch);
    if constexpr (V > 1) store_tile<1>(sums + S::kLanes, kPitch);
    if constexpr (V > 2) store_tile<2>(sums + 2 * S::kLanes, kPitch);
    if constexpr (V > 3) store_tile<3>(sums + 3 * S::kLanes, kPitch);
  }
};

// Tiles 0, 1 and 2, 3 hold sums of the upper and the lower rows, 4 and 5 their x, 6 and 7 weights.
struct Square {
  static constexpr int kVectors = 2, kRows = 4;

  static void shape(TileShapes& shapes, int64_t rows) {
    for (int tile = 0; tile < 8; ++tile)
      shapes.set(tile, tile == 2 || tile == 3 || tile == 5 ? rows - kTileRows : kTileRows);
  }

  template <int V>
  static inline void multiply(const Block& b) {
    load_tile<0>(b.start, 0);
    load_tile<2>(b.start, 0);
    if constexpr (V > 1) {
      load_tile<1>(b.start + S::kLanes, 0);
      load_tile<3>(b.start + S::kLanes, 0);
    }
    const char *x = b.x, *lower = b.x + kTileRows * b.x_pitch, *w = b.w;
    for (int64_t g = 0; g < b.groups; g += kGroupsPerTile) {
      load_tile<4>(x, b.x_pitch);
      load_tile<6>(w, b.w_pitch);
      multiply_u8_s8<0, 4, 6>();
      load_tile<5>(lower, b.x_pitch);
      multiply_u8_s8<2, 5, 6>();
      if constexpr (V > 1) {
        load_tile<7>(w + kTileBytes, b.w_pitch);
        multiply_u8_s8<1, 4, 7>();
        multiply_u8_s8<3, 5, 7>();
      }
      x += kTileBytes;
      lower += kTileBytes;
      w += kGroupsPerTile * b.w_pitch;
    }
  }

  template <int V>
  static inline void store(int32_t* sums) {
    constexpr int64_t kPitch = V * S::kLanes * sizeof(int32_t);
    int32_t* below = sums + kTileRows * V * S::kLanes;
    store_tile<0>(sums, kPitch);
    store_tile<2>(below, kPitch);
    if constexpr (V > 1) {
      store_tile<1>(sums + S::kLanes, kPitch);
      store_tile<3>(below + S::kLanes, kPitch);
    }
  }
};

bool linear_takes_tiles(int64_t rows, int64_t k, int64_t n) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows, chunks = (k + kTileBytes - 1) / kTileBytes;
  return tiles_win(rows, tiles, k, chunks, (n + S::kLanes - 1) / S::kLanes);
}

class AmxStage final : public LinearStage<S, Int8> {
 public:
  explicit AmxStage(const StageSpec& spec) : LinearStage<S, Int8>(spec, kGroupsPerTile) {
    const int64_t pitch = layer_.x.pitch;
    if (pitch % kTileBytes != 0)
      fail("linear: x has rows of %lld bytes, not whole tiles", static_cast<long long>(pitch));
  }

  int64_t cost_ns(int64_t samples) const override {
    const int64_t rows = samples * layer_.x.steps;
    if (!takes_tiles(rows)) return LinearStage<S, Int8>::cost_ns(samples);
    constexpr int64_t kProductsPerNs = 2900, kBytesPerNs = 170;  // 18.6 clocks a TDPBUSD; weights from L2
    const int64_t products = rows * layer_.n * layer_.k / kProductsPerNs;
    const int64_t weights = (rows + kMostRows - 1) / kMostRows * layer_.n * layer_.k / kBytesPerNs;
    return products > weights ? products : weights;
  }

  void run(const Run& run) const override {
    if (!takes_tiles(layer_.x.rows(run))) return LinearStage<S, Int8>::run(run);
    if (this->marks_samples()) layer_.mark_samples(run);
    const Share share = share_of(run, kTileRows);
    int64_t left = share.row_end - share.row;
    const char* scale = layer_.row_scale.exists() ? layer_.row_scale.row(run, share.row) : nullptr;
    Rows rows{layer_.x.row(run, share.row), scale, layer_.y.row(run, share.row), 0};
    for (; left > 0; left -= rows.count) {
      const bool reshape = rows.count == 0 || left < kMostRows;
      rows.count = left < kMostRows ? left : kMostRows;
      if (rows.count <= kTileRows)
        all_columns<Wide>(rows, share, reshape);
      else
        all_columns<Square>(rows, share, reshape);
      rows.x += rows.count * layer_.x.pitch;
      rows.y += rows.count * layer_.y.pitch;
      if (rows.scale) rows.scale += rows.count * layer_.row_scale.pitch;
    }
    release_tiles();
  }

 private:
  bool takes_tiles(int64_t rows) const { return linear_takes_tiles(rows, layer_.k, layer_.n); }

  // All blocks of a part's tiles and of some of its rows, from left to right. Only the last can be narrower than the
  // shape.
  template <class Shape>
  void all_columns(const Rows& rows, const Share& share, bool reshape) const {
    if (reshape) {
      TileShapes shapes;
      Shape::shape(shapes, rows.count);
      load_shapes(shapes);
    }
    constexpr int kWhole = Shape::kVectors;
    alignas(64) int32_t sums[kMostSums];
    const int64_t vectors = (layer_.n + S::kLanes - 1) / S::kLanes;
    int64_t waiting = -1;  // column of the block whose sums are there and its outputs are not
    const int64_t past = share.tile_end * S::kTileVectors, end = past < vectors ? past : vectors;
    for (int64_t first = share.tile * S::kTileVectors; first < end; first += kWhole) {
      const int64_t tile = first / S::kTileVectors * S::kTileVectors;
      const int64_t width = vectors - tile < S::kTileVectors ? vectors - tile : S::kTileVectors;
      const int64_t column = first * S::kLanes;
      const char* w = static_cast<const char*>(layer_.weights) + (tile * groups_ + first - tile) * kTileBytes;
      const Block block{w, width * kTileBytes, layer_.compensation + column, rows.x, layer_.x.pitch, groups_};
      if (vectors - first >= kWhole) {
        Shape::template multiply<kWhole>(block);
        if (waiting >= 0) outputs<Shape, kWhole>(rows, sums, waiting);
        Shape::template store<kWhole>(sums);
        waiting = column;
        continue;
      }
      if (waiting >= 0) outputs<Shape, kWhole>(rows, sums, waiting);
      waiting = -1;
      switch (vectors - first) {
        case 1: narrow<Shape, 1>(block, rows, sums, column); break;
        case 2: narrow<Shape, 2>(block, rows, sums, column); break;
        default: narrow<Shape, 3>(block, rows, sums, column);
      }
    }
    if (waiting >= 0) outputs<Shape, kWhole>(rows, sums, waiting);
  }

  template <class Shape, int V>
  void narrow(const Block& block, const Rows& rows, int32_t* sums, int64_t column) const {
    if constexpr (V < Shape::kVectors) {
      Shape::template multiply<V>(block);
      Shape::template store<V>(sums);
      outputs<Shape, V>(rows, sums, column);
    }
  }

  template <class Shape, int V>
  void outputs(const Rows& rows, const int32_t* sums, int64_t column) const {
    int64_t row = 0;
    for (; row + Shape::kRows <= rows.count; row += Shape::kRows) some<Shape::kRows, V>(rows, row, sums, column);
    for (; row < rows.count; ++row) some<1, V>(rows, row, sums, column);
  }

  template <int R, int V>
  void some(const Rows& rows, int64_t first, const int32_t* sums, int64_t column) const {
    const int32_t* from = sums + first * V * S::kLanes;
    S::I sum[R][V];
    S::F t[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = S::load_int(from + (r * V + v) * S::kLanes);
    const char* scale = rows.scale ? rows.scale + first * layer_.row_scale.pitch : nullptr;
    rescale<S, R, V>(layer_, sum, t, column, scale);
    epilogue<S, R, V>(layer_, t, rows.y + first * layer_.y.pitch, column);
  }
};

const char* reject(const Attrs& attrs) {
  return attrs.text_is("weight_dtype", "int8") ? linear_reject(attrs) : "takes int8 weights with int8 inputs";
}

Stage* create(const StageSpec& spec) {
  constexpr int64_t kVeryManyRows = 1 << 20;
  if (linear_takes_tiles(kVeryManyRows, spec.input(0).width, spec.output(0).width)) return new AmxStage(spec);
  return below("linear")->create(spec);
}

// As a call, not as a Kernel built here: that would be code of this instruction set, which runs when the library loads.
void register_amx() { add_kernel(Isa::kAmx, "linear", "cpu", reject, create); }
const Register kLinear(register_amx);

}  // namespace
}  // namespace rta
