// What both kernels of pooling read, and how both end: activation, rounding to int8, and the write to y.
#pragma once

#include "_common/checks.h"
#include "_core/stage.h"
#include "_simd/activation.h"
#include "_simd/store_bytes.h"

namespace rta {

constexpr int64_t kPoolTaps = 1 << 22;  // sums of so many bytes stay below 2^31

struct PoolLayer {
  GraphIO x, y;
  bool int8_in, int8_out, largest;
  Activation activation;
  float parameter;
  int32_t x_zero;
  float y_inv_scale;
  int32_t y_zero;

  bool marks_samples() const { return !int8_in && int8_out; }
};

static inline PoolLayer read_pool(const StageSpec& spec) {
  expect_ports(spec, 1, 1);
  expect_dtype(spec.input(0), RTA_FLOAT32, RTA_INT8, "x");
  expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
  const Attrs& a = spec.attrs;
  return {spec.in(0),
          spec.out(0),
          spec.input(0).dtype == RTA_INT8,
          spec.output(0).dtype == RTA_INT8,
          flag(a, "largest"),
          parse_activation(a.text("activation")),
          static_cast<float>(a.real("activation_parameter")),
          zero_byte(a, "x_zero_point"),
          static_cast<float>(a.real("y_inv_scale")),
          zero_byte(a, "y_zero_point")};
}

// What each window reads of `size` places, padding left out: [window][how many, then which].
static inline const int32_t* read_windows(const StageSpec& spec, const char* name, int64_t windows, int64_t taps,
                                          int64_t size) {
  const int32_t* index = spec.attrs.ints(name, product(windows, taps));
  expect_within(index, windows * taps, -1, size, name);
  int32_t* made = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(product(windows, taps + 1)) * 4));
  for (int64_t w = 0; w < windows; ++w) {
    int32_t* own = made + w * (taps + 1);
    for (int64_t t = 0; t < taps; ++t)
      if (index[w * taps + t] >= 0) own[++own[0]] = index[w * taps + t];
    expect(own[0] > 0, "window %lld lies wholly in the padding", static_cast<long long>(w));
  }
  return made;
}

static inline const float* read_multiplier(const StageSpec& spec, int64_t count) {
  float* made = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * 4));
  const float* given = spec.attrs.floats("multiplier", count);
  for (int64_t i = 0; i < count; ++i) made[i] = given[i];
  return made;
}

// V vectors to y from `column` on, of which `left` columns exist. kSpills: whole vectors of bytes may be written past
// them.
template <class S, int V, bool kSpills>
static inline __attribute__((always_inline)) void pool_epilogue(const PoolLayer& p, typename S::F (&t)[V], char* y,
                                                                int64_t column, int64_t left, float* nan_marks) {
  using F = typename S::F;
  if (p.marks_samples()) {
    F nonfinite = S::set(0.0f);
    for (int v = 0; v < V; ++v) nonfinite = S::mul_add(t[v], S::set(0.0f), nonfinite);
    if (!(S::sum_of(nonfinite) == 0.0f)) *nan_marks = __builtin_nanf("");
  }
  if (p.activation == Activation::kRelu) {
    for (int v = 0; v < V; ++v) t[v] = S::max(S::set(0.0f), t[v]);
  } else if (p.activation != Activation::kNone) {
    alignas(64) float values[V * S::kLanes];
    for (int v = 0; v < V; ++v) S::store(values + v * S::kLanes, t[v]);
    activate_in_place<S>(p.activation, p.parameter, values, V);
    for (int v = 0; v < V; ++v) t[v] = S::load(values + v * S::kLanes);
  }
  if (p.int8_out) {
    typename S::I q[V];
    for (int v = 0; v < V; ++v)
      q[v] = S::to_int(S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(t[v], S::set(p.y_inv_scale)))));
    uint8_t* to = reinterpret_cast<uint8_t*>(y) + column;
    if (kSpills || left >= V * S::kLanes) return store_bytes<S, V>(to, q, p.y_zero, 0);
    alignas(64) uint8_t bytes[V * S::kLanes];
    store_bytes<S, V>(bytes, q, p.y_zero, 0);
    for (int64_t j = 0; j < left; ++j) to[j] = bytes[j];
    return;
  }
  float* to = reinterpret_cast<float*>(y) + column;
  for (int v = 0; v < V; ++v) {
    const int64_t n = left - v * S::kLanes;
    if (n >= S::kLanes)
      S::store(to + v * S::kLanes, t[v]);
    else
      S::store_n(to + v * S::kLanes, t[v], static_cast<int>(n));
  }
}

}  // namespace rta
