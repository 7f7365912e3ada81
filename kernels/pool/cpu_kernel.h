// Pooling on the CPU: up to 4 vectors of channels walk through the positions of a window. The contract is in
// contract.py.
#pragma once

#include "_common/long_sums.h"
#include "planes.h"

namespace rta {

template <class S>
class PoolStage final : public Stage {
  using F = typename S::F;
  using I = typename S::I;

 public:
  explicit PoolStage(const StageSpec& spec) : p_(read_pool(spec)), taps_(between(spec.attrs, "taps", 1, kPoolTaps)) {
    expect(p_.x.width == p_.y.width, "%lld channels to %lld", static_cast<long long>(p_.x.width),
           static_cast<long long>(p_.y.width));
    rows_ = read_windows(spec, "index", p_.y.steps, taps_, p_.x.steps);  // positions inside the image
    multiplier_ = read_multiplier(spec, p_.y.steps);
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  void run(const Run& run) const override {
    const int64_t width = p_.y.width;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t column = 0; column < width; column += 4 * S::kLanes) {
        const int64_t left = width - column;
        switch (left >= 4 * S::kLanes ? 4 : (left + S::kLanes - 1) / S::kLanes) {
          case 1: windows<1>(run, s, column, left); break;
          case 2: windows<2>(run, s, column, left); break;
          case 3: windows<3>(run, s, column, left); break;
          default: windows<4>(run, s, column, left);
        }
      }
  }

 private:
  template <int V>
  void windows(const Run& run, int64_t s, int64_t column, int64_t left) const {
    const char* x = p_.x.row(run, s * p_.x.steps);
    for (int64_t p = 0; p < p_.y.steps; ++p) {
      const int32_t* rows = rows_ + p * (taps_ + 1);
      F t[1][V];
      if (p_.int8_in)
        p_.largest ? bytes<V, true>(x + column, rows, t[0]) : bytes<V, false>(x + column, rows, t[0]);
      else
        p_.largest ? floats<V, true>(x + column * 4, rows, left, t) : floats<V, false>(x + column * 4, rows, left, t);
      const F multiplier = S::set(multiplier_[p]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) t[0][v] = S::mul(t[0][v], multiplier);
      pool_epilogue<S, V, true>(p_, t[0], p_.y.row(run, s * p_.y.steps + p), column, left, run.nan_marks + s);
    }
  }

  template <int V, bool kLargest>
  void bytes(const char* x, const int32_t* rows, F (&t)[V]) const {
    I acc[V];
    const int32_t count = rows[0];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = S::set_int(kLargest ? 0 : -p_.x_zero * count);
    for (int32_t i = 1; i <= count; ++i) {
      const uint8_t* from = reinterpret_cast<const uint8_t*>(x + rows[i] * p_.x.pitch);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        const I q = S::load_u8(from + v * S::kLanes);
        acc[v] = kLargest ? S::max_int(acc[v], q) : S::add_int(acc[v], q);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) t[v] = S::to_float(kLargest ? S::sub_int(acc[v], S::set_int(p_.x_zero)) : acc[v]);
  }

  template <int V, bool kLargest>
  void floats(const char* x, const int32_t* rows, int64_t left, F (&t)[1][V]) const {
    const auto load = [&](int32_t row, int v) __attribute__((always_inline)) {
      const float* from = reinterpret_cast<const float*>(x + row * p_.x.pitch) + v * S::kLanes;
      const int64_t n = left - v * S::kLanes;
      return n >= S::kLanes ? S::load(from) : S::load_n(from, static_cast<int>(n));
    };
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) t[0][v] = load(rows[1], v);
    LongSums<S, 1, V> all;
    const int64_t count = rows[0];
    for (int64_t i = 1; i < count;) {
      for (const int64_t end = kLargest ? count : run_end(i, count); i < end; ++i) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const F value = load(rows[i + 1], v);
          if constexpr (kLargest)  // a NaN stays: max gives its second operand where either is one
            t[0][v] = S::select(S::equal(t[0][v], t[0][v]), S::max(t[0][v], value), t[0][v]);
          else
            t[0][v] = S::add(t[0][v], value);
        }
      }
      if (i < count) all.keep(t);
    }
    all.finish(t);
  }

  PoolLayer p_;
  int64_t taps_;
  const int32_t* rows_;
  const float* multiplier_;
};

template <class S>
RTA_ONCE Stage* create_pool(const StageSpec& spec) {
  if (spec.attrs.has("planes") && flag(spec.attrs, "planes")) return new PlanePoolStage<S>(spec);
  return new PoolStage<S>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "pool", "cpu", nullptr, create_pool<S>);
}

}  // namespace rta
