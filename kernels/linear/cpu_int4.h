// Linear with int4 weights in groups along k: int8 activations (W4A8) or float32 ones (W4A16), written once over S.
//
// The dot products and the packed stream are those of _common/int4_dot.h. float32 activations go through it as two
// planes of bytes (planes.h). Rows share each tile of weights that was unpacked: up to 6.
//
// Dot products: int8
//
// Floor, 1 x 1024 x 1024 in groups of 32: 576 KiB of weights and scales at the bandwidth of the cache that holds them,
// or 31 operations on two ports for each 576 bytes.
#pragma once

#include "_common/int4_dot.h"
#include "linear/epilogue.h"
#include "linear/planes.h"

namespace rta {

template <class S, int Planes>
class Int4Stage final : public Stage {
 public:
  explicit Int4Stage(const StageSpec& spec);
  bool marks_samples() const override { return Planes == 2 || layer_.marks_samples(); }

  void run(const Run& run) const override {
    if (layer_.marks_samples()) layer_.mark_samples(run);
    const int64_t rows = layer_.x.rows(run);
    for (int64_t first = 0; first < rows; first += kBlockRows)
      block_of_rows(run, first, rows - first < kBlockRows ? rows - first : kBlockRows);
  }

 private:
  static constexpr int kPairs = S::kRegisters == 32 ? 4 / Planes : 1;
  static constexpr int kRows = S::kRegisters == 32 ? 6 / Planes : 1;
  // R, or as many rows as there are registers for, or as a call may have.
  static constexpr int most(int64_t rows) {
    rows = rows < kRows ? rows : kRows;
    return static_cast<int>(rows < RTA_MOST_ROWS ? rows : RTA_MOST_ROWS);
  }
  using F = typename S::F;

  // Rows as the dot products read them, in the scratch of the call, and where the rest of them is.
  struct Rows {
    int64_t count;
    GroupRows in;
    float* own_scale;   // of two planes
    const char* scale;  // of dynamic int8 rows, or nullptr
    char* y;
  };

  void block_of_rows(const Run& run, int64_t first, int64_t count) const {
    const Rows rows = prepare(run, first, count);
    // Odd calls go backwards: what does not fit the second-level cache then finds its end there from the call before.
    if (run.tick & 1) {
      for (int64_t i = tiles_ - 1; i >= 0; --i) tile(i, rows);
    } else {
      for (int64_t i = 0; i < tiles_; ++i) tile(i, rows);
    }
  }

  void tile(int64_t i, const Rows& rows) const {
    const int64_t whole = all_pairs_ / kPairs;
    int64_t pair = (i < whole ? i : whole) * kPairs, left = all_pairs_ - pair;
    int pairs = kPairs;
    for (int64_t tail = whole;; ++tail) {
      while (pairs > left) pairs /= 2;
      if (tail >= i) break;
      pair += pairs;
      left -= pairs;
    }
    const uint8_t* w = weights_ + pair * pair_bytes_;
    const int64_t column = pair * 2 * S::kLanes;
    if (kPairs >= 4 && pairs == 4)
      all<kPairs >= 4 ? 4 : 1>(rows, w, column);
    else if (kPairs >= 2 && pairs == 2)
      all<kPairs >= 2 ? 2 : 1>(rows, w, column);
    else
      all<1>(rows, w, column);
  }

  Rows prepare(const Run& run, int64_t first, int64_t count) const {
    int8_t* x8 = reinterpret_cast<int8_t*>(run.scratch);
    int32_t* start = reinterpret_cast<int32_t*>(x8 + kBlockRows * Planes * pitch_);
    uint8_t* planes = reinterpret_cast<uint8_t*>(start + kBlockRows * Planes * start_pitch_);
    float* own_scale = reinterpret_cast<float*>(planes + 2 * pitch_);
    for (int64_t r = 0; r < count; ++r) {
      const char* x = layer_.x.row(run, first + r);
      if constexpr (Planes == 1) {
        group_rows<S>(reinterpret_cast<const uint8_t*>(x), layer_.k, group_, x8 + r * pitch_, start + r * start_pitch_);
      } else {
        own_scale[r] =
            split_planes<S>(reinterpret_cast<const float*>(x), static_cast<int>(layer_.k), planes, planes + pitch_);
        if (!(own_scale[r] > 0)) run.nan_marks[(first + r) / layer_.x.steps] = __builtin_nanf("");
        for (int plane = 0; plane < 2; ++plane)
          group_rows<S>(planes + plane * pitch_, layer_.k, group_, x8 + (2 * r + plane) * pitch_,
                        start + (2 * r + plane) * start_pitch_);
      }
    }
    return {count,
            {x8, pitch_, start, start_pitch_},
            own_scale,
            layer_.row_scale.exists() ? layer_.row_scale.row(run, first) : nullptr,
            layer_.y.row(run, first)};
  }

  // One row takes the whole tile at once. Many take it pair by pair, so that what they share stays in the first-level
  // cache; as many rows at a time as the registers hold, and no last one alone where it can be helped.
  template <int Q>
  void all(const Rows& rows, const uint8_t* w, int64_t column) const {
    if constexpr (RTA_WANTS_PAIRS(S::kLanes, kPairs, Q)) wanted<Q>(rows, w, column);
  }

  template <int Q>
  void wanted(const Rows& rows, const uint8_t* w, int64_t column) const {
    if (rows.count == 1) return part<1, Q, Q>(rows, w, column, 0);
    for (int p = 0; p < Q; ++p, w += S::kLanes * 4, column += 2 * S::kLanes)
      for (int64_t r = 0; r < rows.count;) {
        const int64_t left = rows.count - r;
        const int now = static_cast<int>(left <= kRows                    ? left
                                         : kRows > 2 && left <= kRows + 2 ? (left + 1) / 2
                                                                          : kRows);
        switch (now) {
          case 1: part<1, 1, Q>(rows, w, column, r); break;
          case 2: part<most(2), 1, Q>(rows, w, column, r); break;
          case 3: part<most(3), 1, Q>(rows, w, column, r); break;
          case 4: part<most(4), 1, Q>(rows, w, column, r); break;
          case 5: part<most(5), 1, Q>(rows, w, column, r); break;
          default: part<most(kRows), 1, Q>(rows, w, column, r);
        }
        r += now;
      }
  }

  template <int R, int P, int Q>
  void part(const Rows& rows, const uint8_t* w, int64_t column, int64_t r) const {
    F t[R][2 * P];
#pragma GCC unroll 6
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 8
      for (int v = 0; v < 2 * P; ++v) t[i][v] = S::set(0.0f);
    const GroupRows in{rows.in.x + r * Planes * pitch_, pitch_, rows.in.start + r * Planes * start_pitch_,
                       start_pitch_};
    int4_dot<S, R, P, Q, Planes>(w, in, layer_.k, group_, t);
    const char* scale = rows.scale ? rows.scale + r * layer_.row_scale.pitch : nullptr;
#pragma GCC unroll 8
    for (int v = 0; v < 2 * P; ++v) {
      const F multiplier = S::load(layer_.multiplier + column + v * S::kLanes);
      const F offset = S::load(layer_.offset + column + v * S::kLanes);
#pragma GCC unroll 6
      for (int i = 0; i < R; ++i) {
        F factor = multiplier;
        if constexpr (Planes == 2)
          factor = S::mul(multiplier, S::set(rows.own_scale[r + i]));
        else if (scale)
          factor = S::mul(multiplier, S::set(*reinterpret_cast<const float*>(scale + i * layer_.row_scale.pitch)));
        t[i][v] = S::add(S::mul(t[i][v], factor), offset);
      }
    }
    epilogue<S, R, 2 * P>(layer_, t, rows.y + r * layer_.y.pitch, column);
  }

  LinearLayer layer_;
  int64_t group_, pitch_, start_pitch_;
  int64_t all_pairs_, tiles_, pair_bytes_;
  const uint8_t* weights_;
};

template <class S, int Planes>
Int4Stage<S, Planes>::Int4Stage(const StageSpec& spec) {
  const Attrs& attrs = spec.attrs;
  layer_ = read_layer(spec);
  check_rows(layer_);
  group_ = attrs.integer("group_size");
  if (group_ < 16 || group_ > 256 || group_ % 16) fail("linear: no kernel for groups of %d", static_cast<int>(group_));
  const Int4Matrix matrix{attrs.bytes("weight", layer_.n * ((layer_.k + 1) / 2)),
                          attrs.floats("group_scale", layer_.n * ((layer_.k + group_ - 1) / group_)), layer_.n,
                          layer_.k, group_};
  uint8_t* packed = static_cast<uint8_t*>(spec.weights(int4_matrix_bytes(layer_.n, layer_.k, group_, S::kLanes)));
  if (spec.packs()) pack_int4_matrix(packed, matrix, kPairs, S::kLanes, PairSum<S>::kSecondScale);
  weights_ = packed;
  pair_bytes_ = static_cast<int64_t>(int4_tile_bytes(layer_.k, group_, 1, S::kLanes));
  all_pairs_ = (layer_.n + 2 * S::kLanes - 1) / (2 * S::kLanes);
  tiles_ = all_pairs_ / kPairs + __builtin_popcountll(static_cast<uint64_t>(all_pairs_ % kPairs));
  constexpr int64_t lanes = 2 * S::kLanes;
  for (int64_t pairs = kPairs; pairs; pairs /= 2)
    if (!RTA_WANTS_PAIRS(S::kLanes, kPairs, pairs) &&
        (pairs == kPairs ? all_pairs_ >= kPairs : (all_pairs_ % kPairs & pairs) != 0))
      fail("%lld outputs, for which this was not built", static_cast<long long>(layer_.n));
  layer_.multiplier = padded_copy(spec, attrs.floats("multiplier", layer_.n), layer_.n, lanes);
  layer_.offset = padded_copy(spec, attrs.floats("offset", layer_.n), layer_.n, lanes);

  pitch_ = (layer_.k + 63) / 64 * 64;
  start_pitch_ = 2 * matrix.groups();
  spec.need_scratch(static_cast<size_t>(kBlockRows * (Planes * (pitch_ + 4 * start_pitch_) + 4) + 2 * pitch_));
}

static const char* int4_reject(const Attrs& attrs) {
  return attrs.text_is("weight_dtype", kInt4Name) ? nullptr : "takes int4 weights";
}

template <class S>
RTA_ONCE Stage* create_int4(const StageSpec& spec) {  // read_layer: float32 or int8
  if constexpr (RTA_WANTS("linear", "int4_of_float32"))
    if (spec.input(0).dtype == RTA_FLOAT32) return new Int4Stage<S, 2>(spec);
  if constexpr (RTA_WANTS("linear", "int4_of_int8"))
    if (spec.input(0).dtype == RTA_INT8) return new Int4Stage<S, 1>(spec);
  fail("linear: int4 weights with an input of dtype %s, for which this was not built", dtype_name(spec.input(0).dtype));
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear", "cpu_int4", int4_reject, create_int4<S>);
}

}  // namespace rta
