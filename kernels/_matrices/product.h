// Each row of a matrix joined with each column of another: y[b, i, j] = sum over k of a term of a[b, i, k] and
// w[b, k, j]. A Term says what that is: a product, the square of a difference, or what else takes the place of one.
//
// Tiles of R rows of a and V vectors of columns of w; the sums stay in registers. The right side is read as it lies
// where its columns follow one another, else it is turned into rows of whole vectors first. Where a sample has one row
// and the right side is a parameter, rows are those of several samples: each vector of w is then read once for all.
// Floor: i j k terms over the peak, plus a pass over w where it is turned.
#pragma once

#include "_common/long_sums.h"
#include "_matrices/sides.h"

namespace rta {

// A Term has: kProducts; kSums, where terms are added; kWeights; with(sum, x, w, v), the sum and one term more, whose
// weight is v where it has one.
template <class S>
struct Products {
  using F = typename S::F;
  static constexpr bool kProducts = true, kSums = true, kWeights = false;
  static F with(F sum, F x, F w, F) { return S::mul_add(x, w, sum); }
};

// term: which of them.
template <class S, class... Terms>
class ProductStage final : public Stage {
  static constexpr bool kProducts = (Terms::kProducts || ...);

 public:
  explicit ProductStage(const StageSpec& spec, int term = 0) : term_(term) {
    expect_outputs(spec, 1, 1);
    batches_ = between(spec.attrs, "batches", 0, INT32_MAX);
    i_ = between(spec.attrs, "i", 0, INT32_MAX), j_ = between(spec.attrs, "j", 0, INT32_MAX);
    k_ = between(spec.attrs, "k", 0, INT32_MAX);
    rta::product(batches_, i_, j_), rta::product(batches_, i_, k_), rta::product(batches_, k_, j_);
    int next = 0;
    a_.read(spec, "a", next, "a_offsets", "a_table", batches_, i_, k_);
    w_.read(spec, "w", next, "w_offsets", "w_table", batches_, k_, j_);
    expect_inputs(spec, next, next);
    expect_dtype(spec.output(0), RTA_FLOAT32, "y");
    expect(elements(spec.output(0)) == rta::product(batches_, i_, j_), "%lld results of %lld by %lld for another y",
           static_cast<long long>(batches_), static_cast<long long>(i_), static_cast<long long>(j_));
    y_.lay_out(spec, spec.out(0), "y_offsets", "y_table", batches_, i_, j_);
    if constexpr (!kProducts) {
      expect(k_ > 0, "joins nothing: k is 0");
      if (spec.attrs.has("v")) {
        v_.read(spec, "v", next, "v_offsets", "v_table", batches_, k_, j_);
        expect(!v_.by_table() && v_.dense_columns(), "weights of a row do not follow one another");
      }
      if (spec.attrs.text_is("kind", "mean")) divisor_ = static_cast<float>(k_);
    }
    pitch_ = (j_ + S::kLanes - 1) / S::kLanes * S::kLanes;
    one_row_ = batches_ == 1 && i_ == 1 && w_.is_parameter() && !w_.by_table() && w_.dense_columns() && j_ > 1 &&
               !a_.by_table() && !y_.by_table() && y_.dense_columns();
    spec.need_scratch(static_cast<size_t>(rta::product(k_, pitch_) + rta::product(i_, k_) + rta::product(i_, pitch_)) *
                          sizeof(float) +
                      192);
  }

  int64_t cost_ns(int64_t samples) const override { return samples * batches_ * i_ * j_ * k_ / 32; }

  void run(const Run& run) const override {
    if (one_row_) return together(run);
    float* packed = reinterpret_cast<float*>(run.scratch);
    float* left = packed + k_ * pitch_;
    float* made = left + (i_ * k_ + 15) / 16 * 16;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t b = 0; b < batches_; ++b) {
        Matrices m{};
        m.a = a_.rows_of(run, s, b, left, k_);
        m.w = w_.dense_columns() || (kProducts && j_ == 1) ? w_.rows_of(run, s, b, packed, pitch_)
                                                           : w_.turned(run, s, b, packed, pitch_);
        if (v_.is_parameter()) m.v = v_.rows_of(run, s, b, nullptr, 0);
        if (!a_.by_table() && !y_.by_table() && y_.dense_columns()) {
          m.y = y_.rows_of(run, s, b, nullptr, 0);
          join(m, i_);
          continue;
        }
        m.y = {reinterpret_cast<char*>(made), nullptr, nullptr, pitch_ * 4};
        join(m, i_);
        for (int64_t r = 0; r < i_; ++r)
          for (int64_t c = 0; c < j_; ++c) *y_.element(run, s, b, r, c) = made[r * pitch_ + c];
      }
  }

 private:
  using F = typename S::F;
  struct Matrices {
    MatrixRows a, w, y, v;
  };
  static constexpr int kShortRows = 4;  // vectors of a row up to which its own sum costs more than its products
  static constexpr int kRows = 4, kVectors = S::kRegisters >= 32 ? 4 : 2;

  // Rows of up to kRows samples.
  void together(const Run& run) const {
    Matrices m{};
    m.w = w_.rows_of(run, 0, 0, nullptr, 0);
    if (v_.is_parameter()) m.v = v_.rows_of(run, 0, 0, nullptr, 0);
    for (int64_t s = 0; s < run.samples; s += kRows) {
      const int64_t rows = run.samples - s < kRows ? run.samples - s : kRows;
      m.a = a_.rows_of(run, s, 0, nullptr, 0), m.y = y_.rows_of(run, s, 0, nullptr, 0);
      int64_t from[kRows], to[kRows];
      for (int64_t r = 0; r < rows; ++r) {
        from[r] = m.a.row[0] + (a_.base(run, s + r) - a_.base(run, s));
        to[r] = m.y.row[0] + (y_.base(run, s + r) - y_.base(run, s));
      }
      m.a.row = from, m.y.row = to;
      join(m, rows);
    }
  }

  void join(const Matrices& m, int64_t count) const {
    if constexpr (kProducts)
      if (j_ == 1 && !m.a.column && !w_.by_table() && w_.dense_rows()) return dots(m);
    int at = 0;
    ((at++ == term_ ? join_with<Terms>(m, count) : void()), ...);
    if (divisor_ == 1.0f) return;
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < j_; ++c) m.y.at(r)[c] /= divisor_;
  }

  template <class Term>
  void join_with(const Matrices& m, int64_t count) const {
    for (int64_t i = 0; i < count; i += kRows) {
      const int64_t rows = count - i < kRows ? count - i : kRows;
      int64_t j = 0;
      for (; rows == kRows && j + kVectors * S::kLanes <= j_; j += kVectors * S::kLanes)
        tile<Term, kRows, kVectors, true>(m, i, j, S::kLanes);
      while (j < j_) j += part<Term, kVectors>(m, i, rows, j);
    }
  }

  // Up to V vectors of columns, as few as hold them, the last one in part. How many columns that were.
  template <class Term, int V>
  int64_t part(const Matrices& m, int64_t i, int64_t rows, int64_t j) const {
    if constexpr (V > 1)
      if (j_ - j <= (V - 1) * S::kLanes) return part<Term, V - 1>(m, i, rows, j);
    const int64_t columns = j_ - j < V * S::kLanes ? j_ - j : V * S::kLanes;
    const int wide = static_cast<int>(columns - (V - 1) * S::kLanes);
    if (rows == kRows)
      tile<Term, kRows, V, false>(m, i, j, wide);
    else
      for (int64_t r = 0; r < rows; ++r) tile<Term, 1, V, false>(m, i + r, j, wide);
    return columns;
  }

  // One column, whose elements follow one another as those of the rows do: vectors of products, summed at their end.
  // Sums of short rows are taken of a vector of rows together.
  void dots(const Matrices& m) const {
    const float* right = m.w.at(0);
    int64_t i = 0;
    if (k_ <= kShortRows * S::kLanes)
      for (; i + S::kLanes <= i_; i += S::kLanes) {
        F row[S::kLanes];
        if (k_ <= S::kLanes) {
          const int n = static_cast<int>(k_);
          const F one = S::load_n(right, n);
#pragma GCC unroll 16
          for (int r = 0; r < S::kLanes; ++r) row[r] = S::mul(S::load_n(m.a.at(i + r), n), one);
        } else {
#pragma GCC unroll 16
          for (int r = 0; r < S::kLanes; ++r) row[r] = products(m.a.at(i + r), right);
        }
        const F sums = join_rows<S>(row, [](F one, F other) { return S::add(one, other); });
        if (y_.dense_rows()) {
          S::store(m.y.at(i), sums);
          continue;
        }
        float each[S::kLanes];
        S::store(each, sums);
        for (int r = 0; r < S::kLanes; ++r) *m.y.at(i + r) = each[r];
      }
    for (; i < i_; ++i) *m.y.at(i) = S::sum_of(products(m.a.at(i), right));
  }

  F products(const float* left, const float* right) const {
    const int64_t whole = k_ / S::kLanes * S::kLanes;
    const int rest = static_cast<int>(k_ - whole);
    F sums[1][2] = {{S::set(0.0f), S::set(0.0f)}}, &sum = sums[0][0], &other = sums[0][1];
    LongSums<S, 1, 2> all;
    int64_t k = 0;
    while (true) {
      const int64_t end = run_end(k, whole, 2 * S::kLanes);
      for (; k + 2 * S::kLanes <= end; k += 2 * S::kLanes) {
        sum = S::mul_add(S::load(left + k), S::load(right + k), sum);
        other = S::mul_add(S::load(left + k + S::kLanes), S::load(right + k + S::kLanes), other);
      }
      if (end == whole) break;
      all.keep(sums);
    }
    if (k < whole) sum = S::mul_add(S::load(left + k), S::load(right + k), sum);
    if (rest) other = S::mul_add(S::load_n(left + whole, rest), S::load_n(right + whole, rest), other);
    all.finish(sums);
    return S::add(sum, other);
  }

  // wide: columns of the last vector, where that is not whole. Of many terms the sum of each run is added to those of
  // the runs before, which lie in y.
  template <class Term, int R, int V, bool kWhole>
  void tile(const Matrices& m, int64_t i, int64_t j, int wide) const {
    const float* left[R];
    for (int r = 0; r < R; ++r) left[r] = m.a.at(i + r);
    int64_t k = 0;
    do {
      F sum[R][V];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = S::set(0.0f);
      const int64_t first = k;
      for (const int64_t end = Term::kSums ? run_end(k, k_) : k_; k < end; ++k) {
        const float* right = m.w.at(k) + j;
        const float* weights = Term::kWeights ? m.v.at(k) + j : right;
        const int64_t at = m.a.column ? m.a.column[k] / 4 : k;
        F x[V], weight[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const float* from = right + v * S::kLanes;
          const bool whole = kWhole || v < V - 1;
          x[v] = whole ? S::load(from) : S::load_n(from, wide);
          weight[v] = !Term::kWeights ? x[v]
                      : whole         ? S::load(weights + v * S::kLanes)
                                      : S::load_n(weights + v * S::kLanes, wide);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const F scalar = S::set(left[r][at]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[r][v] = Term::with(sum[r][v], scalar, x[v], weight[v]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        float* to = m.y.at(i + r) + j;
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          const bool whole = kWhole || v < V - 1;
          float* here = to + v * S::kLanes;
          if (first > 0) sum[r][v] = S::add(whole ? S::load(here) : S::load_n(here, wide), sum[r][v]);
          if (whole)
            S::store(here, sum[r][v]);
          else
            S::store_n(here, sum[r][v], wide);
        }
      }
    } while (k < k_);
  }

  int term_;
  int64_t batches_, i_, j_, k_, pitch_;
  bool one_row_;
  float divisor_ = 1.0f;
  MatrixSide<S> a_, w_, y_, v_;
};

}  // namespace rta
