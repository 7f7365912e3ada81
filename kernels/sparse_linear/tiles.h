// A sparse linear stage: the loops over tiles of outputs and rows, and what surrounds the sums of a tile.
//
// A Kind packs the weights and sums one vector of outputs, or kTogether of them, for R rows; a tile of 4 such vectors
// then goes through the epilogue of the dense kernels. Tiles are the outer loop, so that packed weights are read once
// for all rows. A Kind that is kPrepared has rows of x brought into a form of its own first, in scratch.
#pragma once

#include "_common/checks.h"
#include "linear/epilogue.h"
#include "sparse_linear/pack.h"

namespace rta {

// Independent sums of one output, so that about 4 multiply-adds are in flight for any number of rows.
template <int R>
constexpr int chains() {
  return R == 1 ? 4 : R == 2 ? 2 : 1;
}

// The rows of x that a tile takes, as they lie.
template <class T>
struct RowsAt {
  const T* x;
  int64_t pitch;
  RowsAt(const LinearLayer& p, const char* at) : x(reinterpret_cast<const T*>(at)), pitch(p.x.pitch) {}
};

// What int8 outputs are made of, padded to whole tiles.
template <class S>
static inline void read_numbers(LinearLayer& p, const StageSpec& spec, const SparseRows& rows) {
  const Attrs& attrs = spec.attrs;
  const bool int8 = rows.size == 1;
  p.offset = padded_copy(spec, attrs.floats(int8 ? "offset" : "bias", p.n), p.n, kTile * S::kLanes);
  if (!int8) return;
  p.multiplier = padded_copy(spec, attrs.floats("multiplier", p.n), p.n, kTile * S::kLanes);
  const int64_t whole = (p.n + kTile * S::kLanes - 1) / (kTile * S::kLanes) * (kTile * S::kLanes);
  int32_t* compensation = static_cast<int32_t*>(spec.weights(static_cast<size_t>(whole) * sizeof(int32_t)));
  const int64_t zero = between(attrs, "x_zero_point", -128, 127) + S::kXOffset;
  for (int64_t row = 0; spec.packs() && row < p.n; ++row) {
    int64_t sum = 0;
    for (int32_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) sum += static_cast<int8_t>(rows.values[i]);
    compensation[row] = static_cast<int32_t>(-zero * sum);
  }
  p.compensation = compensation;
}

template <class S, class Kind>
class SparseStage final : public Stage {
 public:
  explicit SparseStage(const StageSpec& spec) : layer_(read_layer(spec)), kind_(spec, layer_) {
    if ((spec.input(0).dtype == RTA_INT8) != Kind::kInt8) fail("sparse_linear: input and weight have different dtypes");
  }

  // A part is a number of whole units of 64 outputs: as int8 they are a cache line.
  int parts(int64_t) const override { return static_cast<int>((layer_.n + kUnit - 1) / kUnit); }
  int64_t cost_ns(int64_t samples) const override { return samples * layer_.x.steps * kind_.steps() / 8; }

  bool marks_samples() const override { return layer_.marks_samples(); }

  void run(const Run& run) const override {
    if (layer_.marks_samples()) layer_.mark_samples(run);
    const int64_t units = (layer_.n + kUnit - 1) / kUnit, rows = layer_.x.rows(run);
    const int64_t from = run.part * units / run.parts * kUnit, to = (run.part + 1) * units / run.parts * kUnit;
    const int64_t tiles = ((to < layer_.n ? to : layer_.n) - from + kColumns - 1) / kColumns;
    for (int64_t first = 0; first < rows; first += kBlockRows) {
      const int64_t count = rows - first < kBlockRows ? rows - first : kBlockRows;
      float nonfinite[kBlockRows];
      if constexpr (Kind::kPrepared) {
        for (int64_t r = 0; r < count; ++r)
          nonfinite[r] = kind_.prepare(layer_.x.row(run, first + r), run.scratch + r * kind_.prepared_bytes());
      } else if constexpr (!Kind::kInt8) {
        for (int64_t r = 0; r < count; ++r) nonfinite[r] = not_finite(layer_.x.row(run, first + r));
      }
      // Odd calls go backwards: what does not fit a cache then finds its end there from the call before.
      for (int64_t i = 0; i < tiles; ++i)
        tile(run, first, count, from + (run.tick & 1 ? tiles - 1 - i : i) * kColumns, nonfinite);
    }
  }

 private:
  static constexpr int64_t kUnit = 64, kColumns = kTile * S::kLanes;
  static constexpr int kRows = S::kRegisters == 32 ? 4 : 1;

  // 0, or NaN where a number of the row is not finite. A zero that is not there cannot turn it into one.
  float not_finite(const char* row) const {
    const float* x = reinterpret_cast<const float*>(row);
    const auto zero = S::set(0.0f);
    auto sum = zero;
    int64_t k = 0;
    for (; k + S::kLanes <= layer_.k; k += S::kLanes) sum = S::mul_add(S::load(x + k), zero, sum);
    if (k < layer_.k) sum = S::mul_add(S::load_n(x + k, static_cast<int>(layer_.k - k)), zero, sum);
    return S::sum_of(sum);
  }

  void tile(const Run& run, int64_t first, int64_t count, int64_t column, const float* nonfinite) const {
    for (int64_t r = 0; r < count;) {
      const int64_t left = count - r;
      const int now = static_cast<int>(left < kRows ? left : kRows);
      switch (now) {
        case 1: block<1>(run, first, r, column, nonfinite); break;
        case 2: block < kRows<2 ? kRows : 2>(run, first, r, column, nonfinite); break;
        case 3: block < kRows<3 ? kRows : 3>(run, first, r, column, nonfinite); break;
        default: block<kRows>(run, first, r, column, nonfinite);
      }
      r += now;
    }
  }

  template <int R>
  void block(const Run& run, int64_t first, int64_t in_block, int64_t column,
             [[maybe_unused]] const float* nonfinite) const {
    using Sum = typename Kind::Sum;
    const int64_t row = first + in_block;
    const char* at = layer_.x.row(run, row);
    if constexpr (Kind::kPrepared) at = run.scratch + in_block * kind_.prepared_bytes();
    const typename Kind::template Rows<R> x(layer_, at);
    Sum sums[R][kTile];
#pragma GCC unroll 4
    for (int v = 0; v < kTile; v += Kind::kTogether) {
      Sum some[Kind::kTogether][R];
      kind_.template sums<R>(column / S::kLanes + v, x, run.tick & 1, some);
#pragma GCC unroll 4
      for (int w = 0; w < Kind::kTogether; ++w)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r][v + w] = some[w][r];
    }
    kind_.template arrange<R>(column / kColumns, sums);
    char* y = layer_.y.row(run, row);
    if constexpr (Kind::kInt8) {
#pragma GCC unroll 4
      for (int v = 0; v < kTile; ++v) {
        const auto start = S::load_int(layer_.compensation + column + v * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r][v] = S::add_int(sums[r][v], start);
      }
      if (layer_.plain && column + kColumns <= layer_.n) return to_floats<S, R, kTile>(layer_, sums, y, column);
      typename S::F t[R][kTile];
      rescale<S, R, kTile>(layer_, sums, t, column,
                           layer_.row_scale.exists() ? layer_.row_scale.row(run, row) : nullptr);
      epilogue<S, R, kTile>(layer_, t, y, column);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < kTile; ++v) {
        const auto bias = S::load(layer_.offset + column + v * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sums[r][v] = S::add(sums[r][v], S::add(bias, S::set(nonfinite[in_block + r])));
      }
      epilogue<S, R, kTile>(layer_, sums, y, column);
    }
  }

  LinearLayer layer_;
  Kind kind_;
};

// nullptr, or why a kernel that packs `layout` does not take the stage.
static inline const char* sparse_reject(const Attrs& attrs, const char* layout, const char* other) {
  if (!attrs.text_is("layout", layout)) return other;
  const bool int8 = attrs.text_is("weight_dtype", "int8");
  if (int8 && attrs.text_is("input_dtype", "float32")) return "takes int8 weights with int8 inputs";
  return int8 || attrs.text_is("weight_dtype", "float32") ? nullptr : "takes float32 and int8 values";
}

}  // namespace rta
