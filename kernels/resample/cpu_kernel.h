// Resample on the CPU. The contract is in contract.py.
//
// Rows that lie inside one position are one run where they have no padding. Floor: the bytes of x and y over the
// bandwidth of the cache that they are in; up to four taps are less work than that.
#pragma once

#include "_common/checks.h"

namespace rta {

template <class S>
class ResampleStage final : public Stage {
  using F = typename S::F;

 public:
  explicit ResampleStage(const StageSpec& spec)
      : x_(spec.in(0)),
        y_(spec.out(0)),
        outer_(between(spec.attrs, "outer", 1, INT32_MAX)),
        outputs_(between(spec.attrs, "outputs", 1, INT32_MAX)),
        taps_(between(spec.attrs, "taps", 1, INT32_MAX)) {
    expect_ports(spec, 1, 1);
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("resample: takes float32");
    const int64_t inner = between(spec.attrs, "inner", 1, INT32_MAX), count = product(outputs_, taps_);
    const int64_t positions = x_.steps / product(outer_, inner);  // of x, each `inner` rows
    expect_shape(spec.input(0), product(outer_, positions, inner), y_.width, "x");
    expect_shape(spec.output(0), product(outer_, outputs_, inner), x_.width, "y");
    const bool dense = x_.pitch == x_.width * 4 && y_.pitch == y_.width * 4;
    runs_ = dense ? 1 : inner;
    length_ = dense ? inner * x_.width : x_.width;
    x_run_ = x_.pitch, y_run_ = y_.pitch;
    x_outer_ = x_.steps / outer_ * x_.pitch, y_position_ = inner * y_.pitch;
    const int32_t* index = spec.attrs.ints("index", count);
    expect_within(index, count, -1, positions, "index");
    const float* given = spec.attrs.floats("weight", count);
    int64_t* at = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(count) * 8));
    float* weight = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * 4));
    int32_t* used = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(outputs_) * 4));
    for (int64_t j = 0; j < outputs_; ++j)
      for (int64_t t = 0; t < taps_; ++t) {
        const int64_t i = j * taps_ + t;
        weight[i] = given[i];
        at[i] = index[i] < 0 ? 0 : index[i] * inner * x_.pitch;
        if (index[i] >= 0) ++used[j];
      }
    for (int64_t j = 0; j < outputs_; ++j) expect(used[j] > 0, "output %lld reads nothing", static_cast<long long>(j));
    at_ = at, weight_ = weight, used_ = used;
  }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      char* y = y_.row(run, s * y_.steps);
      for (int64_t o = 0; o < outer_; ++o, x += x_outer_)
        for (int64_t j = 0; j < outputs_; ++j, y += y_position_) {
          const int64_t* at = at_ + j * taps_;
          const float* w = weight_ + j * taps_;
          for (int64_t r = 0; r < runs_; ++r) {
            const char* from = x + r * x_run_;
            float* to = reinterpret_cast<float*>(y + r * y_run_);
            switch (used_[j]) {
              case 1: sums<1>(from, at, w, 1, to); break;
              case 2: sums<2>(from, at, w, 2, to); break;
              case 4: sums<4>(from, at, w, 4, to); break;
              default: sums<0>(from, at, w, used_[j], to);
            }
          }
        }
    }
  }

 private:
  // kTaps: 0 where their number is no constant.
  template <int kTaps>
  void sums(const char* x, const int64_t* at, const float* w, int64_t taps, float* y) const {
    constexpr int k = S::kLanes;
    const int64_t count = kTaps ? kTaps : taps;
    int64_t i = 0;
    for (; i + 2 * k <= length_; i += 2 * k) {
      F a = S::mul(S::set(w[0]), S::load(tap(x, at[0]) + i)), b = S::mul(S::set(w[0]), S::load(tap(x, at[0]) + i + k));
#pragma GCC unroll 4
      for (int64_t t = 1; t < count; ++t) {
        a = S::mul_add(S::set(w[t]), S::load(tap(x, at[t]) + i), a);
        b = S::mul_add(S::set(w[t]), S::load(tap(x, at[t]) + i + k), b);
      }
      S::store(y + i, a);
      S::store(y + i + k, b);
    }
    for (; i < length_; i += k) {
      const int n = static_cast<int>(length_ - i < k ? length_ - i : k);
      F a = S::mul(S::set(w[0]), S::load_n(tap(x, at[0]) + i, n));
#pragma GCC unroll 4
      for (int64_t t = 1; t < count; ++t) a = S::mul_add(S::set(w[t]), S::load_n(tap(x, at[t]) + i, n), a);
      S::store_n(y + i, a, n);
    }
  }

  static const float* tap(const char* x, int64_t bytes) { return reinterpret_cast<const float*>(x + bytes); }

  GraphIO x_, y_;
  int64_t outer_, outputs_, taps_, runs_, length_, x_run_, y_run_, x_outer_, y_position_;
  const int64_t* at_;
  const float* weight_;
  const int32_t* used_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "resample", "cpu", nullptr, create_stage<ResampleStage<S>>);
}

}  // namespace rta
