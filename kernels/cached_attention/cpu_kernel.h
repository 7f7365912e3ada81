// Cached attention on the CPU: one query against the keys and values of a ring. The contract is in contract.py.
//
// Keys lie as columns, so that the lanes of a score are places of the ring, and no step goes across lanes. Values lie
// as rows, and the lanes of y are columns of a head. Four partial sums over the places hide the latency of an addition.
//
// Floor: 2 heads head_dim n / lanes multiply-adds, heads n / lanes vectors of exp (25 instructions), and each kept
// number read once. With 4 heads of 16 and 128 places: 1,024 multiply-adds and 32 exps, 0.35 us at 4 GHz and 16 lanes.
#pragma once

#include "_common/checks.h"
#include "_simd/activation.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class CachedAttentionStage final : public Stage {
 public:
  explicit CachedAttentionStage(const StageSpec& spec);

  bool updates(int in, int out) const override { return in >= 3 && in == out + 2; }

  void run(const Run& run) const override {
    float* scaled = reinterpret_cast<float*>(run.scratch);
    float* scores = scaled + head_dim_;
    for (int64_t sample = 0; sample < run.samples; ++sample) {
      carry_over(run, sample);
      const Ring ring = advance(run, sample);
      const float* q = reinterpret_cast<const float*>(q_.row(run, sample)) + q_column_;
      float* y = reinterpret_cast<float*>(y_.row(run, sample));
      for (int h = 0; h < heads_; ++h, q += head_dim_, y += head_dim_) {
        const int64_t kv = static_cast<int64_t>(h / group_) * head_dim_;
        for (int e = 0; e < head_dim_; ++e) scaled[e] = q[e] * scale_;
        score(ring, kv, scaled, scores);
        if (bias_) add_bias(ring, bias_heads_ == 1 ? 0 : h, scores);
        exponentials(ring.filled, scores);
        for (int c = 0; c < head_dim_;) c += weigh(ring, kv, c, scores, y);
      }
    }
  }

 private:
  using F = typename S::F;
  static constexpr float kLowest = -__builtin_inff();
  static constexpr int64_t kMaxPlaces = 1 << 22;

  struct Ring {
    const char* keys;    // first row
    const char* values;  // first place
    int64_t newest;      // its place
    int filled;          // places from 0 on
  };

  // Where the states are not the plan's own but a caller's, they come in one memory and leave in another.
  void carry_over(const Run& run, int64_t sample) const {
    if (keys_.id == keys_out_.id) return;
    copy_rows(keys_.row(run, sample * keys_.steps), keys_.pitch, keys_out_.row(run, sample * keys_.steps),
              keys_out_.pitch, keys_.steps, keys_.width);
    copy_rows(values_.row(run, sample * values_.steps), values_.pitch, values_out_.row(run, sample * values_.steps),
              values_out_.pitch, values_.steps, values_.width);
    __builtin_memcpy(count_out_.row(run, sample), count_.row(run, sample), sizeof(float));
  }

  static void copy_rows(const char* from, int64_t from_pitch, char* to, int64_t to_pitch, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r)
      __builtin_memcpy(to + r * to_pitch, from + r * from_pitch, static_cast<size_t>(width) * sizeof(float));
  }

  // Puts the new key and value in place, and counts the step. A count that no stream can have counts as none.
  Ring advance(const Run& run, int64_t sample) const {
    float* count = reinterpret_cast<float*>(count_out_.row(run, sample));
    const int64_t places = values_.steps;
    const int64_t made = *count >= 0.0f && *count < static_cast<float>(2 * places) ? static_cast<int64_t>(*count) : 0;
    *count = static_cast<float>(made + 1 < 2 * places ? made + 1 : places);
    const int64_t newest = made % places;
    char* keys = keys_out_.row(run, sample * keys_.steps);
    char* values = values_out_.row(run, sample * places);
    const float* k = reinterpret_cast<const float*>(k_.row(run, sample)) + k_column_;
    char* column = keys + newest * 4;
    for (int64_t i = 0; i < keys_.steps; ++i, column += keys_out_.pitch) *reinterpret_cast<float*>(column) = k[i];
    __builtin_memcpy(values + newest * values_out_.pitch, v_.row(run, sample) + 4 * v_column_,
                     static_cast<size_t>(values_.width) * sizeof(float));
    return {keys, values, newest, static_cast<int>(made < places ? made + 1 : places)};
  }

  // Whole vectors of scores, -infinity behind the last place.
  void score(const Ring& ring, int64_t kv, const float* q, float* scores) const {
    const char* keys = ring.keys + kv * keys_out_.pitch;
    int j = 0;
    for (; j + 4 * S::kLanes <= ring.filled; j += 4 * S::kLanes) score_tile<4>(keys, q, j, S::kLanes, scores);
    for (; j + S::kLanes <= ring.filled; j += S::kLanes) score_tile<1>(keys, q, j, S::kLanes, scores);
    if (j == ring.filled) return;
    score_tile<1>(keys, q, j, ring.filled - j, scores);
    for (int rest = ring.filled; rest < j + S::kLanes; ++rest) scores[rest] = kLowest;
  }

  // V vectors of places from j on, the last of `left` places.
  template <int V>
  __attribute__((always_inline)) void score_tile(const char* keys, const float* q, int j, int left,
                                                 float* scores) const {
    F acc[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) acc[v] = S::set(0.0f);
    const char* key = keys + 4 * j;
    for (int e = 0; e < head_dim_; ++e, key += keys_out_.pitch) {
      const F one = S::set(q[e]);
      const float* at = reinterpret_cast<const float*>(key);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        acc[v] = S::mul_add(V == 1 ? load_part<S>(at, left) : S::load(at + v * S::kLanes), one, acc[v]);
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) S::store(scores + j + v * S::kLanes, acc[v]);
  }

  void add_bias(const Ring& ring, int head, float* scores) const {
    const float* bias = bias_ + head * bias_pitch_ + (values_.steps - 1 - ring.newest);
    for (int j = 0; j < ring.filled; j += S::kLanes)
      S::store(scores + j, S::add(S::load(scores + j), S::load(bias + j)));
  }

  static void exponentials(int filled, float* scores) {
    F top = S::set(kLowest);
    for (int j = 0; j < filled; j += S::kLanes) top = S::max(S::load(scores + j), top);
    const float peak = S::max_of(top);
    const F least = S::set(peak > kLowest ? peak : 0.0f);
    for (int j = 0; j < filled; j += S::kLanes)
      S::store(scores + j, exp_negative<S>(S::sub(S::load(scores + j), least)));
  }

  // Columns from c on: as many as are given back.
  int weigh(const Ring& ring, int64_t kv, int c, const float* exps, float* y) const {
    const int left = head_dim_ - c;
    const char* v = ring.values + 4 * (kv + c);
    if (left >= 4 * S::kLanes) return weigh_tile<4>(ring.filled, v, S::kLanes, exps, y + c);
    if (left >= 2 * S::kLanes) return weigh_tile<2>(ring.filled, v, S::kLanes, exps, y + c);
    return weigh_tile<1>(ring.filled, v, left < S::kLanes ? left : S::kLanes, exps, y + c);
  }

  template <int C>
  __attribute__((noinline)) int weigh_tile(int filled, const char* v, int left, const float* exps, float* y) const {
    F acc[4][C], sum[4];
#pragma GCC unroll 4
    for (int p = 0; p < 4; ++p) {
      sum[p] = S::set(0.0f);
#pragma GCC unroll 4
      for (int c = 0; c < C; ++c) acc[p][c] = S::set(0.0f);
    }
    const int64_t pitch = values_out_.pitch;
    int s = 0;
    for (; s + 4 <= filled; s += 4, v += 4 * pitch) {
#pragma GCC unroll 4
      for (int p = 0; p < 4; ++p) weigh_one<C>(v + p * pitch, left, exps[s + p], acc[p], sum[p]);
    }
#pragma GCC unroll 3
    for (int p = 0; p < 3; ++p)
      if (s + p < filled) weigh_one<C>(v + p * pitch, left, exps[s + p], acc[p], sum[p]);
    const F all = S::add(S::add(sum[0], sum[2]), S::add(sum[1], sum[3]));
    // A sum is at least 1, or 0 where every score was -infinity.
    const F inverse = S::where_less(all, S::set(0.5f), S::set(empty_), S::div(S::set(1.0f), all));
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c) {
      const F total = S::add(S::add(acc[0][c], acc[2][c]), S::add(acc[1][c], acc[3][c]));
      store_part<S>(y + c * S::kLanes, S::mul(total, inverse), C == 1 ? left : S::kLanes);
    }
    return C == 1 ? left : C * S::kLanes;
  }

  template <int C>
  static __attribute__((always_inline)) void weigh_one(const char* v, int left, float weight, F (&acc)[C], F& sum) {
    const float* row = reinterpret_cast<const float*>(v);
    const F w = S::set(weight);
    sum = S::add(sum, w);
#pragma GCC unroll 4
    for (int c = 0; c < C; ++c)
      acc[c] = S::mul_add(C == 1 ? load_part<S>(row, left) : S::load(row + c * S::kLanes), w, acc[c]);
  }

  GraphIO q_, k_, v_, keys_, values_, count_, y_, keys_out_, values_out_, count_out_;
  int heads_, head_dim_, group_;  // group: heads for each head of k and v
  int64_t q_column_, k_column_, v_column_;
  float scale_, empty_;
  const float* bias_;  // [heads][2 R and a vector], by age downwards and once more, or nullptr
  int64_t bias_heads_, bias_pitch_;
};

template <class S>
CachedAttentionStage<S>::CachedAttentionStage(const StageSpec& spec)
    : q_(spec.in(0)),
      k_(spec.in(1)),
      v_(spec.in(2)),
      keys_(spec.in(3)),
      values_(spec.in(4)),
      count_(spec.in(5)),
      y_(spec.out(0)),
      keys_out_(spec.out(1)),
      values_out_(spec.out(2)),
      count_out_(spec.out(3)) {
  const Attrs& attrs = spec.attrs;
  expect_ports(spec, 6, 4);
  const int64_t places = values_.steps;
  expect(places >= 1 && places <= kMaxPlaces, "a ring of %lld places", static_cast<long long>(places));
  heads_ = static_cast<int>(between(attrs, "heads", 1, kMaxPlaces));
  head_dim_ = static_cast<int>(between(attrs, "head_dim", 1, kMaxPlaces));
  const int kv_heads = static_cast<int>(between(attrs, "kv_heads", 1, heads_));
  expect(heads_ % kv_heads == 0, "%d heads for %d of keys", heads_, kv_heads);
  group_ = heads_ / kv_heads;
  const int64_t width = int64_t{heads_} * head_dim_, kv_width = int64_t{kv_heads} * head_dim_;
  expect_value(spec.output(0), RTA_FLOAT32, 1, width, "y");
  for (int i = 0; i < 3; ++i) {
    expect_dtype(spec.input(i), RTA_FLOAT32, "q, k and v");
    expect(spec.input(i).steps == 1, "%lld time steps", static_cast<long long>(spec.input(i).steps));
  }
  const Value* states[] = {&spec.input(3), &spec.output(1), &spec.input(4), &spec.output(2)};
  for (int i = 0; i < 4; ++i)
    expect_value(*states[i], RTA_FLOAT32, i < 2 ? kv_width : places, i < 2 ? places : kv_width, "the ring");
  expect_value(spec.input(5), RTA_FLOAT32, 1, 1, "count");
  expect_value(spec.output(3), RTA_FLOAT32, 1, 1, "count");
  q_column_ = between(attrs, "q_column", 0, q_.width - width);
  k_column_ = between(attrs, "k_column", 0, k_.width - kv_width);
  v_column_ = between(attrs, "v_column", 0, v_.width - kv_width);
  scale_ = static_cast<float>(attrs.real("scale"));
  empty_ = word(attrs, "empty_row", "zero|nan") ? __builtin_nanf("") : 0.0f;
  bias_ = nullptr;
  bias_heads_ = bias_pitch_ = 0;
  if (attrs.has("bias")) {
    bias_heads_ = attrs.count("bias") == places ? 1 : heads_;
    const float* from = attrs.floats("bias", product(bias_heads_, places));
    bias_pitch_ = 2 * places + S::kLanes;
    float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(product(bias_heads_, bias_pitch_)) * 4));
    for (int64_t h = 0; h < bias_heads_; ++h)
      for (int64_t i = 0; i < 2 * places; ++i)
        to[h * bias_pitch_ + i] = from[h * places + (2 * places - 1 - i) % places];
    bias_ = to;
  }
  spec.need_scratch(static_cast<size_t>(head_dim_ + places + S::kLanes) * sizeof(float));
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "cached_attention", "cpu", nullptr, create_stage<CachedAttentionStage<S>>);
}

}  // namespace rta
