// Orthogonal and triangular factors of small matrices on the CPU. The contract is in contract.py.
//
// Reflections, one a column, in LAPACK's order and with its signs. Each is kept in a row of its own, so that every loop
// runs over elements that follow one another. Floor: 2 n^2 (m - n / 3) multiply-adds, and as many for q.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class QrStage final : public Stage {
 public:
  explicit QrStage(const StageSpec& spec) {
    const int gives = word(spec.attrs, "gives", "q,r|q|r");
    expect_ports(spec, 1, gives == 0 ? 2 : 1);
    rows_ = between(spec.attrs, "rows", 1, 4096);
    columns_ = between(spec.attrs, "columns", 1, 4096);
    least_ = rows_ < columns_ ? rows_ : columns_;
    expect(least_ <= 64, "has %lld rows and columns at least, at most 64 are known", static_cast<long long>(least_));
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    inner_ = flag(spec.attrs, "complete") ? rows_ : least_;
    int inputs = 0;
    a_ = MatrixPort<S>::input(spec, "a", product(count_, rows_ * columns_), &inputs);
    has_q_ = gives != 2;
    has_r_ = gives != 1;
    if (has_q_) q_ = MatrixPort<S>::output(spec, 0, "q", product(count_, rows_, inner_));
    if (has_r_) r_ = MatrixPort<S>::output(spec, has_q_ ? 1 : 0, "r", product(count_, inner_, columns_));
    width_ = columns_ > inner_ ? columns_ : inner_;
    const int64_t q = has_q_ ? rows_ * inner_ : 0;
    spec.need_scratch(static_cast<size_t>(rows_ * columns_ + q + least_ * rows_ + least_ + width_) * sizeof(double));
  }

  void run(const Run& run) const override {
    double* a = reinterpret_cast<double*>(run.scratch);
    double* v = a + rows_ * columns_;  // [least, rows]: from the diagonal on
    double* tau = v + least_ * rows_;
    double* spare = tau + least_;
    double* q = spare + width_;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * rows_ * columns_, rows_ * columns_, a);
        const bool finite = R::finite(a, rows_ * columns_);
        if (finite) triangle(a, v, tau, spare);
        if (has_r_) {
          if (!finite) unknown(a);
          r_.write(run, s, m * inner_ * columns_, inner_ * columns_, a);
        }
        if (!has_q_) continue;
        if (finite)
          orthogonal(v, tau, spare, q);
        else
          R::fill(q, __builtin_nan(""), rows_ * inner_);
        q_.write(run, s, m * rows_ * inner_, rows_ * inner_, q);
      }
  }

 private:
  using R = Rows<S>;

  // a becomes the triangle.
  void triangle(double* a, double* v, double* tau, double* spare) const {
    for (int64_t k = 0; k < least_; ++k) {
      double* own = v + k * rows_ + k;
      const int64_t below = rows_ - k;
      for (int64_t r = 0; r < below; ++r) own[r] = a[(k + r) * columns_ + k];
      a[k * columns_ + k] = R::reflect(own, below, tau + k);
      for (int64_t r = k + 1; r < rows_; ++r) a[r * columns_ + k] = 0.0;
      R::reflect_rows(a + k * columns_ + k + 1, columns_, own, tau[k], below, columns_ - k - 1, spare);
    }
  }

  // The product of the reflections, from the last one on: what they leave alone yet is a unit matrix.
  void orthogonal(const double* v, const double* tau, double* spare, double* q) const {
    R::fill(q, 0.0, rows_ * inner_);
    for (int64_t k = 0; k < inner_; ++k) q[k * inner_ + k] = 1.0;
    for (int64_t k = least_ - 1; k >= 0; --k)
      R::reflect_rows(q + k * inner_ + k, inner_, v + k * rows_ + k, tau[k], rows_ - k, inner_ - k, spare);
  }

  void unknown(double* a) const {
    for (int64_t r = 0; r < inner_; ++r)
      for (int64_t c = 0; c < columns_; ++c) a[r * columns_ + c] = c < r ? 0.0 : __builtin_nan("");
  }

  bool has_q_, has_r_;
  int64_t rows_, columns_, least_, inner_, count_, width_;
  MatrixPort<S> a_, q_, r_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "qr", "cpu", nullptr, create_stage<QrStage<S>>);
}

}  // namespace rta
