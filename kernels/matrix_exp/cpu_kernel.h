// Exponentials of small matrices on the CPU. The contract is in contract.py.
//
// exp(a) = exp(a / 2^s)^(2^s), with s so that no row of a / 2^s has a sum of magnitudes over 1. Of that one the series
// of degree 4, 8, 12 or 16 is taken, by its norm: what is left out is below 1e-14 of the result. Four terms at a time
// are one product by a^4 (Paterson and Stockmeyer), so that degree 16 takes six products, and s more square it. Floor:
// 2 n^3 a product.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class MatrixExpStage final : public Stage {
 public:
  explicit MatrixExpStage(const StageSpec& spec) {
    expect_ports(spec, 1, 1);
    n_ = between(spec.attrs, "n", 1, 64);
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    int inputs = 0;
    a_ = MatrixPort<S>::input(spec, "a", product(count_, n_ * n_), &inputs);
    y_ = MatrixPort<S>::output(spec, 0, "y", product(count_, n_ * n_));
    spec.need_scratch(static_cast<size_t>(6 * n_ * n_) * sizeof(double));
  }

  void run(const Run& run) const override {
    const int64_t size = n_ * n_;
    double* a = reinterpret_cast<double*>(run.scratch);
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * size, size, a);
        y_.write(run, s, m * size, size, exponential(a));
      }
  }

 private:
  using R = Rows<S>;

  // a: [n, n], with room for five more behind it. Where the result is among them.
  const double* exponential(double* a) const {
    const int64_t size = n_ * n_;
    double *a2 = a + size, *a3 = a2 + size, *a4 = a3 + size, *y = a4 + size, *next = y + size;
    if (!R::finite(a, size)) {
      R::fill(y, __builtin_nan(""), size);
      return y;
    }
    double norm = 0.0;
    for (int64_t r = 0; r < n_; ++r) {
      double sum = 0.0;
      for (int64_t c = 0; c < n_; ++c) sum = sum + R::magnitude(a[r * n_ + c]);
      if (sum > norm) norm = sum;
    }
    int squares = 0;
    double factor = 1.0;
    for (; norm > 1.0; norm = norm * 0.5, ++squares) factor = factor * 0.5;
    R::scale(a, factor, size);
    multiply(a, a, a2);
    multiply(a2, a, a3);
    multiply(a2, a2, a4);
    // The rest of degree 4q is norm^(4q + 1) / (4q + 1)!.
    int degree = norm <= 0.004 ? 4 : norm <= 0.11 ? 8 : norm <= 0.47 ? 12 : 16;
    double inverse[17];  // of factorials
    inverse[0] = 1.0;
    double factorial = 1.0;
    for (int k = 1; k <= 16; ++k) {
      factorial = factorial * static_cast<double>(k);
      inverse[k] = 1.0 / factorial;
    }
    for (int64_t k = 0; k < size; ++k) y[k] = inverse[degree] * a4[k];
    for (degree -= 4;; degree -= 4) {
      for (int64_t k = 0; k < size; ++k)
        y[k] = y[k] + (inverse[degree + 1] * a[k] + (inverse[degree + 2] * a2[k] + inverse[degree + 3] * a3[k]));
      for (int64_t k = 0; k < size; k += n_ + 1) y[k] = y[k] + inverse[degree];
      if (degree == 0) break;
      multiply(y, a4, next);
      swap(&y, &next);
    }
    for (; squares; --squares) {
      multiply(y, y, next);
      swap(&y, &next);
    }
    return y;
  }

  void multiply(const double* one, const double* other, double* to) const {
    R::fill(to, 0.0, n_ * n_);
    for (int64_t r = 0; r < n_; ++r)
      for (int64_t k = 0; k < n_; ++k) R::add(to + r * n_, other + k * n_, one[r * n_ + k], n_);
  }

  static void swap(double** one, double** other) {
    double* kept = *one;
    *one = *other;
    *other = kept;
  }

  int64_t n_, count_;
  MatrixPort<S> a_, y_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "matrix_exp", "cpu", nullptr, create_stage<MatrixExpStage<S>>);
}

}  // namespace rta
