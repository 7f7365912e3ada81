// Small systems of linear equations on the CPU. The contract is in contract.py.
//
// Everything is float64 in one block of scratch, by rows, so that a row operation is one loop over vectors. Products
// and differences round separately and in one order: the result is the same bits on every instruction set. Floor: n^3 /
// 3 + n^2 columns multiply-adds; below n = 8 the divisions, one a pivot, are as much.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class SolveStage final : public Stage {
 public:
  explicit SolveStage(const StageSpec& spec) {
    expect_outputs(spec, 1, 1);
    kind_ = static_cast<Kind>(
        word(spec.attrs, "kind", "solve|lower|upper|unit lower|unit upper|factored|inverse|pivots|cholesky"));
    n_ = between(spec.attrs, "n", 1, 64);
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    const bool system = kind_ <= Kind::kFactored;
    columns_ = system ? between(spec.attrs, "columns", 1, 4096) : kind_ == Kind::kInverse ? n_ : 0;
    int inputs = 0;
    a_ = Port::input(spec, "a", product(count_, n_ * n_), &inputs);
    if (system) b_ = Port::input(spec, "b", product(count_, n_ * columns_), &inputs);
    expect_inputs(spec, inputs, inputs);
    expect(inputs > 0, "reads no input");
    result_ = n_ * (columns_ ? columns_ : kind_ == Kind::kPivots ? 1 : n_);
    y_ = Port::output(spec, 0, "y", product(count_, result_));
    spec.need_scratch(static_cast<size_t>(n_ * (n_ + columns_)) * sizeof(double));
  }

  bool refuses() const override { return kind_ == Kind::kSolve || kind_ == Kind::kInverse || kind_ == Kind::kCholesky; }
  const char* refusal() const override {
    int64_t matrix;
    if (!outside_.take(&matrix)) return nullptr;
    return kind_ == Kind::kCholesky ? "solve: a matrix that is not positive definite"
                                    : "solve: a matrix without an inverse";
  }

  void run(const Run& run) const override {
    double* a = reinterpret_cast<double*>(run.scratch);
    double* b = a + n_ * n_;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * n_ * n_, n_ * n_, a);
        if (kind_ == Kind::kInverse)
          for (int64_t k = 0; k < n_ * n_; ++k) b[k] = k % (n_ + 1) == 0 ? 1.0 : 0.0;
        else if (columns_)
          b_.read(run, s, m * n_ * columns_, n_ * columns_, b);
        switch (kind_) {
          case Kind::kSolve:
          case Kind::kInverse:
          case Kind::kPivots: eliminate(a, b); break;
          case Kind::kCholesky: factor(a); break;
          case Kind::kLower: forward(a, b, false); break;
          case Kind::kFactored: factored(a, b); break;
          case Kind::kUnitLower: forward(a, b, true); break;
          case Kind::kUpper: backward(a, b, false); break;
          case Kind::kUnitUpper: backward(a, b, true); break;
        }
        if (kind_ == Kind::kSolve || kind_ == Kind::kInverse) backward(a, b, false);
        y_.write(run, s, m * result_, result_, columns_ ? b : a, kind_ == Kind::kPivots ? n_ + 1 : 1);
      }
  }

 private:
  using Port = MatrixPort<S>;
  using R = Rows<S>;
  enum class Kind { kSolve, kLower, kUpper, kUnitLower, kUnitUpper, kFactored, kInverse, kPivots, kCholesky };

  // a becomes its upper triangle, and b the right side that goes with it.
  void eliminate(double* a, double* b) const {
    double sign = 1.0;
    for (int64_t c = 0; c < n_; ++c) {
      int64_t best = c;
      for (int64_t r = c + 1; r < n_; ++r)
        if (R::magnitude(a[r * n_ + c]) > R::magnitude(a[best * n_ + c])) best = r;
      if (best != c) {
        sign = -sign;
        R::exchange(a + best * n_, a + c * n_, n_);
        R::exchange(b + best * columns_, b + c * columns_, columns_);
      }
      const double pivot = a[c * n_ + c];
      if (pivot == 0.0) {                 // the whole column is
        if (refuses()) outside_.note(c);  // a determinant of 0 is one
        continue;
      }
      for (int64_t r = c + 1; r < n_; ++r) {
        const double factor = a[r * n_ + c] / pivot;
        R::subtract(a + r * n_ + c, a + c * n_ + c, factor, n_ - c);
        R::subtract(b + r * columns_, b + c * columns_, factor, columns_);
      }
    }
    if (kind_ == Kind::kPivots) a[0] *= sign;
  }

  void backward(const double* a, double* b, bool unit) const {
    for (int64_t r = n_ - 1; r >= 0; --r) {
      double* row = b + r * columns_;
      for (int64_t k = r + 1; k < n_; ++k) R::subtract(row, b + k * columns_, a[r * n_ + k], columns_);
      if (!unit)
        for (int64_t j = 0; j < columns_; ++j) row[j] = row[j] / a[r * n_ + r];
    }
  }

  void forward(const double* a, double* b, bool unit) const {
    for (int64_t r = 0; r < n_; ++r) {
      double* row = b + r * columns_;
      for (int64_t k = 0; k < r; ++k) R::subtract(row, b + k * columns_, a[r * n_ + k], columns_);
      if (!unit)
        for (int64_t j = 0; j < columns_; ++j) row[j] = row[j] / a[r * n_ + r];
    }
  }

  // With a lower triangle, then with its transpose.
  void factored(double* a, double* b) const {
    forward(a, b, false);
    for (int64_t r = 0; r < n_; ++r)
      for (int64_t c = r + 1; c < n_; ++c) a[r * n_ + c] = a[c * n_ + r];
    backward(a, b, false);
  }

  void factor(double* a) const {
    for (int64_t r = 0; r < n_; ++r) {
      double* row = a + r * n_;
      for (int64_t c = 0; c <= r; ++c) {
        const double* other = a + c * n_;
        double left = row[c];
        for (int64_t k = 0; k < c; ++k) left = left - row[k] * other[k];
        if (c < r)
          row[c] = left / other[c];
        else if (left > 0.0)
          row[r] = __builtin_sqrt(left);
        else {
          outside_.note(r);
          row[r] = __builtin_nan("");
        }
      }
      for (int64_t c = r + 1; c < n_; ++c) row[c] = 0.0;
    }
  }

  Kind kind_;
  int64_t n_, columns_, count_, result_;
  Port a_, b_, y_;
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "solve", "cpu", nullptr, create_stage<SolveStage<S>>);
}

}  // namespace rta
