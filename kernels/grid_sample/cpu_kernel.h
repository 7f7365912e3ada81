// Grid sample on the CPU. The contract is in contract.py.
//
// Places and weights of a block of points are worked out once, by vectors of points, and then used for all channels.
// Channels first, a channel is a plane of its own: every tap is a load of its own, two a cycle at the most. Channels
// last, a tap is a row of channels.
#pragma once

#include "_common/checks.h"
#include "grid_sample/places.h"

namespace rta {

template <class S>
class GridSampleStage final : public Stage {
  using F = typename S::F;
  static constexpr int kPoints = 64;  // of a block

 public:
  explicit GridSampleStage(const StageSpec& spec)
      : x_(spec.in(0)),
        grid_(spec.in(1)),
        y_(spec.out(0)),
        rank_(static_cast<int>(between(spec.attrs, "rank", 2, 3))),
        images_(between(spec.attrs, "images", 1, INT32_MAX)),
        last_(flag(spec.attrs, "channels_last")) {
    expect_inputs(spec, 1, 2);
    expect_outputs(spec, 1, 1);
    for (int i = 0; i < spec.input_count; ++i) expect_dtype(spec.input(i), RTA_FLOAT32, RTA_FLOAT32, "an input");
    expect_dtype(spec.output(0), RTA_FLOAT32, RTA_FLOAT32, "y");
    const int mode = static_cast<int>(between(spec.attrs, "mode", 0, 2));
    const int padding = static_cast<int>(between(spec.attrs, "padding", 0, 2));
    expect(mode != kCubic || rank_ == 2, "cubic in %d dimensions", rank_);
    const int32_t* sizes = spec.attrs.ints("sizes", rank_);
    positions_ = 1;
    for (int d = 0; d < rank_; ++d) {
      expect(sizes[d] > 0, "a size of %d", sizes[d]);
      positions_ = product(positions_, sizes[d]);
      dimension_[d].set(sizes[d], mode, padding, flag(spec.attrs, "align"), rank_);
    }
    expect(positions_ <= 1 << 22, "%lld positions", static_cast<long long>(positions_));
    const int each = mode == kLinear ? 2 : mode == kNearest ? 1 : 4;
    taps_ = rank_ == 3 ? each * each * each : each * each;
    for (int t = 0; t < taps_; ++t)
      for (int d = rank_ - 1, left = t; d >= 0; --d, left /= each) own_[t][d] = static_cast<uint8_t>(left % each);
    clears_ = rank_ == 3 || mode == kNearest;
    channels_ = last_ ? x_.width : x_.steps / images_;
    points_ = last_ ? y_.steps / images_ : y_.width;
    if (grid_.exists()) {
      expect_shape(spec.input(1), product(images_, points_), rank_, "the grid");
      grid_pitch_ = grid_.pitch;
    } else {
      const int64_t count = product(images_, points_, rank_);
      const float* given = spec.attrs.floats("grid", count);
      float* own = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * 4));
      for (int64_t i = 0; i < count; ++i) own[i] = given[i];
      constant_ = reinterpret_cast<const char*>(own), grid_pitch_ = rank_ * 4;
    }
    expect_shape(spec.input(0), product(images_, last_ ? positions_ : channels_), last_ ? channels_ : positions_, "x");
    expect_shape(spec.output(0), product(images_, last_ ? points_ : channels_), last_ ? channels_ : points_, "y");
  }

  void run(const Run& run) const override {
    Block block;
    for (int64_t image = 0; image < run.samples * images_; ++image) {
      const char* x = x_.row(run, image * (last_ ? positions_ : channels_));
      char* y = y_.row(run, image * (last_ ? points_ : channels_));
      for (int64_t first = 0; first < points_; first += kPoints) {
        const int count = static_cast<int>(points_ - first < kPoints ? points_ - first : kPoints);
        const int64_t at = grid_.exists() ? image * points_ + first : image % images_ * points_ + first;
        look(grid_.exists() ? grid_.row(run, at) : constant_ + at * grid_pitch_, count, block);
        if (last_)
          for (int p = 0; p < count; ++p) row(x, block, p, reinterpret_cast<float*>(y + (first + p) * y_.pitch));
        else
          planes(x, block, count, y + first * 4);
      }
    }
  }

 private:
  struct Block {                                 // [tap][point]
    bool whole;                                  // no tap is outside
    alignas(64) int32_t at[kMostTaps][kPoints];  // below 0 outside
    alignas(64) float weight[kMostTaps][kPoints];
  };

  void look(const char* grid, int count, Block& block) const {
    constexpr int k = S::kLanes;
    alignas(64) float point[3][kPoints];
    for (int p = 0; p < kPoints; ++p)
      for (int d = 0; d < rank_; ++d)  // the last number of a point is its first coordinate
        point[d][p] = p < count ? reinterpret_cast<const float*>(grid + p * grid_pitch_)[rank_ - 1 - d] : 0.0f;
    const F zero = S::set(0.0f), none = S::set(kOutside);
    F lowest = zero;
    for (int p = 0; p < count; p += k) {
      F at[3][kMostOfLine], weight[3][kMostOfLine];
      for (int d = 0; d < rank_; ++d) dimension_[d].taps(S::load(point[d] + p), at[d], weight[d]);
      for (int t = 0; t < taps_; ++t) {
        F index = at[0][own_[t][0]], w = weight[0][own_[t][0]];
        for (int d = 1; d < rank_; ++d) {
          const int own = own_[t][d];
          const F sum = S::add(S::mul(index, S::set(dimension_[d].size)), at[d][own]);
          index = S::where_less(index, zero, none, S::where_less(at[d][own], zero, none, sum));
          w = S::mul(w, weight[d][own]);
        }
        lowest = S::min(index, lowest);
        if (clears_) w = S::where_less(index, zero, zero, w);
        S::store(block.weight[t] + p, w);
        S::store_int(block.at[t] + p, S::to_int(S::max(index, S::set(-1.0f))));
      }
    }
    alignas(64) float least[k];
    S::store(least, lowest);
    block.whole = true;
    for (const float v : least) block.whole &= v >= 0.0f;
  }

  void planes(const char* x, const Block& block, int count, char* y) const {
    if (taps_ == 4)
      return block.whole ? planes_of<4, true>(x, block, count, y) : planes_of<4, false>(x, block, count, y);
    block.whole ? planes_of<0, true>(x, block, count, y) : planes_of<0, false>(x, block, count, y);
  }
  template <int kTaps, bool kWhole>  // kTaps: 0 where their number is no constant
  void planes_of(const char* x, const Block& block, int count, char* y) const {
    constexpr int k = S::kLanes;
    const int taps = kTaps ? kTaps : taps_;
    for (int64_t c = 0; c < channels_; ++c, x += x_.pitch, y += y_.pitch) {
      const float* from = reinterpret_cast<const float*>(x);
      float* to = reinterpret_cast<float*>(y);
      for (int p = 0; p < count; p += k) {
        F sum = S::set(0.0f);
#pragma GCC unroll 4
        for (int t = 0; t < taps; ++t) {
          const typename S::I at = S::load_int(block.at[t] + p);
          F taken = S::gather(from, kWhole ? at : S::max_int(at, S::set_int(0)));
          if (!kWhole) taken = S::where_less(S::to_float(at), S::set(0.0f), S::set(0.0f), taken);
          sum = S::add(sum, S::mul(S::load(block.weight[t] + p), taken));
        }
        const int n = count - p;
        if (n >= k)
          S::store(to + p, sum);
        else
          S::store_n(to + p, sum, n);
      }
    }
  }

  void row(const char* x, const Block& block, int p, float* y) const {
    constexpr int k = S::kLanes;
    for (int64_t c = 0; c < channels_; c += k) {
      const int n = static_cast<int>(channels_ - c < k ? channels_ - c : k);
      F sum = S::set(0.0f);
      for (int t = 0; t < taps_; ++t) {
        const F w = S::set(block.weight[t][p]);
        const int32_t i = block.at[t][p];
        const float* from = reinterpret_cast<const float*>(x + i * x_.pitch) + c;
        sum = S::add(sum, S::mul(w, i < 0 ? S::set(0.0f) : n == k ? S::load(from) : S::load_n(from, n)));
      }
      if (n == k)
        S::store(y + c, sum);
      else
        S::store_n(y + c, sum, n);
    }
  }

  GraphIO x_, grid_, y_;
  int rank_;
  int64_t images_;
  bool last_, clears_;
  int taps_;
  uint8_t own_[kMostTaps][3];  // by tap: which one of each dimension
  int64_t positions_, channels_, points_, grid_pitch_;
  const char* constant_ = nullptr;  // a grid that is the same for all samples
  GridDimension<S> dimension_[3];
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "grid_sample", "cpu", nullptr, create_stage<GridSampleStage<S>>);
}

}  // namespace rta
