// Multi-head attention on the CPU. The contract is in contract.py.
//
// Work is cut into blocks of 2 vectors of queries. The lanes are queries, so that max and sum of the softmax run down
// the keys without a step across lanes:
//   queries [head_dim][lanes]   transposed once per head, times the scale
//   scores  [keys][lanes]       tiles of kKeyRows keys x 2 vectors: broadcast k, load queries
//   y       [lanes][head_dim]   tiles of 4 or 8 queries x some vectors of columns: broadcast score, load v
// The order of every sum is that of head_dim, or of the keys: the same on each instruction set.
//
// Floor, 6 heads x 32 x 32 x 64: 2 x 24.6 k vector multiply-adds (6.1 us at 2 a cycle and 4 GHz), 384 vectors of exp
// (25 instructions, 1.2 us), 48 squares of 16 x 16 to transpose (64 shuffles, 0.8 us).
#pragma once

#include "_common/checks.h"
#include "_common/long_sums.h"
#include "_simd/activation.h"
#include "_simd/row.h"
#include "_simd/transpose.h"
#include "attention/weigh.h"

namespace rta {

template <class S>
class AttentionStage final : public Stage {
 public:
  explicit AttentionStage(const StageSpec& spec);
  bool marks_samples() const override { return int8_out_; }

  void run(const Run& run) const override {
    for (int64_t sample = 0; sample < run.samples; ++sample) {
      F nonfinite = S::set(0.0f);
      for (int64_t n = 0; n < sequences_; ++n)
        for (int64_t t = 0; t < t_; t += kBlock) {
          if (t_ - t > S::kLanes)
            block<2>(run, sample, n, t, nonfinite);
          else
            block<1>(run, sample, n, t, nonfinite);
        }
      if (int8_out_ && S::sum_of(nonfinite) != 0.0f) propagate_nan(run, sample);
    }
  }

 private:
  using F = typename S::F;
  using I = typename S::I;
  static constexpr int kBlock = 2 * S::kLanes;
  static constexpr int kKeyRows = S::kRegisters >= 32 ? 8 : 4;
  static constexpr int64_t kMostHeads = 1 << 24;
  static constexpr float kLowest = -__builtin_inff();

  using Head = AttentionHead;

  template <int V>
  void block(const Run& run, int64_t sample, int64_t n, int64_t first, F& nonfinite) const {
    alignas(64) float inverse[kBlock];
    constexpr int lanes = V * S::kLanes;
    const int rows = static_cast<int>(t_ - first < kBlock ? t_ - first : kBlock);
    const int all = static_cast<int>(s_);
    const int64_t sequence = sample * sequences_ + n;
    float* queries = reinterpret_cast<float*>(run.scratch);
    float* scores = queries + head_dim_ * kBlock;
    float* masked = scores + all * kBlock;
    float* made = masked + (mask_rows_ > 1 ? all * kBlock : 0);
    float* values = made + padded_ * kBlock;
    const char* mask = constant_mask_ ? reinterpret_cast<const char*>(constant_mask_)
                       : mask_rows_   ? mask_.row(run, sample * mask_rows_)
                                      : nullptr;
    Head p;
    p.keys = causal_ && first + rows < all ? static_cast<int>(first) + rows : all;
    p.first = first;
    p.rows = rows;
    p.queries = queries;
    p.scores = scores;
    p.inverse = inverse;
    p.columns = head_dim_;
    p.causal = causal_;
    p.every = mask_rows_ == 1 ? reinterpret_cast<const float*>(mask) : nullptr;
    p.masked = mask_rows_ > 1 ? masked : nullptr;
    const bool mask_by_head = mask_rows_ > t_;
    if (mask_rows_ == sequences_ * heads_ * t_) mask += n * heads_ * t_ * mask_pitch_;
    if (p.masked && !mask_by_head)
      transpose<S>(mask + first * mask_pitch_, mask_pitch_, rows, p.keys, 1, masked, lanes);
    for (int h = 0; h < heads_; ++h) {
      const int64_t at = static_cast<int64_t>(h) * head_dim_, kv_at = static_cast<int64_t>(h / group_) * head_dim_;
      if (p.masked && mask_by_head)
        transpose<S>(mask + (h * t_ + first) * mask_pitch_, mask_pitch_, rows, p.keys, 1, masked, lanes);
      transpose<S>(q_.row(run, sequence * t_ + first) + 4 * (q_column_ + at), q_.pitch, rows, head_dim_, scale_,
                   queries, lanes);
      p.k = k_.row(run, sequence * s_) + 4 * (k_column_ + kv_at);
      p.v = v_.row(run, sequence * s_) + 4 * (v_column_ + kv_at);
      p.v_pitch = v_.pitch;
      if (copy_values_ && h % group_ == 0) copy(p, values);
      if (copy_values_) {
        p.v = reinterpret_cast<const char*>(values);
        p.v_pitch = 4 * padded_;
      }
      char* y = y_.row(run, sequence * t_ + first);
      p.y = in_place_ ? y + 4 * at : reinterpret_cast<char*>(made);
      p.y_pitch = in_place_ ? y_.pitch : 4 * padded_;
      score<V>(p);
      if (p.every || p.masked || causal_) rule_out<V>(p);
      softmax<V>(p);
      Weigh<S>::template all<V>(p, padded_);
      if (!in_place_) deliver(made, rows, y, at, nonfinite);
    }
  }

  // Whole vectors of v, and rows that do not all lie in the same sets of the cache.
  void copy(const Head& p, float* values) const {
    for (int s = 0; s < p.keys; ++s) {
      const float* from = reinterpret_cast<const float*>(p.v + s * p.v_pitch);
      for (int c = 0; c < head_dim_; c += S::kLanes) {
        const int n = head_dim_ - c < S::kLanes ? head_dim_ - c : S::kLanes;
        S::store(values + s * padded_ + c, load_part<S>(from + c, n));
      }
    }
  }

  template <int V>
  void score(const Head& p) const {
    int s = 0;
    for (; s + kKeyRows <= p.keys; s += kKeyRows) score_tile<kKeyRows, V>(p, s);
    if (kKeyRows > 4 && s + 4 <= p.keys) {
      score_tile<4, V>(p, s);
      s += 4;
    }
    for (; s < p.keys; ++s) score_tile<1, V>(p, s);
  }

  // R keys by V vectors of queries.
  template <int R, int V>
  __attribute__((noinline)) void score_tile(const Head& p, int first) const {
    F acc[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) acc[r][v] = S::set(0.0f);
    const char* k = p.k + first * k_.pitch;
    const int64_t pitch = k_.pitch;
    const float* queries = p.queries;
    for (int d = 0; d < head_dim_; ++d, k += 4, queries += V * S::kLanes) {
      F q[V];
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) q[v] = S::load(queries + v * S::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F key = S::set(*reinterpret_cast<const float*>(k + r * pitch));
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) acc[r][v] = S::mul_add(q[v], key, acc[r][v]);
      }
    }
    float* scores = p.scores + first * V * S::kLanes;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) S::store(scores + (r * V + v) * S::kLanes, acc[r][v]);
  }

  template <int V>
  __attribute__((noinline)) void rule_out(const Head& p) const {
    for (int s = 0; s < p.keys; ++s) {
      const bool across = causal_ && s > p.first;  // some query of the block may not see this key
      const F key = S::set(static_cast<float>(s - p.first));
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        const int64_t at = (static_cast<int64_t>(s) * V + v) * S::kLanes;
        F t = S::load(p.scores + at);
        if (p.every) t = S::add(t, S::set(p.every[s]));
        if (p.masked) t = S::add(t, S::load(p.masked + at));
        if (across) t = S::where_less(S::load(lane_ + v * S::kLanes), key, S::set(kLowest), t);
        S::store(p.scores + at, t);
      }
    }
  }

  // Scores become exp(score - peak), and `inverse` 1 / their sum.
  template <int V>
  __attribute__((noinline)) void softmax(const Head& p) const {
    F top[V], sum[1][V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) top[v] = S::set(kLowest);
    float* at = p.scores;
    for (int s = 0; s < p.keys; ++s, at += V * S::kLanes) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) top[v] = S::max(S::load(at + v * S::kLanes), top[v]);
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      top[v] = S::where_less(S::set(kLowest), top[v], top[v], S::set(0.0f));
      sum[0][v] = S::set(0.0f);
    }
    at = p.scores;
    LongSums<S, 1, V> all;
    for (int64_t s = 0; s < p.keys;) {
      for (const int64_t end = run_end(s, p.keys); s < end; ++s, at += V * S::kLanes) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          const F e = exp_negative<S>(S::sub(S::load(at + v * S::kLanes), top[v]));
          S::store(at + v * S::kLanes, e);
          sum[0][v] = S::add(sum[0][v], e);
        }
      }
      if (s < p.keys) all.keep(sum);
    }
    all.finish(sum);
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {  // a sum is at least 1, or 0 where every score was -infinity
      const F inverse = S::div(S::set(1.0f), sum[0][v]);
      S::store(p.inverse + v * S::kLanes, S::where_less(sum[0][v], S::set(0.5f), S::set(empty_), inverse));
    }
  }

  // Columns of a head that are no whole vectors, or become int8: from `made` [rows][padded] to their place.
  __attribute__((noinline)) void deliver(const float* made, int rows, char* y, int64_t column, F& nonfinite) const {
    const F scale = S::set(inv_scale_);
    const I zero = S::set_int(zero_);
    F sum = nonfinite;
    for (int r = 0; r < rows; ++r, made += padded_, y += y_.pitch)
      for (int c = 0; c < head_dim_; c += S::kLanes) {
        const int n = head_dim_ - c < S::kLanes ? head_dim_ - c : S::kLanes;
        const F value = S::load(made + c);
        if (!int8_out_) {
          store_part<S>(reinterpret_cast<float*>(y) + column + c, value, n);
          continue;
        }
        uint8_t* q = reinterpret_cast<uint8_t*>(y) + column + c;
        sum = S::mul_add(value, S::set(0.0f), sum);
        if (n == S::kLanes) {
          store_quantized<S>(q, value, scale, zero);
        } else {
          uint8_t bytes[S::kLanes];
          store_quantized<S>(bytes, value, scale, zero);
          for (int i = 0; i < n; ++i) q[i] = bytes[i];
        }
      }
    nonfinite = sum;
  }

  void propagate_nan(const Run& run, int64_t sample) const {
    for (int64_t t = 0; t < y_.steps; ++t) {
      char* row = y_.row(run, sample * y_.steps + t);
      for (int64_t i = 0; i < y_.width; ++i) row[i] = static_cast<char>(128);
    }
    run.nan_marks[sample] = __builtin_nanf("");
  }

  GraphIO q_, k_, v_, mask_, y_;
  int heads_, head_dim_, group_, padded_;  // group: heads for each head of k and v; padded: head_dim in whole vectors
  int64_t sequences_, t_, s_;              // sequences of a sample, queries and keys of each
  int64_t q_column_, k_column_, v_column_;
  float scale_, inv_scale_, empty_;
  int32_t zero_;
  bool causal_, int8_out_, copy_values_, in_place_;  // in place: whole vectors of float32 can go right into y
  int64_t mask_rows_, mask_pitch_;
  const float* constant_mask_;
  float lane_[kBlock];
};

template <class S>
AttentionStage<S>::AttentionStage(const StageSpec& spec)
    : q_(spec.in(0)), k_(spec.in(1)), v_(spec.in(2)), mask_(spec.in(3)), y_(spec.out(0)) {
  const Attrs& attrs = spec.attrs;
  expect_inputs(spec, 3, 4);
  expect_outputs(spec, 1, 1);
  heads_ = static_cast<int>(between(attrs, "heads", 1, kMostHeads));
  head_dim_ = static_cast<int>(between(attrs, "head_dim", 1, kMostHeads));
  const int kv_heads = static_cast<int>(between(attrs, "kv_heads", 1, heads_));
  expect(heads_ % kv_heads == 0, "%d heads for %d of keys", heads_, kv_heads);
  group_ = heads_ / kv_heads;
  const int64_t width = int64_t{heads_} * head_dim_, kv_width = int64_t{kv_heads} * head_dim_;
  expect_shape(spec.output(0), q_.steps, width, "y");
  expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
  expect(k_.steps == v_.steps, "%lld keys for %lld values", static_cast<long long>(k_.steps),
         static_cast<long long>(v_.steps));
  sequences_ = attrs.has("sequences") ? between(attrs, "sequences", 1, kMaxElements) : 1;  // older files have none
  expect(q_.steps % sequences_ == 0 && k_.steps % sequences_ == 0, "%lld sequences of %lld queries and %lld keys",
         static_cast<long long>(sequences_), static_cast<long long>(q_.steps), static_cast<long long>(k_.steps));
  t_ = q_.steps / sequences_, s_ = k_.steps / sequences_;
  padded_ = (head_dim_ + S::kLanes - 1) / S::kLanes * S::kLanes;
  q_column_ = between(attrs, "q_column", 0, q_.width - width);
  k_column_ = between(attrs, "k_column", 0, k_.width - kv_width);
  v_column_ = between(attrs, "v_column", 0, v_.width - kv_width);
  scale_ = static_cast<float>(attrs.real("scale"));
  causal_ = flag(attrs, "causal");
  empty_ = word(attrs, "empty_row", "zero|nan") ? __builtin_nanf("") : 0.0f;
  int8_out_ = spec.output(0).dtype == RTA_INT8;
  inv_scale_ = static_cast<float>(attrs.real("inv_scale"));
  zero_ = zero_byte(attrs, "zero_point");
  for (int i = 0; i < spec.input_count; ++i)
    if (spec.input(i).dtype != RTA_FLOAT32) fail("attention: inputs are float32");
  in_place_ = !int8_out_ && padded_ == head_dim_;
  copy_values_ = padded_ != head_dim_ || v_.pitch % 4096 == 0;

  mask_rows_ = attrs.has("mask_rows") ? between(attrs, "mask_rows", 1, heads_ * q_.steps) : 0;
  expect(mask_rows_ <= 1 || mask_rows_ == t_ || mask_rows_ == heads_ * t_ || mask_rows_ == heads_ * q_.steps,
         "a mask of %lld rows", static_cast<long long>(mask_rows_));
  expect_inputs(spec, 3, mask_rows_ && !attrs.has("mask") ? 4 : 3);
  if (mask_rows_ && !attrs.has("mask")) {
    expect(mask_.exists(), "no mask");
    expect_shape(spec.input(3), mask_rows_, s_, "mask");
  }
  mask_pitch_ = mask_.pitch;
  constant_mask_ = nullptr;
  if (attrs.has("mask")) {
    const int64_t count = product(mask_rows_, s_);
    const float* from = attrs.floats("mask", count);
    float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(count) * sizeof(float)));
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
    constant_mask_ = to;
    mask_pitch_ = s_ * 4;
  }
  for (int i = 0; i < kBlock; ++i) lane_[i] = static_cast<float>(i);
  const int64_t vectors = head_dim_ + (mask_rows_ > 1 ? 2 : 1) * s_;
  spec.need_scratch(
      static_cast<size_t>(vectors * kBlock + int64_t{padded_} * kBlock + (copy_values_ ? product(s_, padded_) : 0)) *
      sizeof(float));
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "attention", "cpu", nullptr, create_stage<AttentionStage<S>>);
}

}  // namespace rta
