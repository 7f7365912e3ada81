// Eigenvalues of small symmetric matrices on the CPU. The contract is in contract.py.
//
// Reflections from both sides make three diagonals of the matrix. Then rotations with a shift near an eigenvalue (the
// implicit QL algorithm of EISPACK) let the two outer ones vanish, from the first row on, a step or two an eigenvalue.
// Floor: 4 / 3 n^3 multiply-adds; this keeps both triangles, and takes 2 n^3, over vectors.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class EigvalshStage final : public Stage {
 public:
  explicit EigvalshStage(const StageSpec& spec) {
    expect_ports(spec, 1, 1);
    n_ = between(spec.attrs, "n", 1, 64);
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    int inputs = 0;
    a_ = MatrixPort<S>::input(spec, "a", product(count_, n_ * n_), &inputs);
    y_ = MatrixPort<S>::output(spec, 0, "y", product(count_, n_));
    spec.need_scratch(static_cast<size_t>(n_ * (n_ + 4)) * sizeof(double));
  }

  bool refuses() const override { return true; }
  const char* refusal() const override {
    int64_t matrix;
    return outside_.take(&matrix) ? "eigvalsh: a matrix whose eigenvalues were not found in 60 steps each" : nullptr;
  }

  void run(const Run& run) const override {
    double* a = reinterpret_cast<double*>(run.scratch);
    double *d = a + n_ * n_, *e = d + n_, *spare = e + n_;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * n_ * n_, n_ * n_, a);
        R::mirror(a, n_);
        if (R::finite(a, n_ * n_)) {
          diagonals(a, d, e, spare);
          if (!rotated(d, e)) outside_.note(m);
          sort(d);
        } else {
          R::fill(d, __builtin_nan(""), n_);
        }
        y_.write(run, s, m * n_, n_, d);
      }
  }

 private:
  using R = Rows<S>;

  // d: the diagonal, e: what is beside it, n - 1 numbers. spare: [2, n].
  void diagonals(double* a, double* d, double* e, double* spare) const {
    for (int64_t k = 0; k + 1 < n_; ++k) {
      const int64_t left = n_ - k - 1;
      double *v = spare, *w = spare + n_, *rest = a + (k + 1) * (n_ + 1), tau;
      d[k] = a[k * (n_ + 1)];
      for (int64_t j = 0; j < left; ++j) v[j] = a[k * n_ + k + 1 + j];
      e[k] = R::reflect(v, left, &tau);
      if (tau == 0.0) continue;
      // (1 - tau v v^T) rest (1 - tau v v^T) = rest - v w^T - w v^T, with p = tau rest v and w = p - tau / 2 (p v) v.
      R::fill(w, 0.0, left);
      for (int64_t r = 0; r < left; ++r) R::add(w, rest + r * n_, tau * v[r], left);
      R::subtract(w, v, 0.5 * tau * R::dot(w, v, left), left);
      for (int64_t r = 0; r < left; ++r) {
        R::subtract(rest + r * n_, w, v[r], left);
        R::subtract(rest + r * n_, v, w[r], left);
      }
    }
    d[n_ - 1] = a[n_ * n_ - 1];
    e[n_ - 1] = 0.0;
  }

  // d becomes the eigenvalues. False where an outer number does not vanish.
  bool rotated(double* d, double* e) const {
    for (int64_t l = 0; l < n_; ++l)
      for (int steps = 0;; ++steps) {
        int64_t m = l;
        for (; m + 1 < n_; ++m)
          if (R::magnitude(e[m]) <= kUnit * (R::magnitude(d[m]) + R::magnitude(d[m + 1]))) break;
        if (m == l) break;
        if (steps == 60) return false;
        step(d, e, l, m);
      }
    return true;
  }

  // One step on the rows l .. m, from the last one up.
  static void step(double* d, double* e, int64_t l, int64_t m) {
    double g = (d[l + 1] - d[l]) / (2.0 * e[l]);
    double r = __builtin_sqrt(g * g + 1.0);
    g = d[m] - d[l] + e[l] / (g < 0.0 ? g - r : g + r);
    double s = 1.0, c = 1.0, p = 0.0;
    for (int64_t i = m - 1; i >= l; --i) {
      const double f = s * e[i], b = c * e[i];
      r = __builtin_sqrt(f * f + g * g);
      e[i + 1] = r;
      if (r == 0.0) {  // a number vanished on the way: the rows above go on by themselves
        d[i + 1] = d[i + 1] - p;
        e[m] = 0.0;
        return;
      }
      s = f / r;
      c = g / r;
      g = d[i + 1] - p;
      r = (d[i] - g) * s + 2.0 * c * b;
      p = s * r;
      d[i + 1] = g + p;
      g = c * r - b;
    }
    d[l] = d[l] - p;
    e[l] = g;
    e[m] = 0.0;
  }

  void sort(double* d) const {
    for (int64_t i = 1; i < n_; ++i) {
      const double own = d[i];
      int64_t j = i;
      for (; j > 0 && d[j - 1] > own; --j) d[j] = d[j - 1];
      d[j] = own;
    }
  }

  static constexpr double kUnit = 1.1102230246251565e-16;

  int64_t n_, count_;
  MatrixPort<S> a_, y_;
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "eigvalsh", "cpu", nullptr, create_stage<EigvalshStage<S>>);
}

}  // namespace rta
