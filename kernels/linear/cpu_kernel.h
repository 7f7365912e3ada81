// Linear on the CPU, written once over the vectors S of an instruction set.
//
// Weights are packed into tiles of 4 or 8 vectors of outputs (S::kTileVectors, by measurement), inside a tile by k:
//     [tile][k / group][vector][lane = output][group]
// so that one row times one tile is one ascending stream: broadcast `group` inputs, multiply into the accumulators of
// the tile, next group. A tile with few vectors splits k over several sets of accumulators, so that about 8 are in
// flight and hide the latency of the multiply-add. Several rows share each weight that was loaded: up to 6, in parts of
// 4 vectors, so that the weights pass by once for 6 rows and their stream stays below what the cache gives.
//
// Dot products: int8
//
// Floor, 1 x 1024 x 1024 int8: 1 MiB of weights at the bandwidth of the cache that holds them.
#pragma once

#include <cmath>
#include <cstdlib>

#include "_common/checks.h"
#include "_common/pack_tile.h"
#include "linear/float32_tile.h"
#include "linear/int8_tile.h"
#include "linear/narrow.h"

namespace rta {

template <class S, template <class> class Kind>
class LinearStage : public Stage {
 public:
  // whole: the k of a packed tile are filled up with zeros to a multiple of so many groups.
  explicit LinearStage(const StageSpec& spec, int64_t whole = 1);

  bool marks_samples() const override { return layer_.marks_samples(); }

  int parts(int64_t samples) const override {
    const int64_t rows = samples * layer_.x.steps, most = tiles() > rows / kRows ? tiles() : rows / kRows;
    return static_cast<int>(most < kMostParts ? most : kMostParts);
  }

  // Multiply-adds at the peak of the set. What reading the weights takes is known to the plan.
  int64_t cost_ns(int64_t samples) const override {
    constexpr int64_t kPerCycle = 2 * S::kLanes * Kind<S>::kGroup, kCyclesPerNs = 4;
    return samples * layer_.x.steps * layer_.n * layer_.k / (kPerCycle * kCyclesPerNs);
  }

  // Rows are in the same groups for any number of parts, as the order of a float32 sum depends on the group.
  void run(const Run& run) const override {
    if (marks_samples()) layer_.mark_samples(run);
    share(run, share_of(run, kRows));
  }

 protected:
  // What a part computes: packed tiles tile .. tile_end - 1 of rows row .. row_end - 1.
  struct Share {
    int64_t tile, tile_end, row, row_end;
  };

  void share(const Run& run, const Share& share) const {
    const int64_t tile_bytes = groups_ * S::kTileVectors * Kind<S>::kStep, count = share.tile_end - share.tile;
    // Odd calls of few rows go backwards: what does not fit a cache then finds its end there from the call before. A
    // layer of 1024 x 1024 bytes takes 10.6 us, and 11.8 always forwards; 256 x 256 takes 0.75 and 0.80 (Zen 4,
    // 2026-11).
    const bool backwards = (run.tick & 1) && share.row_end - share.row <= kRows;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tile = backwards ? share.tile_end - 1 - i : share.tile + i, column = tile * kTileColumns;
      const char* w = static_cast<const char*>(layer_.weights) + tile * tile_bytes;
      const int64_t left = (layer_.n - column + S::kLanes - 1) / S::kLanes;
      const int vectors = static_cast<int>(left < S::kTileVectors ? left : S::kTileVectors);
      switch (vectors) {
        case 1: rows<1>(run, w, column, share); break;
        case 2: rows<2>(run, w, column, share); break;
        case 3: rows<3>(run, w, column, share); break;
        case 4: rows<4>(run, w, column, share); break;
        default:
          if constexpr (S::kTileVectors == 8) {
            switch (vectors) {
              case 5: rows<5>(run, w, column, share); break;
              case 6: rows<6>(run, w, column, share); break;
              case 7: rows<7>(run, w, column, share); break;
              default: rows<8>(run, w, column, share);
            }
          }
      }
    }
  }

  static constexpr int64_t kTileColumns = S::kTileVectors * S::kLanes;
  static constexpr int64_t kMostParts = 1 << 20;
  int64_t tiles() const { return (layer_.n + kTileColumns - 1) / kTileColumns; }

  // Whole tiles of all rows, or all tiles of whole groups of rows: whichever leaves the largest part smaller.
  Share share_of(const Run& run, int64_t group) const {
    const int64_t rows = layer_.x.rows(run), part = run.part, parts = run.parts;
    if (parts == 1) return {0, tiles(), 0, rows};
    const int64_t groups = rows / group, most_tiles = (tiles() + parts - 1) / parts;
    const int64_t most_rows = (groups + parts - 1) / parts * group;
    if (groups < parts || most_tiles * rows <= most_rows * tiles())
      return {part * tiles() / parts, (part + 1) * tiles() / parts, 0, rows};
    const int64_t end = part + 1 == parts ? rows : (part + 1) * groups / parts * group;
    return {0, tiles(), part * groups / parts * group, end};
  }

 private:
  struct Cursor {  // where the running rows are
    const char *x, *scale;
    char* y;
  };

  template <int V>
  void rows(const Run& run, const char* w, int64_t column, const Share& share) const {
    if constexpr (RTA_WANTS_TILE(S::kLanes, S::kTileVectors, V)) wanted_rows<V>(run, w, column, share);
  }

  template <int V>
  void wanted_rows(const Run& run, const char* w, int64_t column, const Share& share) const {
    Cursor at{layer_.x.row(run, share.row), layer_.row_scale.exists() ? layer_.row_scale.row(run, share.row) : nullptr,
              layer_.y.row(run, share.row)};
    int64_t left = share.row_end - share.row;
    const bool weights_exceed_l2 =
        RTA_WANTS_FAR_WEIGHTS && V <= kPartVectors && layer_.x.rows(run) > kRows && run.weights_exceed_l2;
    if constexpr (kBlocked && V <= kPartVectors && RTA_MOST_ROWS > kRows && RTA_WANTS_FAR_WEIGHTS)
      if (weights_exceed_l2) return blocked<V>(at, w, column, left);
    const int64_t passes = passes_of(left);
    const char* next = w + groups_ * V * Kind<S>::kStep;
    for (int pass = 0; left > 0; ++pass) {
      const int now = next_rows(left);
      const Prefetch ahead =
          weights_exceed_l2 ? Prefetch::of_pass(pass, passes, next, V, groups_, Kind<S>::kStep) : Prefetch{};
      switch (now) {
        case 1: block<1, V>(at, w, column, ahead); break;
        case 2: block<most(2), V>(at, w, column, ahead); break;
        case 3: block<most(3), V>(at, w, column, ahead); break;
        case 4: block<most(4), V>(at, w, column, ahead); break;
        case 5: block<most(5), V>(at, w, column, ahead); break;
        default: block<most(kRows), V>(at, w, column, ahead);
      }
      at.x += now * layer_.x.pitch;
      at.y += now * layer_.y.pitch;
      if (at.scale) at.scale += now * layer_.row_scale.pitch;
      left -= now;
    }
  }

  // As few passes over the weights as the registers allow, and no last pass for a single row where it can be helped.
  static int next_rows(int64_t left) {
    if (left <= kRows) return static_cast<int>(left);
    return left <= kRows + 2 ? static_cast<int>(left + 1) / 2 : kRows;
  }

  static int64_t passes_of(int64_t rows) { return (rows + kRows - 1) / kRows; }

  // Many rows of float32, weights beyond the second-level cache: kBlockK of K at a time for all of them, so that a part
  // stays in half of a small one. The first passes fetch the weights of the next part: an encoder with 43 MB of them
  // takes 6.3 ms, and 6.6 where only layers with K > 512 fetch. Parts small enough for the first-level cache gain
  // nothing, as 6 rows ask for a vector in 6 multiply-adds, and each part ends a loop and stores its sums: 64 rows of
  // 1024 x 1024 take 1220 us by 96 of K, 1187 by 192, 1166 by 512 and 1155 by 1024 (32 rows and 64, Zen 4, 2026-11).
  template <int V>
  void blocked(const Cursor& start, const char* w, int64_t column, int64_t count) const {
    constexpr int64_t each = V * Kind<S>::kStep;
    alignas(64) float carried[(kBlockedRows + 2) * V * S::kLanes];
    int64_t rows = 0;
    for (int64_t first = 0; first < count; first += rows) {
      const int64_t left = count - first;
      rows = left <= kBlockedRows + 2 ? left : kBlockedRows;  // the groups that next_rows would make of all of them
      for (int64_t from = 0; from < layer_.k; from += kBlockK) {
        const int64_t to = layer_.k - from < kBlockK ? layer_.k : from + kBlockK;
        int now = 0, pass = 0;
        for (int64_t row = 0; row < rows; row += now) {
          now = next_rows(rows - row);
          const char* x = start.x + (first + row) * layer_.x.pitch;
          char* y = start.y + (first + row) * layer_.y.pitch;
          const Prefetch ahead =
              Prefetch::of_pass(pass++, passes_of(rows), w + to * V * Kind<S>::kStep, V, to - from, Kind<S>::kStep);
          float* sums = carried + row * V * S::kLanes;
          switch (now) {
            case 1: Kind<S>::template tile<1, V>(layer_, w, each, x, y, column, from, to, sums, ahead); break;
            case 2: Kind<S>::template tile<2, V>(layer_, w, each, x, y, column, from, to, sums, ahead); break;
            case 3: Kind<S>::template tile<3, V>(layer_, w, each, x, y, column, from, to, sums, ahead); break;
            case 4: Kind<S>::template tile<most(4), V>(layer_, w, each, x, y, column, from, to, sums, ahead); break;
            case 5: Kind<S>::template tile<most(5), V>(layer_, w, each, x, y, column, from, to, sums, ahead); break;
            default: Kind<S>::template tile<kRows, V>(layer_, w, each, x, y, column, from, to, sums, ahead);
          }
        }
      }
    }
  }

  // R rows of a whole tile: at once where its accumulators fit the registers, else in two parts.
  template <int R, int V>
  void block(const Cursor& at, const char* w, int64_t column, Prefetch ahead) const {
    if constexpr (R * V <= kAccumulators || V <= kPartVectors) {
      Kind<S>::template tile<R, V, V>(layer_, w, at.x, at.y, column, at.scale, ahead);
    } else {
      constexpr int kRest = V - kPartVectors;
      Kind<S>::template tile<R, kPartVectors, V>(layer_, w, at.x, at.y, column, at.scale, Prefetch{});
      Kind<S>::template tile<R, kRest, V>(layer_, w + kPartVectors * Kind<S>::kStep, at.x, at.y,
                                          column + kPartVectors * S::kLanes, at.scale, Prefetch{});
    }
  }

  static constexpr int kAccumulators = S::kRegisters * 3 / 4;
  static constexpr int kRows = kAccumulators / kPartVectors;  // 6 with 32 registers, 3 with 16
  // R, or as many rows as there are registers for, or as a call may have.
  static constexpr int most(int64_t rows) {
    rows = rows < kRows ? rows : kRows;
    return static_cast<int>(rows < RTA_MOST_ROWS ? rows : RTA_MOST_ROWS);
  }
  static constexpr bool kBlocked = sizeof(typename Kind<S>::Weight) == 4;
  static constexpr int64_t kBlockK = 512, kBlockedRows = 48;

 protected:
  LinearLayer layer_;
  int64_t groups_;  // of k in a packed tile
};

template <class S, template <class> class Kind>
LinearStage<S, Kind>::LinearStage(const StageSpec& spec, int64_t whole) {
  constexpr bool int8 = sizeof(typename Kind<S>::Input) == 1;
  layer_ = read_layer(spec);
  LinearLayer& p = layer_;
  const Attrs& attrs = spec.attrs;
  if (spec.input(0).dtype != (int8 ? RTA_INT8 : RTA_FLOAT32)) fail("linear: input and weight have different dtypes");

  constexpr int group = Kind<S>::kGroup, lanes = S::kLanes;
  check_tiles<S>(p, S::kTileVectors);
  using Weight = typename Kind<S>::Weight;
  const int64_t groups = ((p.k + group - 1) / group + whole - 1) / whole * whole;
  const int64_t vectors = (p.n + lanes - 1) / lanes;
  groups_ = groups;
  const Weight* weight = Kind<S>::weights(attrs, p.n * p.k);
  Weight* packed = static_cast<Weight*>(spec.weights(static_cast<size_t>(groups * vectors * Kind<S>::kStep)));
  p.weights = packed;
  for (int64_t tile = 0; spec.packs() && tile < p.n; tile += S::kTileVectors * lanes) {
    const int64_t left = (p.n - tile + lanes - 1) / lanes, width = left < S::kTileVectors ? left : S::kTileVectors;
    pack_tile<group>(packed, weight, p.n, p.k, tile, width * lanes);
    packed += groups * width * lanes * group;
  }
  const float* offset = attrs.floats(int8 ? "offset" : "bias", p.n);
  p.offset = padded_copy(spec, offset, p.n, lanes);
  if constexpr (int8) {
    const float* scale = attrs.floats("multiplier", p.n);
    p.multiplier = padded_copy(spec, scale, p.n, lanes);
    int32_t* compensation = static_cast<int32_t*>(spec.weights(static_cast<size_t>(vectors * lanes) * sizeof(int32_t)));
    double* most = static_cast<double*>(spec.weights(sizeof(double)));
    const int64_t zero = between(attrs, "x_zero_point", -128, 127) + S::kXOffset;
    for (int64_t i = 0; spec.packs() && i < p.n; ++i) {
      const Sums sums = sums_of(weight + i * p.k, p.k);
      compensation[i] = static_cast<int32_t>(-zero * sums.sum);
      const double bound = 255.0 * static_cast<double>(sums.magnitude) * std::fabs(scale[i]) + std::fabs(offset[i]);
      *most = bound > *most || bound != bound ? bound : *most;  // a NaN stays
    }
    p.bound(*most);
    p.compensation = compensation;
  }
}

// The layer with the wide tile for many rows.
template <class S>
class WideLinear final : public LinearStage<S, Int8> {
  using Base = LinearStage<S, Int8>;

 public:
  explicit WideLinear(const StageSpec& spec) : Base(spec), wide_(Base::layer_, Base::groups_) {
    spec.need_scratch(wide_.scratch_bytes());
  }

  void run(const Run& run) const override {
    if (Base::layer_.x.rows(run) < Int8Wide<S>::kLeastRows) return Base::run(run);
    if (Base::marks_samples()) Base::layer_.mark_samples(run);
    const typename Base::Share share = Base::share_of(run, Int8Wide<S>::kRows);
    const bool last = share.tile < share.tile_end && share.tile_end == Base::tiles();
    const bool single = last && (Base::layer_.n - 1) / S::kLanes % S::kTileVectors == 0;  // a tile of one vector
    wide_.run(run, share.tile, share.tile_end - single, share.row, share.row_end);
    if (single) Base::share(run, {share.tile_end - 1, share.tile_end, share.row, share.row_end});
  }

 private:
  Int8Wide<S> wide_;
};

static const char* linear_reject(const Attrs& attrs) {
  if (attrs.text_is("weight_dtype", "float32")) return nullptr;
  if (!attrs.text_is("weight_dtype", "int8")) return "takes float32 and int8 weights";
  return attrs.text_is("input_dtype", "float32") ? "takes int8 weights with int8 inputs" : nullptr;
}

template <class S>
RTA_ONCE Stage* create_linear(const StageSpec& spec) {
  if constexpr (RTA_WANTS("linear", "float32") && kHasFloat32<S>)
    if (spec.attrs.text_is("weight_dtype", "float32")) {
      if (NarrowLinear<S>::takes(spec)) return new NarrowLinear<S>(spec);
      return new LinearStage<S, Float32>(spec);
    }
  if constexpr (RTA_WANTS("linear", "int8"))
    if (spec.attrs.text_is("weight_dtype", "int8")) {
      if constexpr (Int8Wide<S>::kExists && RTA_MOST_ROWS >= Int8Wide<S>::kLeastRows) return new WideLinear<S>(spec);
      return new LinearStage<S, Int8>(spec);
    }
  fail("linear: weights of dtype %s, for which this was not built", spec.attrs.text("weight_dtype"));
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear", "cpu", (rejects_float32<S, linear_reject>), create_linear<S>);
}

}  // namespace rta
