// Matmul on the CPU, of two computed values or of one and a parameter. The contract is in contract.py.
//
// Tiles of R rows of a and V vectors of columns of w; the sums stay in registers. The right side is read as it lies
// where its columns follow one another, else it is turned into rows of whole vectors first. Floor: i j k multiply-adds
// over the peak, plus a pass over w where it is turned.
#pragma once

#include <vector>

#include "_common/checks.h"
#include "_common/long_sums.h"
#include "_common/strided.h"
#include "_simd/transpose.h"

namespace rta {

template <class S>
class MatmulStage final : public Stage {
 public:
  explicit MatmulStage(const StageSpec& spec) {
    expect_outputs(spec, 1, 1);
    batches_ = between(spec.attrs, "batches", 0, INT32_MAX);
    i_ = between(spec.attrs, "i", 0, INT32_MAX), j_ = between(spec.attrs, "j", 0, INT32_MAX);
    k_ = between(spec.attrs, "k", 0, INT32_MAX);
    rta::product(batches_, i_, j_), rta::product(batches_, i_, k_), rta::product(batches_, k_, j_);
    int next = 0;
    read(spec, a_, "a", next, "a_offsets", "a_table", i_, k_);
    read(spec, w_, "w", next, "w_offsets", "w_table", k_, j_);
    expect_inputs(spec, next, next);
    expect_dtype(spec.output(0), RTA_FLOAT32, "y");
    expect(elements(spec.output(0)) == rta::product(batches_, i_, j_), "%lld products of %lld by %lld for another y",
           static_cast<long long>(batches_), static_cast<long long>(i_), static_cast<long long>(j_));
    lay_out(spec, y_, spec.out(0), "y_offsets", "y_table", i_, j_);
    pitch_ = (j_ + S::kLanes - 1) / S::kLanes * S::kLanes;
    spec.need_scratch(static_cast<size_t>(rta::product(k_, pitch_) + rta::product(i_, k_) + rta::product(i_, pitch_)) *
                          sizeof(float) +
                      192);
  }

  int64_t cost_ns(int64_t samples) const override { return samples * batches_ * i_ * j_ * k_ / 32; }

  void run(const Run& run) const override {
    float* packed = reinterpret_cast<float*>(run.scratch);
    float* left = packed + k_ * pitch_;
    float* made = left + (i_ * k_ + 15) / 16 * 16;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t b = 0; b < batches_; ++b) {
        Rows a = rows_of(a_, run, s, b, left, k_);
        Rows w = w_.dense_columns || j_ == 1 ? rows_of(w_, run, s, b, packed, pitch_) : turned(run, s, b, packed);
        if (!a_.table && !y_.table && y_.dense_columns) {
          Rows y = rows_of(y_, run, s, b, nullptr, 0);
          product(a, w, y);
          continue;
        }
        Rows y = {reinterpret_cast<char*>(made), nullptr, nullptr, pitch_ * 4};
        product(a, w, y);
        for (int64_t r = 0; r < i_; ++r)
          for (int64_t c = 0; c < j_; ++c) *element(y_, run, s, b, r, c) = made[r * pitch_ + c];
      }
  }

 private:
  using F = typename S::F;
  static constexpr int kShortRows = 4;  // vectors of a row up to which its own sum costs more than its products
  static constexpr int kRows = 4, kVectors = S::kRegisters >= 32 ? 4 : 2;

  // Offsets in bytes of each batch, row and column, or of every element.
  struct Side {
    GraphIO port;
    const float* parameter;  // instead of a value
    const int64_t *batch, *row, *column, *table;
    int64_t rows, columns;
    bool dense_columns;  // one after the other
    bool dense_rows;     // in a column
    char* base(const Run& run, int64_t s) const {
      return parameter ? const_cast<char*>(reinterpret_cast<const char*>(parameter)) : port.row(run, s * port.steps);
    }
  };

  // Rows of a side: at `base` + row offset; `column` holds offsets of columns where they are not dense.
  struct Rows {
    char* base;
    const int64_t* row;
    const int64_t* column;
    int64_t pitch;  // where there are no offsets
    float* at(int64_t r) const { return reinterpret_cast<float*>(base + (row ? row[r] : r * pitch)); }
  };

  // next: the input that the next computed side is.
  void read(const StageSpec& spec, Side& side, const char* name, int& next, const char* offsets, const char* table,
            int64_t rows, int64_t columns) const {
    if (!spec.attrs.has(name)) {
      expect(next < spec.input_count, "%s is neither a tensor nor an input", name);
      expect_dtype(spec.input(next), RTA_FLOAT32, name);
      return lay_out(spec, side, spec.in(next++), offsets, table, rows, columns);
    }
    lay_out(spec, side, {-1, 0, 1, spec.attrs.count(name)}, offsets, table, rows, columns);
    side.parameter = read_constant(spec, name);
  }

  void lay_out(const StageSpec& spec, Side& side, const GraphIO& port, const char* offsets, const char* table,
               int64_t rows, int64_t columns) const {
    side = {port, nullptr, nullptr, nullptr, nullptr, nullptr, rows, columns, false, false};
    const auto take = [&](int64_t n) {
      return static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(n) * sizeof(int64_t)));
    };
    if (spec.attrs.has(table)) {
      side.table = read_table(spec, table, batches_ * rows * columns, port, 4, rta::product(port.steps, port.width));
      return;
    }
    const int32_t* given = spec.attrs.ints(offsets, 2 * (batches_ + rows + columns));
    const int64_t counts[] = {batches_, rows, columns};
    const int64_t** targets[] = {&side.batch, &side.row, &side.column};
    int64_t last_row = 0, last_column = 0;  // of any sum of the three
    const int32_t* at = given;
    for (const int64_t count : counts) {
      int64_t row = 0, column = 0;
      for (int64_t e = 0; e < count; ++e, at += 2) {
        expect(at[0] >= 0 && at[1] >= 0, "%s has row %d, column %d", offsets, at[0], at[1]);
        row = at[0] > row ? at[0] : row;
        column = at[1] > column ? at[1] : column;
      }
      last_row += row, last_column += column;
    }
    expect(last_row < port.steps && last_column < port.width, "%s reaches row %lld, column %lld of %lld rows of %lld",
           offsets, static_cast<long long>(last_row), static_cast<long long>(last_column),
           static_cast<long long>(port.steps), static_cast<long long>(port.width));
    for (int part = 0; part < 3; ++part) {
      int64_t* to = take(counts[part]);
      for (int64_t e = 0; e < counts[part]; ++e, given += 2) to[e] = given[0] * port.pitch + given[1] * int64_t{4};
      *targets[part] = to;
    }
    side.dense_columns = side.dense_rows = true;
    for (int64_t c = 0; c < columns; ++c) side.dense_columns &= side.column[c] == 4 * c;
    for (int64_t r = 0; r < rows; ++r) side.dense_rows &= side.row[r] == 4 * r;
  }

  static float* element(const Side& side, const Run& run, int64_t s, int64_t b, int64_t r, int64_t c) {
    char* base = side.base(run, s);
    const int64_t at =
        side.table ? side.table[(b * side.rows + r) * side.columns + c] : side.batch[b] + side.row[r] + side.column[c];
    return reinterpret_cast<float*>(base + at);
  }

  // The side as it lies where it has offsets, else copied to `room`, rows `pitch` apart.
  static Rows rows_of(const Side& side, const Run& run, int64_t s, int64_t b, float* room, int64_t pitch) {
    if (!side.table)
      return {side.base(run, s) + side.batch[b], side.row, side.dense_columns ? nullptr : side.column, 0};
    for (int64_t r = 0; r < side.rows; ++r)
      for (int64_t c = 0; c < side.columns; ++c) room[r * pitch + c] = *element(side, run, s, b, r, c);
    return {reinterpret_cast<char*>(room), nullptr, nullptr, pitch * 4};
  }

  // The right side in rows of whole vectors.
  Rows turned(const Run& run, int64_t s, int64_t b, float* packed) const {
    if (!w_.table && w_.dense_rows) {
      const char* base = w_.base(run, s) + w_.batch[b];
      constexpr int n = S::kLanes;
      for (int64_t k = 0; k < k_; k += n)
        for (int64_t j = 0; j < j_; j += n) {
          const int wide = static_cast<int>(j_ - j < n ? j_ - j : n), high = static_cast<int>(k_ - k < n ? k_ - k : n);
          F row[n];
#pragma GCC unroll 16
          for (int c = 0; c < n; ++c) {
            const float* from = reinterpret_cast<const float*>(base + w_.column[c < wide ? j + c : j] + w_.row[k]);
            row[c] = c >= wide ? S::set(0.0f) : high == n ? S::load(from) : S::load_n(from, high);
          }
          exchange_all<S, 1>(row);
#pragma GCC unroll 16
          for (int r = 0; r < n; ++r)
            if (r < high) S::store(packed + (k + r) * pitch_ + j, row[r]);
        }
    } else {
      for (int64_t k = 0; k < k_; ++k)
        for (int64_t j = 0; j < j_; ++j) packed[k * pitch_ + j] = *element(w_, run, s, b, k, j);
    }
    return {reinterpret_cast<char*>(packed), nullptr, nullptr, pitch_ * 4};
  }

  void product(const Rows& a, const Rows& w, const Rows& y) const {
    if (j_ == 1 && !a.column && !w_.table && w_.dense_rows) return dots(a, w, y);
    for (int64_t i = 0; i < i_; i += kRows) {
      const int64_t rows = i_ - i < kRows ? i_ - i : kRows;
      int64_t j = 0;
      for (; j + kVectors * S::kLanes <= j_; j += kVectors * S::kLanes) blocks<kVectors>(a, w, y, i, rows, j);
      for (; j + S::kLanes <= j_; j += S::kLanes) blocks<1>(a, w, y, i, rows, j);
      const int wide = static_cast<int>(j_ - j);
      if (wide > 0 && rows == kRows) partial<kRows>(a, w, y, i, j, wide);
      for (int64_t r = 0; wide > 0 && rows < kRows && r < rows; ++r) partial<1>(a, w, y, i + r, j, wide);
    }
  }

  // One column, whose elements follow one another as those of the rows do: vectors of products, summed at their end.
  // Sums of short rows are taken of a vector of rows together.
  void dots(const Rows& a, const Rows& w, const Rows& y) const {
    const float* right = w.at(0);
    int64_t i = 0;
    if (k_ <= kShortRows * S::kLanes)
      for (; i + S::kLanes <= i_; i += S::kLanes) {
        F row[S::kLanes];
        if (k_ <= S::kLanes) {
          const int n = static_cast<int>(k_);
          const F one = S::load_n(right, n);
#pragma GCC unroll 16
          for (int r = 0; r < S::kLanes; ++r) row[r] = S::mul(S::load_n(a.at(i + r), n), one);
        } else {
#pragma GCC unroll 16
          for (int r = 0; r < S::kLanes; ++r) row[r] = products(a.at(i + r), right);
        }
        const F made = join_rows<S>(row, [](F one, F other) { return S::add(one, other); });
        if (y_.dense_rows) {
          S::store(y.at(i), made);
          continue;
        }
        float each[S::kLanes];
        S::store(each, made);
        for (int r = 0; r < S::kLanes; ++r) *y.at(i + r) = each[r];
      }
    for (; i < i_; ++i) *y.at(i) = S::sum_of(products(a.at(i), right));
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

  template <int V>
  void blocks(const Rows& a, const Rows& w, const Rows& y, int64_t i, int64_t rows, int64_t j) const {
    if (rows == kRows)
      tile<kRows, V>(a, w, y, i, j);
    else
      for (int64_t r = 0; r < rows; ++r) tile<1, V>(a, w, y, i + r, j);
  }

  template <int R, int V>
  void tile(const Rows& a, const Rows& w, const Rows& y, int64_t i, int64_t j) const {
    F sum[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = S::set(0.0f);
    const float* left[R];
    for (int r = 0; r < R; ++r) left[r] = a.at(i + r);
    LongSums<S, R, V> all;
    for (int64_t k = 0; k < k_;) {
      for (const int64_t end = run_end(k, k_); k < end; ++k) {
        const float* right = w.at(k) + j;
        const int64_t at = a.column ? a.column[k] / 4 : k;
        F x[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[v] = S::load(right + v * S::kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          const F scalar = S::set(left[r][at]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[r][v] = S::mul_add(scalar, x[v], sum[r][v]);
        }
      }
      if (k < k_) all.keep(sum);
    }
    all.finish(sum);
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) S::store(y.at(i + r) + j + v * S::kLanes, sum[r][v]);
  }

  // Columns that fill no vector.
  template <int R>
  void partial(const Rows& a, const Rows& w, const Rows& y, int64_t i, int64_t j, int wide) const {
    F sum[R][1];
    const float* left[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sum[r][0] = S::set(0.0f), left[r] = a.at(i + r);
    LongSums<S, R, 1> all;
    for (int64_t k = 0; k < k_;) {
      for (const int64_t end = run_end(k, k_); k < end; ++k) {
        const F x = S::load_n(w.at(k) + j, wide);
        const int64_t at = a.column ? a.column[k] / 4 : k;
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r][0] = S::mul_add(S::set(left[r][at]), x, sum[r][0]);
      }
      if (k < k_) all.keep(sum);
    }
    all.finish(sum);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) S::store_n(y.at(i + r) + j, sum[r][0], wide);
  }

  int64_t batches_, i_, j_, k_, pitch_;
  Side a_, w_, y_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "matmul", "cpu", nullptr, create_stage<MatmulStage<S>>);
}

}  // namespace rta
