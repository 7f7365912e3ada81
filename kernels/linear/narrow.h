// Float32 layers of few outputs, at most half a vector of them: gates, scores, a head that is asked at each step.
//
// A lane for each output would leave most of a vector empty. Here lanes are numbers along K: every output of every row
// of a block has a vector of sums, so many that they fill a square, which is turned in registers and added up. A row of
// K numbers takes K / lanes multiply-adds an output, and not K.
#pragma once

#include "_common/long_sums.h"
#include "_simd/transpose.h"
#include "linear/epilogue.h"

namespace rta {

template <class S>
class NarrowLinear final : public Stage {
 public:
  // From so many K on, the square costs less than the lanes that it fills.
  static bool takes(const StageSpec& spec) {
    const int64_t n = spec.output(0).width;
    return 2 * n <= S::kLanes && spec.input(0).width >= 16 * n;
  }

  explicit NarrowLinear(const StageSpec& spec) : layer_(read_layer(spec)) {
    if (spec.input(0).dtype != RTA_FLOAT32) fail("linear: input and weight have different dtypes");
    LinearLayer& p = layer_;
    check_rows(p);
    while (outputs_ < p.n) outputs_ *= 2;
    stride_ = (p.k + S::kLanes - 1) / S::kLanes * S::kLanes;
    const float* weight = spec.attrs.floats("weight", p.n * p.k);
    float* packed = static_cast<float*>(spec.weights(static_cast<size_t>(outputs_ * stride_) * sizeof(float)));
    for (int64_t j = 0; spec.packs() && j < p.n; ++j)
      for (int64_t k = 0; k < p.k; ++k) packed[j * stride_ + k] = weight[j * p.k + k];
    p.weights = packed;
    const float* bias = spec.attrs.floats("bias", p.n);
    float* around = static_cast<float*>(spec.weights(sizeof(float) * S::kLanes));
    for (int i = 0; spec.packs() && i < S::kLanes; ++i) around[i] = i % outputs_ < p.n ? bias[i % outputs_] : 0.0f;
    p.offset = around;
    together_ =
        p.bounds_alone && !p.int8_out && p.n == outputs_ && p.y.pitch == p.n * static_cast<int64_t>(sizeof(float));
  }

  int parts(int64_t samples) const override {
    const int64_t blocks = samples * layer_.x.steps * outputs_ / S::kLanes;
    return static_cast<int>(blocks < 1 ? 1 : blocks < kMostParts ? blocks : kMostParts);
  }

  int64_t cost_ns(int64_t samples) const override {
    constexpr int64_t kPerCycle = 2 * S::kLanes, kCyclesPerNs = 4;
    return samples * layer_.x.steps * outputs_ * layer_.k / (kPerCycle * kCyclesPerNs);
  }

  void run(const Run& run) const override {
    switch (outputs_) {
      case 1:
        if constexpr (kWanted1) return choose<1>(run);
        break;
      case 2:
        if constexpr (kWanted2) return choose<2>(run);
        break;
      case 4:
        if constexpr (kWanted4) return choose<4>(run);
        break;
      default:
        if constexpr (kWanted8) return choose<8>(run);
    }
  }

 private:
  using F = typename S::F;
  static constexpr int64_t kMostParts = 1 << 20;
  static constexpr bool kWanted1 = RTA_WANTS("linear", "1 outputs"), kWanted2 = RTA_WANTS("linear", "2 outputs");
  static constexpr bool kWanted4 =
      S::kLanes >= 8 && (RTA_WANTS("linear", "3 outputs") || RTA_WANTS("linear", "4 outputs"));
  static constexpr bool kWanted8 =
      S::kLanes >= 16 && (RTA_WANTS("linear", "5 outputs") || RTA_WANTS("linear", "6 outputs") ||
                          RTA_WANTS("linear", "7 outputs") || RTA_WANTS("linear", "8 outputs"));

  template <int N>
  void choose(const Run& run) const {
    if constexpr (RTA_WANTS("linear", "long sums"))
      if (layer_.k > kSumRun * S::kLanes) return blocks<N, true>(run);
    blocks<N, false>(run);
  }

  // kLong: of more numbers than a run of sums has.
  template <int N, bool kLong>
  void blocks(const Run& run) const {
    constexpr int64_t R = S::kLanes / N;
    const int64_t rows = layer_.x.rows(run), whole = rows / R;
    int64_t row = run.part * whole / run.parts * R;
    const int64_t end = run.part + 1 == run.parts ? rows : (run.part + 1) * whole / run.parts * R;
    if constexpr (RTA_MOST_ROWS >= R)
      for (; row + R <= end; row += R) block<N, R, kLong>(layer_.x.row(run, row), layer_.y.row(run, row));
    for (; row < end; ++row) block<N, 1, kLong>(layer_.x.row(run, row), layer_.y.row(run, row));
  }

  // R rows. Their outputs are lanes of one vector at the end.
  template <int N, int R, bool kLong>
  void block(const char* x, char* y) const {
    const float* w = static_cast<const float*>(layer_.weights);
    const int64_t pitch = layer_.x.pitch, stride = stride_, k_end = layer_.k;
    F sums[1][S::kLanes], (&sum)[S::kLanes] = sums[0];
#pragma GCC unroll 16
    for (int i = 0; i < S::kLanes; ++i) sum[i] = S::set(0.0f);
    const auto step = [&](int64_t k, auto load) __attribute__((always_inline)) {
      F weight[N];
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) weight[j] = S::load(w + j * stride + k);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const F in = load(reinterpret_cast<const float*>(x + r * pitch) + k);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[r * N + j] = S::mul_add(weight[j], in, sum[r * N + j]);
      }
    };
    LongSums<S, 1, S::kLanes> kept;
    int64_t k = 0;
    const auto whole = [&](int64_t end) __attribute__((always_inline)) {
      for (; k + S::kLanes <= end; k += S::kLanes) step(k, [](const float* at) { return S::load(at); });
    };
    if constexpr (kLong)
      for (constexpr int64_t kRun = kSumRun * S::kLanes; k_end - k > kRun; kept.keep(sums)) whole(k + kRun);
    whole(k_end);
    if (k < k_end) step(k, [&](const float* at) { return S::load_n(at, static_cast<int>(k_end - k)); });
    if constexpr (kLong) kept.finish(sums);
    F all;
    if constexpr (R == 1) {
      alignas(64) float each[S::kLanes] = {};
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) each[j] = S::sum_of(sum[j]);
      all = S::load(each);
    } else {
      all = join_rows<S>(sum, S::add);
    }
    all = S::add(all, S::load(layer_.offset));
    if (R > 1 && together_) return S::store(reinterpret_cast<float*>(y), layer_.bounds.template within<S>(all));
    alignas(64) float values[2 * S::kLanes];
    S::store(values, all);
    for (int r = 0; r < R; ++r) {
      F row[1][1] = {{S::load(values + r * N)}};
      epilogue<S, 1, 1>(layer_, row, y + r * layer_.y.pitch, 0);
    }
  }

  LinearLayer layer_;
  int64_t outputs_ = 1, stride_ = 0;  // outputs up to a power of two; numbers from the weights of one to the next
  bool together_ = false;             // the outputs of a block are one vector in memory
};

}  // namespace rta
