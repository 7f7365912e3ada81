// Fourier transforms on the CPU. The contract is in contract.py, the tables in plan.py.
//
// A transform of p q numbers is two chains of butterflies on whole rows, first on [p, q], then on the transposed [q,
// p]. A line of real numbers is a complex one of half the length. Several lines go side by side, one to a lane
// (side_by_side.h). A line that is alone has neighbors of its own in a vector; rows are then padded with zeros. Floor:
// about 2.5 n log2(n) operations a line over the peak of additions.
#pragma once

#include <cstring>
#include <utility>

#include "fourier/side_by_side.h"

namespace rta {

template <class S>
class FourierStage final : public Stage {
 public:
  explicit FourierStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)), t_(spec) {
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("fourier: takes float32");
    from_ = read_lines(spec, "0", t_.count, t_.along, x_, 4);
    const int64_t rows = t_.p * t_.wide_q > t_.q * t_.wide_p ? t_.p * t_.wide_q : t_.q * t_.wide_p;
    room_ = padded(rows) + 16;
    line_ = padded(t_.along) + 16;
    out_ = padded(t_.m + 1) + 16;
    spec.need_scratch(static_cast<size_t>(4 * room_ + line_ + 2 * out_) * sizeof(float) + 64);
    wide_line_ = padded(t_.along > t_.made() ? t_.along : t_.made());
    least_ = SideBySide<S>::least(t_);
    if (least_ <= SideBySide<S>::kLanes)  // samples may come together, even of one line each
      spec.need_scratch(static_cast<size_t>(SideBySide<S>::scratch_floats(t_) + SideBySide<S>::kLanes * wide_line_) *
                            sizeof(float) +
                        64);
  }

  int64_t cost_ns(int64_t samples) const override {
    return samples * t_.count * t_.n / (samples * t_.count >= least_ ? 8 : 2);
  }

  void run(const Run& run) const override {
    float* room = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(run.scratch) + 63) & ~uintptr_t{63});
    const int64_t all = run.samples * t_.count;
    int64_t line = 0;
    while (all - line >= least_) {
      const int count = all - line < SideBySide<S>::kLanes ? static_cast<int>(all - line) : SideBySide<S>::kLanes;
      run_side_by_side(run, line, count, room);
      line += count;
    }
    for (; line < all; ++line) run_alone(run, line, room);
  }

 private:
  using F = typename S::F;
  using Kind = typename FourierTables<S>::Kind;
  struct Buffers {
    Complex a, b, out;
    float* line;  // numbers of x, then of y where those are several rows
  };

  static int64_t padded(int64_t n) { return FourierTables<S>::padded(n); }

  // Line `line` of all samples: its place in y where that is one piece, else null.
  float* piece_of(const Run& run, int64_t line) const {
    const int64_t a_row = y_.width / t_.made(), s = line / t_.count, l = line % t_.count;
    return a_row == 0 ? nullptr
                      : reinterpret_cast<float*>(y_.row(run, s * y_.steps + l / a_row)) + l % a_row * t_.made();
  }

  // A line of y that is several rows.
  void scatter(const Run& run, int64_t line, const float* from) const {
    const int64_t rows = t_.made() / y_.width, s = line / t_.count, l = line % t_.count;
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(y_.row(run, s * y_.steps + l * rows + r), from + r * y_.width,
                  static_cast<size_t>(y_.width) * sizeof(float));
  }

  const char* sample_of(const Run& run, int64_t line) const { return x_.row(run, line / t_.count * x_.steps); }

  void run_alone(const Run& run, int64_t line, float* next) const {
    Buffers b;
    for (Complex* c : {&b.a, &b.b}) c->re = next, c->im = next + room_, next += 2 * room_;
    b.line = next, next += line_;
    b.out = {next, next + out_};
    read_line(sample_of(run, line), line % t_.count, t_.window, b.line);
    transform_line(b);
    float* y = piece_of(run, line);
    write(b, y ? y : b.line);
    if (!y) scatter(run, line, b.line);
  }

  void run_side_by_side(const Run& run, int64_t first, int count, float* room) const {
    float* own = room + SideBySide<S>::scratch_floats(t_);
    typename SideBySide<S>::Lines lines = {};
    const int64_t l = first % t_.count;
    if (l + count <= t_.count && from_.beside(l, count, sizeof(float)) == count) {
      lines.sample = sample_of(run, first);
      lines.beside = &from_;
      lines.first = l;
    }
    for (int r = 0; r < count; ++r) {
      float *y = piece_of(run, first + r), *kept = own + r * wide_line_;
      lines.y[r] = y ? y : kept;
      if (lines.beside) continue;
      const char* x = sample_of(run, first + r);
      const int64_t at = (first + r) % t_.count;
      if (!from_.table && from_.contiguous)
        lines.x[r] = reinterpret_cast<const float*>(x + from_.at(at, 0));
      else
        read_line(x, at, nullptr, kept), lines.x[r] = kept;
    }
    SideBySide<S>::run(t_, lines, count, room);
    for (int r = 0; r < count; ++r)
      if (lines.y[r] == own + r * wide_line_) scatter(run, first + r, lines.y[r]);
  }

  void read_line(const char* x, int64_t l, const float* window, float* line) const {
    if (!from_.table && from_.contiguous) {
      const float* given = reinterpret_cast<const float*>(x + from_.at(l, 0));
      if (window)
        for (int64_t i = 0; i < t_.along; ++i) line[i] = given[i] * window[i];
      else
        for (int64_t i = 0; i < t_.along; ++i) line[i] = given[i];
      return;
    }
    for (int64_t i = 0; i < t_.along; ++i) {
      const float value = *reinterpret_cast<const float*>(x + from_.at(l, i));
      line[i] = window ? value * window[i] : value;
    }
  }

  // The m complex numbers of the line, number j at row j / q, column j % q. The inverse is the transform with real and
  // imaginary parts exchanged, before and after.
  void spread(const float* line, const Complex& to) const {
    float* re = t_.inverse ? to.im : to.re;
    float* im = t_.inverse ? to.re : to.im;
    for (int64_t a = 0; a < t_.p; ++a) {
      float *r = re + a * t_.wide_q, *i = im + a * t_.wide_q;
      const int64_t j = a * t_.q;
      if (t_.kind == Kind::kReal && t_.paired) {
        for (int64_t b = 0; b < t_.q; ++b) r[b] = line[2 * (j + b)], i[b] = line[2 * (j + b) + 1];
      } else if (t_.kind == Kind::kReal) {
        for (int64_t b = 0; b < t_.q; ++b) r[b] = line[j + b], i[b] = 0.0f;
      } else if (t_.kind == Kind::kComplex) {
        for (int64_t b = 0; b < t_.q; ++b) r[b] = line[j + b], i[b] = line[t_.n + j + b];
      } else {
        for (int64_t b = 0; b < t_.q; ++b) joined(line, j + b, r[b], i[b]);
      }
      for (int64_t b = t_.q; b < t_.wide_q; ++b) r[b] = i[b] = 0.0f;
    }
  }

  // Number k of the complex transform inside, from the first half of the spectrum of real numbers.
  void joined(const float* line, int64_t k, float& re, float& im) const {
    const int64_t m = t_.n / 2 + 1;
    const float *x = line, *y = line + m;
    const bool even = t_.n % 2 == 0;
    if (!t_.paired) {  // the whole spectrum: its second half is the conjugate of the first
      const int64_t at = k < m ? k : t_.n - k;
      re = x[at];
      im = at == 0 || (even && at == m - 1) ? 0.0f : k < m ? y[at] : -y[at];
      return;
    }
    const int64_t other = t_.n / 2 - k;
    const float yr = k == 0 ? 0.0f : y[k], zr = other == 0 || k == 0 ? 0.0f : y[other];
    const float sum_re = x[k] + x[other], sum_im = yr - zr;
    const float off_re = x[k] - x[other], off_im = yr + zr;
    const float c = t_.half[2 * k], s = -t_.half[2 * k + 1];  // exp(+2 pi i k / n)
    // (sum) + i exp(..) (off)
    re = sum_re - (off_re * s + off_im * c);
    im = sum_im + (off_re * c - off_im * s);
  }

  void transform_line(const Buffers& b) const {
    Complex from = b.a, to = b.b;
    spread(b.line, from);
    Butterflies<S>::columns(t_.down, t_.p, t_.wide_q, from, to);
    turn(from, to);
    std::swap(from, to);
    Butterflies<S>::columns(t_.across, t_.q, t_.wide_p, from, to);
    for (int64_t d = 0; d < t_.q; ++d)
      for (int64_t c = 0; c < t_.p; ++c) {
        b.out.re[d * t_.p + c] = from.re[d * t_.wide_p + c];
        b.out.im[d * t_.p + c] = from.im[d * t_.wide_p + c];
      }
  }

  // from [p, q] times the rotation, transposed to [q, p]. Square blocks are exchanged in registers.
  void turn(const Complex& from, const Complex& to) const {
    constexpr int n = S::kLanes;
    for (int64_t c = 0; c < t_.p; c += n)
      for (int64_t b = 0; b < t_.q; b += n) {
        F re[n], im[n];
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) {
          if (c + r >= t_.p) {
            re[r] = im[r] = S::set(0.0f);
            continue;
          }
          const int64_t at = (c + r) * t_.wide_q + b;
          const F x = S::load(from.re + at), y = S::load(from.im + at);
          const F cos = S::load(t_.turn_re + at), sin = S::load(t_.turn_im + at);
          re[r] = S::sub(S::mul(x, cos), S::mul(y, sin));
          im[r] = S::add(S::mul(x, sin), S::mul(y, cos));
        }
        exchange_all<S, 1>(re);
        exchange_all<S, 1>(im);
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r)
          if (b + r < t_.q) {
            S::store(to.re + (b + r) * t_.wide_p + c, re[r]);
            S::store(to.im + (b + r) * t_.wide_p + c, im[r]);
          }
      }
  }

  void write(const Buffers& b, float* y) const {
    const float* re = t_.inverse ? b.out.im : b.out.re;
    const float* im = t_.inverse ? b.out.re : b.out.im;
    if (t_.kind == Kind::kToReal) {
      if (t_.paired)
        for (int64_t j = 0; j < t_.m; ++j) y[2 * j] = re[j] * t_.scale, y[2 * j + 1] = im[j] * t_.scale;
      else
        for (int64_t j = 0; j < t_.n; ++j) y[j] = re[j] * t_.scale;
      return;
    }
    if (t_.kind == Kind::kComplex || !t_.paired) {
      for (int64_t k = 0; k < t_.wanted; ++k) y[k] = re[k] * t_.scale, y[t_.wanted + k] = im[k] * t_.scale;
      if (t_.kind == Kind::kReal) y[t_.wanted] = 0.0f;
      return;
    }
    // Z[k] = E[k] + i O[k] of the even and the odd numbers; X[k] = E[k] + exp(-2 pi i k / n) O[k].
    for (int64_t k = 0; k < t_.wanted; ++k) {
      const int64_t here = k == t_.m ? 0 : k, there = k == 0 || k == t_.m ? 0 : t_.m - k;
      const float even_re = re[here] + re[there], even_im = im[here] - im[there];
      const float odd_re = im[here] + im[there], odd_im = re[there] - re[here];
      const float c = t_.half[2 * k], s = t_.half[2 * k + 1];
      const float x = even_re + (odd_re * c - odd_im * s), z = even_im + (odd_re * s + odd_im * c);
      y[k] = x * 0.5f * t_.scale, y[t_.wanted + k] = z * 0.5f * t_.scale;
    }
    // These are real: a phase taken of them is 0 or pi, and not the sign of what rounding left.
    y[t_.wanted] = 0.0f;
    if (t_.wanted > t_.m) y[t_.wanted + t_.m] = 0.0f;
  }

  GraphIO x_, y_;
  const FourierTables<S> t_;
  int64_t room_, line_, out_, wide_line_, least_;
  LineOperand from_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "fourier", "cpu", nullptr, create_stage<FourierStage<S>>);
}

}  // namespace rta
