// Rounding column by column and coordinate descent, in float64. Each number is computed by the same operations in the
// same order whatever the instruction set, so the bits are those that NumPy gives.
#include "bindings/weights/rounding.h"

#include <nanobind/ndarray.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace nb = nanobind;

namespace rta_weights {
namespace {

template <class T>
using Matrix = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void require(bool fits, const char* what) {
  if (!fits) throw nb::value_error((std::string(what) + " of another shape").c_str());
}

// The whole number nearest to x, ties to even, within the limits; NaN stays NaN.
inline double nearest(double x, double low, double high) {
  const double rounded = std::nearbyint(x);
  return rounded < low ? low : rounded > high ? high : rounded;
}

// columns [C, N], changed in place: column i is rounded to numbers[i], and columns i .. C - 1 take up its error by row
// i of factor [C, C]. step [N]: what a number stands for.
void round_columns(const Matrix<double>& columns, const Vector<const double>& step, const Matrix<const double>& factor,
                   double low, double high, const Matrix<double>& numbers, const Matrix<double>& errors) {
  const auto count = static_cast<int64_t>(columns.shape(0)), n = static_cast<int64_t>(columns.shape(1));
  require(static_cast<int64_t>(step.shape(0)) == n, "step");
  require(static_cast<int64_t>(factor.shape(0)) == count && static_cast<int64_t>(factor.shape(1)) == count, "factor");
  for (const auto* same : {&numbers, &errors})
    require(static_cast<int64_t>(same->shape(0)) == count && static_cast<int64_t>(same->shape(1)) == n, "result");
  double *c = columns.data(), *q = numbers.data(), *e = errors.data();
  const double *s = step.data(), *f = factor.data();
  const nb::gil_scoped_release others_run;
  for (int64_t i = 0; i < count; ++i, q += n, e += n) {
    const double* own = c + i * n;
    const double pivot = f[i * count + i];
    for (int64_t k = 0; k < n; ++k) {
      q[k] = nearest(own[k] / s[k], low, high);
      e[k] = (own[k] - q[k] * s[k]) / pivot;
    }
    for (int64_t j = i; j < count; ++j) {
      const double share = f[i * count + j];
      double* to = c + j * n;
      for (int64_t k = 0; k < n; ++k) to[k] -= share * e[k];
    }
  }
}

// numbers, gradient [N, K], both changed in place: each number of a row in turn goes where the error of the row is
// least, and the gradient with it, until a sweep changes nothing. h [K, K]; steps [N, K].
void descend(const Matrix<double>& numbers, const Matrix<double>& gradient, const Matrix<const double>& h,
             const Matrix<const double>& steps, double low, double high, int sweeps) {
  const auto n = static_cast<int64_t>(numbers.shape(0)), k = static_cast<int64_t>(numbers.shape(1));
  require(static_cast<int64_t>(h.shape(0)) == k && static_cast<int64_t>(h.shape(1)) == k, "h");
  require(static_cast<int64_t>(gradient.shape(0)) == n && static_cast<int64_t>(gradient.shape(1)) == k, "gradient");
  require(static_cast<int64_t>(steps.shape(0)) == n && static_cast<int64_t>(steps.shape(1)) == k, "steps");
  double *q = numbers.data(), *g = gradient.data();
  const double *s = steps.data(), *second = h.data();
  const nb::gil_scoped_release others_run;
  for (int64_t row = 0; row < n; ++row, q += k, g += k, s += k) {
    bool moved = true;
    for (int sweep = 0; sweep < sweeps && moved; ++sweep) {
      moved = false;
      for (int64_t i = 0; i < k; ++i) {
        const double* line = second + i * k;
        if (!(line[i] > 0)) continue;
        const double best = nearest(q[i] + g[i] / line[i] / s[i], low, high);
        const double change = best - q[i];
        if (change == 0) continue;
        moved = true;
        q[i] = best;
        const double by = change * s[i];
        for (int64_t j = 0; j < k; ++j) g[j] -= by * line[j];
      }
    }
  }
}

}  // namespace

void add_rounding(nb::module_& m) {
  const auto whole = [](const char* name) { return nb::arg(name).noconvert(); };  // a copy would lose what is written
  m.def("round_columns", &round_columns, whole("columns"), whole("step"), whole("factor"), nb::arg("low"),
        nb::arg("high"), whole("numbers"), whole("errors"));
  m.def("descend", &descend, whole("numbers"), whole("gradient"), whole("h"), whole("steps"), nb::arg("low"),
        nb::arg("high"), nb::arg("sweeps"));
}

}  // namespace rta_weights
