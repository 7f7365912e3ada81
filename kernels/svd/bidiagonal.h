// Singular values of a tall matrix: reflections from both sides leave two diagonals of it, and rotations with a shift
// near a singular value let the upper one vanish (Golub and Kahan 1965; Golub and Reinsch 1970, as LINPACK has it).
// Singular vectors are rows here, so that a rotation of two is one loop over elements that follow one another.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class Bidiagonal {
 public:
  Bidiagonal() = default;
  // vectors: whether they are computed as well.
  Bidiagonal(int64_t rows, int64_t columns, bool vectors) : m_(rows), n_(columns), vectors_(vectors) {}

  int64_t doubles() const { return n_ * m_ + n_ * n_ + 5 * n_ + (vectors_ ? n_ * m_ + n_ * n_ : 0); }

  // Room of so many numbers.
  void place(double* room) {
    v_ = room;
    w_ = v_ + n_ * m_;
    values_ = w_ + n_ * n_;
    beside_ = values_ + n_;
    tau_ = beside_ + n_;
    other_tau_ = tau_ + n_;
    spare_ = other_tau_ + n_;
    left_ = vectors_ ? spare_ + n_ : nullptr;
    right_ = vectors_ ? left_ + n_ * m_ : nullptr;
  }

  const double* values() const { return values_; }                  // [columns], the largest first
  const double* left(int64_t k) const { return left_ + k * m_; }    // the vector of value k, [rows]
  const double* right(int64_t k) const { return right_ + k * n_; }  // the same, [columns]

  double* spare_row() const { return spare_; }  // room for [columns], after compute

  // a [rows, columns], whose numbers are lost. False where the upper diagonal does not vanish.
  bool compute(double* a) {
    reduce(a);
    if (vectors_) vectors();
    int64_t end = n_;
    for (int steps = 0; end > 0;) {
      int64_t k = end - 2;
      for (; k >= 0; --k)
        if (R::magnitude(beside_[k]) <= kTiny + kUnit * (R::magnitude(values_[k]) + R::magnitude(values_[k + 1]))) {
          beside_[k] = 0.0;
          break;
        }
      if (k == end - 2) {  // the last value stands alone
        finish(end - 1);
        --end;
        steps = 0;
        continue;
      }
      if (steps++ == 75) return false;
      const int64_t zero = vanished(k, end);
      if (zero == k)
        step(k + 1, end);
      else if (zero == end - 1)
        clear_column(k + 1, end);
      else
        clear_row(zero + 1, end);
    }
    order();
    return true;
  }

 private:
  using R = Rows<S>;

  void reduce(double* a) {
    for (int64_t k = 0; k < n_; ++k) {
      double* v = v_ + k * m_ + k;
      const int64_t left = n_ - k - 1;
      for (int64_t r = k; r < m_; ++r) v[r - k] = a[r * n_ + k];
      values_[k] = R::reflect(v, m_ - k, tau_ + k);
      beside_[k] = 0.0;
      if (!left) continue;
      R::reflect_rows(a + k * n_ + k + 1, n_, v, tau_[k], m_ - k, left, spare_);
      double* w = w_ + k * n_ + k + 1;
      for (int64_t c = 0; c < left; ++c) w[c] = a[k * n_ + k + 1 + c];
      beside_[k] = R::reflect(w, left, other_tau_ + k);
      R::reflect_columns(a + (k + 1) * n_ + k + 1, n_, w, other_tau_[k], m_ - k - 1, left);
    }
  }

  // The products of the reflections, as rows.
  void vectors() {
    R::fill(left_, 0.0, n_ * m_);
    R::fill(right_, 0.0, n_ * n_);
    for (int64_t k = 0; k < n_; ++k) left_[k * m_ + k] = right_[k * n_ + k] = 1.0;
    for (int64_t k = n_ - 1; k >= 0; --k)
      R::reflect_columns(left_ + k * m_ + k, m_, v_ + k * m_ + k, tau_[k], n_ - k, m_ - k);
    for (int64_t k = n_ - 2; k >= 0; --k)
      R::reflect_columns(right_ + (k + 1) * (n_ + 1), n_, w_ + k * n_ + k + 1, other_tau_[k], n_ - k - 1, n_ - k - 1);
  }

  // The last of the values k + 1 .. end - 1 that is nearly 0; k where none is.
  int64_t vanished(int64_t k, int64_t end) {
    int64_t j = end - 1;
    for (; j > k; --j) {
      const double near =
          (j != end - 1 ? R::magnitude(beside_[j]) : 0.0) + (j != k + 1 ? R::magnitude(beside_[j - 1]) : 0.0);
      if (R::magnitude(values_[j]) > kTiny + kUnit * near) continue;
      values_[j] = 0.0;
      break;
    }
    return j;
  }

  struct Turn {
    double c, s, size;
  };
  // That takes (f, g) to (size, 0).
  static Turn turn(double f, double g) {
    const double size = __builtin_sqrt(f * f + g * g);
    return size == 0.0 ? Turn{1.0, 0.0, 0.0} : Turn{f / size, g / size, size};
  }

  void turn_left(int64_t one, int64_t other, const Turn& t) {
    if (vectors_) R::rotate(left_ + one * m_, left_ + other * m_, t.c, t.s, m_);
  }
  void turn_right(int64_t one, int64_t other, const Turn& t) {
    if (vectors_) R::rotate(right_ + one * n_, right_ + other * n_, t.c, t.s, n_);
  }

  // The value end - 1 is 0: what is above it vanishes, from the bottom up.
  void clear_column(int64_t k, int64_t end) {
    double f = beside_[end - 2];
    beside_[end - 2] = 0.0;
    for (int64_t j = end - 2; j >= k; --j) {
      const Turn t = turn(values_[j], f);
      values_[j] = t.size;
      if (j != k) {
        f = -t.s * beside_[j - 1];
        beside_[j - 1] = t.c * beside_[j - 1];
      }
      turn_right(j, end - 1, t);
    }
  }

  // The value k - 1 is 0: what is beside it vanishes, from the left to the right.
  void clear_row(int64_t k, int64_t end) {
    double f = beside_[k - 1];
    beside_[k - 1] = 0.0;
    for (int64_t j = k; j < end; ++j) {
      const Turn t = turn(values_[j], f);
      values_[j] = t.size;
      f = -t.s * beside_[j];
      beside_[j] = t.c * beside_[j];
      turn_left(j, k - 1, t);
    }
  }

  // One step on the values k .. end - 1, with a shift near the last one.
  void step(int64_t k, int64_t end) {
    double *d = values_, *e = beside_;
    double scale = 0.0;
    const double seen[5] = {d[end - 1], d[end - 2], e[end - 2], d[k], e[k]};
    for (int i = 0; i < 5; ++i)
      if (R::magnitude(seen[i]) > scale) scale = R::magnitude(seen[i]);
    const double last = d[end - 1] / scale, before = d[end - 2] / scale, above = e[end - 2] / scale;
    const double first = d[k] / scale, next = e[k] / scale;
    const double b = ((before + last) * (before - last) + above * above) / 2.0;
    const double c = (last * above) * (last * above);
    double shift = 0.0;
    if (b != 0.0 || c != 0.0) {
      const double root = __builtin_sqrt(b * b + c);
      shift = c / (b + (b < 0.0 ? -root : root));
    }
    double f = (first + last) * (first - last) + shift, g = first * next;
    for (int64_t j = k; j + 1 < end; ++j) {
      Turn t = turn(f, g);
      if (j != k) e[j - 1] = t.size;
      f = t.c * d[j] + t.s * e[j];
      e[j] = t.c * e[j] - t.s * d[j];
      g = t.s * d[j + 1];
      d[j + 1] = t.c * d[j + 1];
      turn_right(j, j + 1, t);
      t = turn(f, g);
      d[j] = t.size;
      f = t.c * e[j] + t.s * d[j + 1];
      d[j + 1] = t.c * d[j + 1] - t.s * e[j];
      g = t.s * e[j + 1];
      e[j + 1] = t.c * e[j + 1];
      turn_left(j, j + 1, t);
    }
    e[end - 2] = f;
  }

  void finish(int64_t k) {
    if (values_[k] > 0.0) return;
    values_[k] = 0.0 - values_[k];
    if (vectors_) R::scale(right_ + k * n_, -1.0, n_);
  }

  void order() {
    for (int64_t i = 1; i < n_; ++i)
      for (int64_t j = i; j > 0 && values_[j - 1] < values_[j]; --j) {
        R::exchange(values_ + j - 1, values_ + j, 1);
        if (!vectors_) continue;
        R::exchange(left_ + (j - 1) * m_, left_ + j * m_, m_);
        R::exchange(right_ + (j - 1) * n_, right_ + j * n_, n_);
      }
  }

  static constexpr double kUnit = 2.220446049250313e-16, kTiny = 1.6033346880071782e-291;

  int64_t m_ = 0, n_ = 0;
  bool vectors_ = false;
  double *v_ = nullptr, *w_ = nullptr, *values_ = nullptr, *beside_ = nullptr, *tau_ = nullptr, *other_tau_ = nullptr,
         *spare_ = nullptr, *left_ = nullptr, *right_ = nullptr;
};

}  // namespace rta
