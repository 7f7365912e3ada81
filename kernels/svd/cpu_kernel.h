// What follows from the singular values of small matrices, on the CPU. The contract is in contract.py.
//
// A wide matrix is turned first. Vectors are computed where they are needed: they cost three times the values.
// Floor: 4 n^2 (m - n / 3) multiply-adds for the two diagonals, and some n^2 for the values.
#pragma once

#include "svd/bidiagonal.h"

namespace rta {

template <class S>
class SvdStage final : public Stage {
 public:
  explicit SvdStage(const StageSpec& spec) {
    expect_outputs(spec, 1, 1);
    kind_ = static_cast<Kind>(word(spec.attrs, "kind", "values|pinv|least"));
    rows_ = between(spec.attrs, "rows", 1, 4096);
    columns_ = between(spec.attrs, "columns", 1, 4096);
    wide_ = rows_ < columns_;
    most_ = wide_ ? columns_ : rows_;
    least_ = wide_ ? rows_ : columns_;
    expect(least_ <= 64, "has %lld rows and columns at least, at most 64 are known", static_cast<long long>(least_));
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    mirrored_ = flag(spec.attrs, "mirrored");
    expect(!mirrored_ || rows_ == columns_, "mirrors a matrix that is not square");
    right_ = kind_ == Kind::kLeast ? between(spec.attrs, "right", 1, 4096) : 0;
    rtol_ = finite(spec.attrs, "rtol");
    atol_ = finite(spec.attrs, "atol");
    int inputs = 0;
    a_ = Port::input(spec, "a", product(count_, rows_ * columns_), &inputs);
    if (right_) b_ = Port::input(spec, "b", product(count_, rows_ * right_), &inputs);
    expect_inputs(spec, inputs, inputs);
    expect(inputs > 0, "reads no input");
    result_ = kind_ == Kind::kValues ? least_ : kind_ == Kind::kPinv ? rows_ * columns_ : columns_ * right_;
    y_ = Port::output(spec, 0, "y", product(count_, result_));
    plan_ = Bidiagonal<S>(most_, least_, kind_ != Kind::kValues);
    room_ = kind_ == Kind::kValues ? 0 : kind_ == Kind::kPinv ? result_ : (rows_ + columns_) * right_;
    spec.need_scratch(static_cast<size_t>(2 * rows_ * columns_ + room_ + plan_.doubles()) * sizeof(double));
  }

  bool refuses() const override { return true; }
  const char* refusal() const override {
    int64_t steps;
    if (!outside_.take(&steps)) return nullptr;
    return steps ? "svd: a matrix whose singular values were not found in 75 steps each" : "svd: a matrix with a NaN";
  }

  void run(const Run& run) const override {
    const int64_t size = rows_ * columns_;
    double* a = reinterpret_cast<double*>(run.scratch);
    double *turned = a + size, *y = turned + size, *b = y + result_;
    Bidiagonal<S> parts = plan_;
    parts.place(y + room_);
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * size, size, a);
        if (mirrored_) R::mirror(a, rows_);
        if (right_) b_.read(run, s, m * rows_ * right_, rows_ * right_, b);
        const double* found = y;
        if (!R::finite(a, size)) {
          if (R::any_nan(a, size)) outside_.note(0);
          found = nothing(parts, y);
        } else {
          if (wide_) R::turn(a, turned, rows_, columns_);
          if (!parts.compute(wide_ ? turned : a)) outside_.note(1);
          if (kind_ == Kind::kValues)
            found = parts.values();
          else if (kind_ == Kind::kPinv)
            pinv(parts, y);
          else
            least(parts, b, y);
        }
        y_.write(run, s, m * result_, result_, found);
      }
  }

 private:
  using R = Rows<S>;
  using Port = MatrixPort<S>;
  enum class Kind { kValues, kPinv, kLeast };

  const double* nothing(const Bidiagonal<S>& parts, double* y) const {
    double* to = kind_ == Kind::kValues ? const_cast<double*>(parts.values()) : y;
    R::fill(to, __builtin_nan(""), result_);
    return to;
  }

  // So many values count.
  int64_t rank(const Bidiagonal<S>& parts) const {
    const double* values = parts.values();
    const double part = rtol_ * values[0], limit = atol_ > part ? atol_ : part;
    int64_t found = 0;
    while (found < least_ && values[found] > limit) ++found;
    return found;
  }

  // Singular vectors as the matrix has them before it is turned.
  const double* range(const Bidiagonal<S>& parts, int64_t k) const { return wide_ ? parts.right(k) : parts.left(k); }
  const double* domain(const Bidiagonal<S>& parts, int64_t k) const { return wide_ ? parts.left(k) : parts.right(k); }

  void pinv(const Bidiagonal<S>& parts, double* y) const {
    R::fill(y, 0.0, result_);
    for (int64_t k = 0, most = rank(parts); k < most; ++k)
      for (int64_t r = 0; r < columns_; ++r)
        R::add(y + r * rows_, range(parts, k), domain(parts, k)[r] / parts.values()[k], rows_);
  }

  void least(const Bidiagonal<S>& parts, const double* b, double* y) const {
    R::fill(y, 0.0, result_);
    double* projected = parts.spare_row();
    for (int64_t k = 0, most = rank(parts); k < most; ++k)
      for (int64_t first = 0; first < right_; first += least_) {  // as many columns as there is room for
        const int64_t part = right_ - first < least_ ? right_ - first : least_;
        R::fill(projected, 0.0, part);
        for (int64_t r = 0; r < rows_; ++r) R::add(projected, b + r * right_ + first, range(parts, k)[r], part);
        for (int64_t r = 0; r < columns_; ++r)
          R::add(y + r * right_ + first, projected, domain(parts, k)[r] / parts.values()[k], part);
      }
  }

  Kind kind_;
  bool wide_, mirrored_;
  int64_t rows_, columns_, most_, least_, count_, right_, result_, room_;
  double rtol_, atol_;
  Port a_, b_, y_;
  Bidiagonal<S> plan_;
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "svd", "cpu", nullptr, create_stage<SvdStage<S>>);
}

}  // namespace rta
