// Small matrices in scratch, as float64 and by rows: how stages of linear algebra read them, write them, and what they
// do to rows.
//
// Products and differences round apart. A sum goes in an order that its length alone decides. So the bits are the same
// on every instruction set. Squares of float32 numbers and their sums stay far from the limits of float64: nothing is
// scaled before a root is taken.
#pragma once

#include "_common/checks.h"

namespace rta {

// Operands of a stage, dense or constant: so many elements of each sample, matrix behind matrix. T says for which
// instruction set this is compiled.
template <class T>
class MatrixPort {
 public:
  MatrixPort() : port_{-1, 0, 0, 0} {}

  // A constant of the attributes with this name, or the next input.
  static MatrixPort input(const StageSpec& spec, const char* name, int64_t size, int* inputs) {
    MatrixPort made;
    if (spec.attrs.has(name)) {
      const float* from = spec.attrs.floats(name, size);
      float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(size) * sizeof(float)));
      for (int64_t k = 0; k < size; ++k) to[k] = from[k];
      made.constant_ = to;
      return made;
    }
    expect(*inputs < spec.input_count, "has no input %s", name);
    check(spec.input(*inputs), name, size);
    made.port_ = spec.in((*inputs)++);
    return made;
  }

  static MatrixPort output(const StageSpec& spec, int place, const char* name, int64_t size) {
    check(spec.output(place), name, size);
    MatrixPort made;
    made.port_ = spec.out(place);
    return made;
  }

  void read(const Run& run, int64_t s, int64_t first, int64_t size, double* to) const {
    if (constant_) {
      for (int64_t k = 0; k < size; ++k) to[k] = static_cast<double>(constant_[first + k]);
      return;
    }
    const char* from = port_.row(run, s * port_.steps);
    for (int64_t k = 0; k < size;) {  // a part of a row at a time
      const int64_t left = port_.width - (first + k) % port_.width, part = left < size - k ? left : size - k;
      const float* row = reinterpret_cast<const float*>(from + at(first + k));
      for (int64_t i = 0; i < part; ++i) to[k + i] = static_cast<double>(row[i]);
      k += part;
    }
  }

  // Numbers of `from` that lie `stride` apart.
  void write(const Run& run, int64_t s, int64_t first, int64_t size, const double* from, int64_t stride = 1) const {
    char* to = port_.row(run, s * port_.steps);
    for (int64_t k = 0; k < size; ++k)
      *reinterpret_cast<float*>(to + at(first + k)) = static_cast<float>(from[k * stride]);
  }

 private:
  static void check(const Value& v, const char* name, int64_t size) {
    expect_dtype(v, RTA_FLOAT32, name);
    expect(elements(v) == size, "%s has %lld elements, expected %lld", name, static_cast<long long>(elements(v)),
           static_cast<long long>(size));
  }
  int64_t at(int64_t k) const { return k / port_.width * port_.pitch + k % port_.width * 4; }

  GraphIO port_;
  const float* constant_ = nullptr;
};

template <class T>
struct Rows {
  static double magnitude(double x) { return x < 0.0 ? -x : x; }

  static void subtract(double* row, const double* other, double factor, int64_t count) {
    for (int64_t j = 0; j < count; ++j) row[j] = row[j] - factor * other[j];
  }

  static void add(double* row, const double* other, double factor, int64_t count) {
    for (int64_t j = 0; j < count; ++j) row[j] = row[j] + factor * other[j];
  }

  static void scale(double* row, double factor, int64_t count) {
    for (int64_t j = 0; j < count; ++j) row[j] = row[j] * factor;
  }

  static void fill(double* row, double value, int64_t count) {
    for (int64_t j = 0; j < count; ++j) row[j] = value;
  }

  static void exchange(double* one, double* other, int64_t count) {
    for (int64_t j = 0; j < count; ++j) {
      const double kept = one[j];
      one[j] = other[j];
      other[j] = kept;
    }
  }

  // (one, other) -> (c one + s other, c other - s one).
  static void rotate(double* one, double* other, double c, double s, int64_t count) {
    for (int64_t j = 0; j < count; ++j) {
      const double first = c * one[j] + s * other[j];
      other[j] = c * other[j] - s * one[j];
      one[j] = first;
    }
  }

  // Of two rows, in eight sums.
  static double dot(const double* one, const double* other, int64_t count) {
    double part[8] = {0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0};
    int64_t j = 0;
    for (; j + 8 <= count; j += 8)
      for (int i = 0; i < 8; ++i) part[i] = part[i] + one[j + i] * other[j + i];
    for (int i = 0; j < count; ++j, ++i) part[i] = part[i] + one[j] * other[j];
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
  }

  static void turn(const double* from, double* to, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) to[c * rows + r] = from[r * columns + c];
  }

  // The lower triangle of a symmetric matrix is all that is read of it.
  static void mirror(double* a, int64_t n) {
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = r + 1; c < n; ++c) a[r * n + c] = a[c * n + r];
  }

  static bool finite(const double* values, int64_t count) {
    double none = 0.0;  // a NaN where one is not
    for (int64_t k = 0; k < count; ++k) none = none + values[k] * 0.0;
    return none == 0.0;
  }

  static bool any_nan(const double* values, int64_t count) {
    bool found = false;
    for (int64_t k = 0; k < count; ++k) found = found || !(values[k] == values[k]);
    return found;
  }

  // The reflection 1 - tau v v^T that leaves x a multiple of (1, 0, ..), as LAPACK's larfg has it: x becomes v, whose
  // first number is 1. Gives that multiple, which has the other sign than x_0; tau is 0 where x is such a multiple.
  static double reflect(double* x, int64_t count, double* tau) {
    const double first = x[0];
    const double rest = dot(x + 1, x + 1, count - 1);
    x[0] = 1.0;
    *tau = 0.0;
    if (rest == 0.0) return first;
    const double beta = -__builtin_copysign(__builtin_sqrt(first * first + rest), first);
    *tau = (beta - first) / beta;
    const double pivot = first - beta;
    for (int64_t j = 1; j < count; ++j) x[j] = x[j] / pivot;
    return beta;
  }

  // rows [count, width] of a matrix with rows `pitch` apart become (1 - tau v v^T) rows. spare: [width].
  static void reflect_rows(double* rows, int64_t pitch, const double* v, double tau, int64_t count, int64_t width,
                           double* spare) {
    if (tau == 0.0 || width <= 0) return;
    fill(spare, 0.0, width);
    for (int64_t r = 0; r < count; ++r) add(spare, rows + r * pitch, v[r], width);
    for (int64_t r = 0; r < count; ++r) subtract(rows + r * pitch, spare, tau * v[r], width);
  }

  // rows [count, width] become rows (1 - tau v v^T).
  static void reflect_columns(double* rows, int64_t pitch, const double* v, double tau, int64_t count, int64_t width) {
    if (tau == 0.0) return;
    for (int64_t r = 0; r < count; ++r) {
      double* row = rows + r * pitch;
      subtract(row, v, tau * dot(row, v, width), width);
    }
  }
};

}  // namespace rta
