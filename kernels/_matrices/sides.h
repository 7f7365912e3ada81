// Matrices of computed values or parameters that lie by strides: where their elements are, and how they come to lie in
// rows of whole vectors. Stages that join each row of one with each column of another read and write through this.
#pragma once

#include "_common/checks.h"
#include "_common/strided.h"
#include "_simd/transpose.h"

namespace rta {

// Rows of a matrix: at `base` + row offset; `column` holds offsets of columns where they are not dense.
struct MatrixRows {
  char* base;
  const int64_t* row;
  const int64_t* column;
  int64_t pitch;  // where there are no offsets
  float* at(int64_t r) const { return reinterpret_cast<float*>(base + (row ? row[r] : r * pitch)); }
};

// Offsets in bytes of each batch, row and column, or of every element.
template <class S>
class MatrixSide {
 public:
  // next: the input that the next computed side is.
  void read(const StageSpec& spec, const char* name, int& next, const char* offsets, const char* table, int64_t batches,
            int64_t rows, int64_t columns) {
    if (!spec.attrs.has(name)) {
      expect(next < spec.input_count, "%s is neither a tensor nor an input", name);
      expect_dtype(spec.input(next), RTA_FLOAT32, name);
      return lay_out(spec, spec.in(next++), offsets, table, batches, rows, columns);
    }
    lay_out(spec, {-1, 0, 1, spec.attrs.count(name)}, offsets, table, batches, rows, columns);
    parameter_ = read_constant(spec, name);
  }

  void lay_out(const StageSpec& spec, const GraphIO& port, const char* offsets, const char* table, int64_t batches,
               int64_t rows, int64_t columns) {
    port_ = port, rows_ = rows, columns_ = columns;
    if (spec.attrs.has(table)) {
      table_ = read_table(spec, table, batches * rows * columns, port, 4, rta::product(port.steps, port.width));
      return;
    }
    const int32_t* given = spec.attrs.ints(offsets, 2 * (batches + rows + columns));
    const int64_t counts[] = {batches, rows, columns};
    const int64_t** targets[] = {&batch_, &row_, &column_};
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
      int64_t* to = static_cast<int64_t*>(spec.arena->take(static_cast<size_t>(counts[part]) * sizeof(int64_t)));
      for (int64_t e = 0; e < counts[part]; ++e, given += 2) to[e] = given[0] * port.pitch + given[1] * int64_t{4};
      *targets[part] = to;
    }
    dense_columns_ = dense_rows_ = true;
    for (int64_t c = 0; c < columns; ++c) dense_columns_ &= column_[c] == 4 * c;
    for (int64_t r = 0; r < rows; ++r) dense_rows_ &= row_[r] == 4 * r;
  }

  bool by_table() const { return table_ != nullptr; }
  bool is_parameter() const { return parameter_ != nullptr; }
  bool dense_columns() const { return dense_columns_; }  // one after the other
  bool dense_rows() const { return dense_rows_; }        // in a column

  char* base(const Run& run, int64_t s) const {
    return parameter_ ? const_cast<char*>(reinterpret_cast<const char*>(parameter_)) : port_.row(run, s * port_.steps);
  }

  float* element(const Run& run, int64_t s, int64_t b, int64_t r, int64_t c) const {
    const int64_t at = table_ ? table_[(b * rows_ + r) * columns_ + c] : batch_[b] + row_[r] + column_[c];
    return reinterpret_cast<float*>(base(run, s) + at);
  }

  // The side as it lies where it has offsets, else copied to `room`, rows `pitch` apart.
  MatrixRows rows_of(const Run& run, int64_t s, int64_t b, float* room, int64_t pitch) const {
    if (!table_) return {base(run, s) + batch_[b], row_, dense_columns_ ? nullptr : column_, 0};
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c) room[r * pitch + c] = *element(run, s, b, r, c);
    return {reinterpret_cast<char*>(room), nullptr, nullptr, pitch * 4};
  }

  // In rows of whole vectors, `pitch` elements apart.
  MatrixRows turned(const Run& run, int64_t s, int64_t b, float* room, int64_t pitch) const {
    if (!table_ && dense_rows_) {
      using F = typename S::F;
      const char* base = this->base(run, s) + batch_[b];
      constexpr int n = S::kLanes;
      for (int64_t k = 0; k < rows_; k += n)
        for (int64_t j = 0; j < columns_; j += n) {
          const int wide = static_cast<int>(columns_ - j < n ? columns_ - j : n);
          const int high = static_cast<int>(rows_ - k < n ? rows_ - k : n);
          F row[n];
#pragma GCC unroll 16
          for (int c = 0; c < n; ++c) {
            const float* from = reinterpret_cast<const float*>(base + column_[c < wide ? j + c : j] + row_[k]);
            row[c] = c >= wide ? S::set(0.0f) : high == n ? S::load(from) : S::load_n(from, high);
          }
          exchange_all<S, 1>(row);
#pragma GCC unroll 16
          for (int r = 0; r < n; ++r)
            if (r < high) S::store(room + (k + r) * pitch + j, row[r]);
        }
    } else {
      for (int64_t k = 0; k < rows_; ++k)
        for (int64_t j = 0; j < columns_; ++j) room[k * pitch + j] = *element(run, s, b, k, j);
    }
    return {reinterpret_cast<char*>(room), nullptr, nullptr, pitch * 4};
  }

 private:
  GraphIO port_{-1, 0, 0, 0};
  const float* parameter_ = nullptr;  // instead of a value
  const int64_t *batch_ = nullptr, *row_ = nullptr, *column_ = nullptr, *table_ = nullptr;
  int64_t rows_ = 0, columns_ = 0;
  bool dense_columns_ = false, dense_rows_ = false;
};

}  // namespace rta
