// A linear stage whose input is float32 and whose weights are narrower: the loops over tiles and rows, and the packing.
//
// Weights are packed into tiles of 4 vectors of outputs, inside a tile by k:
//     [tile][k / group][vector][lane = output][group]
// A Kind holds, for each row and vector, two sums (of two planes of x, or of even and odd k), so that 8 are in flight
// for a single row; up to 3 rows share each weight that was loaded.
#pragma once

#include "_common/pack_tile.h"
#include "_simd/lanes.h"
#include "linear/epilogue.h"

namespace rta {

// Rows as a Kind reads them.
struct RowsIn {
  const char* x;
  int64_t pitch;
  const float* scale;  // of each row, where the Kind has one
};

template <class S, class Kind>
class FloatInputStage final : public Stage {
 public:
  explicit FloatInputStage(const StageSpec& spec);
  bool marks_samples() const override { return Kind::kQuantizes; }

  void run(const Run& run) const override {
    const int64_t rows = layer_.x.rows(run);
    const int64_t tiles = (vectors_ + kTile - 1) / kTile;
    for (int64_t first = 0; first < rows; first += kBlockRows) {
      const int64_t count = rows - first < kBlockRows ? rows - first : kBlockRows;
      const RowsIn in = Kind::prepare(layer_, run, first, count);
      char* y = layer_.y.row(run, first);
      // Odd calls go backwards: what does not fit the second-level cache then finds its end there from the call before.
      for (int64_t i = 0; i < tiles; ++i) tile(run.tick & 1 ? tiles - 1 - i : i, in, count, y);
    }
  }

 private:
  static constexpr int kTile = 4;
  static constexpr int kRows = S::kRegisters == 32 ? 3 : 1;

  void tile(int64_t i, const RowsIn& in, int64_t count, char* y) const {
    const int64_t first = i * kTile, left = vectors_ - first;
    const char* w = static_cast<const char*>(layer_.weights) + first * groups_ * Kind::kStep;
    switch (left < kTile ? left : kTile) {
      case 1: rows<1>(w, in, count, y, first * S::kLanes); break;
      case 2: rows<2>(w, in, count, y, first * S::kLanes); break;
      case 3: rows<3>(w, in, count, y, first * S::kLanes); break;
      default: rows<4>(w, in, count, y, first * S::kLanes);
    }
  }

  template <int V>
  void rows(const char* w, const RowsIn& in, int64_t count, char* y, int64_t column) const {
    if constexpr (RTA_WANTS_TILE(S::kLanes, kTile, V)) wanted_rows<V>(w, in, count, y, column);
  }

  template <int V>
  void wanted_rows(const char* w, const RowsIn& in, int64_t count, char* y, int64_t column) const {
    for (int64_t r = 0; r < count;) {
      const int64_t left = count - r;
      const int now = static_cast<int>(left < kRows ? left : kRows);
      const RowsIn at{in.x + r * in.pitch, in.pitch, in.scale + r};
      switch (now) {
        case 1: block<1, V>(w, at, y + r * layer_.y.pitch, column); break;
        case 2: block<most(2), V>(w, at, y + r * layer_.y.pitch, column); break;
        default: block<most(kRows), V>(w, at, y + r * layer_.y.pitch, column);
      }
      r += now;
    }
  }

  // R, or as many rows as there are registers for, or as a call may have.
  static constexpr int most(int64_t rows) {
    rows = rows < kRows ? rows : kRows;
    return static_cast<int>(rows < RTA_MOST_ROWS ? rows : RTA_MOST_ROWS);
  }

  template <int R, int V>
  void block(const char* w, const RowsIn& in, char* y, int64_t column) const {
    typename S::F t[R][V];
    Kind::template sums<R, V>(layer_, w, in, column, t);
    epilogue<S, R, V>(layer_, t, y, column);
  }

  LinearLayer layer_;
  int64_t groups_, vectors_;
};

template <class S, class Kind>
FloatInputStage<S, Kind>::FloatInputStage(const StageSpec& spec) {
  using Weight = typename Kind::Weight;
  constexpr int group = Kind::kGroup, lanes = S::kLanes;
  layer_ = read_layer(spec);
  if (spec.input(0).dtype != RTA_FLOAT32) fail("linear: these weights take a float32 input");
  check_tiles<S>(layer_, kTile);
  const int64_t n = layer_.n, k = layer_.k;
  groups_ = (k + group - 1) / group;
  vectors_ = (n + lanes - 1) / lanes;
  const Weight* weight = Kind::weights(spec.attrs, n * k);
  Weight* packed = static_cast<Weight*>(spec.weights(static_cast<size_t>(groups_ * vectors_ * Kind::kStep)));
  layer_.weights = packed;
  for (int64_t first = 0; spec.packs() && first < vectors_; first += kTile) {
    const int64_t last = first + kTile < vectors_ ? first + kTile : vectors_;
    const int64_t columns = (last - first) * lanes;
    pack_tile<group>(packed, weight, n, k, first * lanes, columns);
    packed += groups_ * columns * group;
  }
  Kind::finish(layer_, spec, weight);
}

}  // namespace rta
