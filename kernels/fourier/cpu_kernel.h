// Fourier transforms on the CPU. The contract is in contract.py, the tables in plan.py.
//
// A transform of p q numbers is two chains of butterflies on whole rows, first on [p, q], then on the transposed [q,
// p]: a vector holds neighbors of one row, so no butterfly moves numbers inside a vector. Rows are padded with zeros to
// whole vectors. A line of real numbers is a complex one of half the length. Floor: about 2.5 n log2(n) operations a
// line over the peak of additions.
#pragma once

#include <cstring>
#include <utility>

#include "_common/checks.h"
#include "_common/lines.h"
#include "_simd/transpose.h"

namespace rta {

template <class S>
class FourierStage final : public Stage {
 public:
  explicit FourierStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    if (spec.input(0).dtype != RTA_FLOAT32 || spec.output(0).dtype != RTA_FLOAT32) fail("fourier: takes float32");
    read_sizes(spec);
    wide_p_ = padded(p_), wide_q_ = padded(q_);
    m_ = p_ * q_;
    scale_ = spec.attrs.floats("scale", 1)[0];
    down_ = read_chain(spec, "radices_p", "roots_p", p_);
    across_ = read_chain(spec, "radices_q", "roots_q", q_);
    turn_re_ = rotated(spec, "turn_re"), turn_im_ = rotated(spec, "turn_im");
    half_ = paired_ ? read_constant(spec, "half", 2 * (m_ + 1)) : nullptr;
    window_ = spec.attrs.has("window") ? read_constant(spec, "window", n_) : nullptr;
    from_ = read_lines(spec, "0", count_, along_, x_, 4);
    const int64_t rows = p_ * wide_q_ > q_ * wide_p_ ? p_ * wide_q_ : q_ * wide_p_;
    room_ = padded(rows) + 16;
    line_ = padded(along_) + 16;
    out_ = padded(m_ + 1) + 16;
    spec.need_scratch(static_cast<size_t>(4 * room_ + line_ + 2 * out_) * sizeof(float) + 64);
  }

  int64_t cost_ns(int64_t samples) const override { return samples * count_ * n_ / 2; }

  void run(const Run& run) const override {
    float* next = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(run.scratch) + 63) & ~uintptr_t{63});
    Buffers b;
    for (Complex* c : {&b.a, &b.b}) c->re = next, c->im = next + room_, next += 2 * room_;
    b.line = next, next += line_;
    b.out = {next, next + out_};
    const int64_t made = kind_ == Kind::kToReal ? n_ : 2 * wanted_;
    const int64_t a_row = y_.width / made;  // lines in a row of y, or 0 where a line is several rows
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      for (int64_t l = 0; l < count_; ++l) {
        read_line(x, l, b.line);
        transform_line(b);
        if (a_row > 0) {
          float* y = reinterpret_cast<float*>(y_.row(run, s * y_.steps + l / a_row)) + l % a_row * made;
          write(b, y);
        } else {
          const int64_t rows = made / y_.width;
          write(b, b.line);
          for (int64_t r = 0; r < rows; ++r)
            std::memcpy(y_.row(run, s * y_.steps + l * rows + r), b.line + r * y_.width,
                        static_cast<size_t>(y_.width) * sizeof(float));
        }
      }
    }
  }

 private:
  using F = typename S::F;
  enum class Kind { kReal, kComplex, kToReal };  // in the order of their words
  static constexpr int64_t kMaxLength = 1 << 28, kMaxRadix = 64;
  struct Complex {
    float *re, *im;
  };
  struct Buffers {
    Complex a, b, out;
    float* line;  // numbers of x, then of y where those are several rows
  };
  struct Chain {
    const int32_t* radices;
    int64_t count;
    const float* roots;
  };

  static int64_t padded(int64_t n) { return (n + S::kLanes - 1) / S::kLanes * S::kLanes; }

  void read_sizes(const StageSpec& spec) {
    const Attrs& attrs = spec.attrs;
    expect_ports(spec, 1, 1);
    kind_ = static_cast<Kind>(word(attrs, "kind", "real|complex|to_real"));
    inverse_ = flag(attrs, "inverse") || kind_ == Kind::kToReal;
    paired_ = flag(attrs, "paired");
    n_ = between(attrs, "n", 1, kMaxLength);
    p_ = between(attrs, "p", 1, n_), q_ = between(attrs, "q", 1, n_);
    expect(product(p_, q_, paired_ ? 2 : 1) == n_ && !(paired_ && kind_ == Kind::kComplex),
           "%lld numbers as %lld by %lld%s", static_cast<long long>(n_), static_cast<long long>(p_),
           static_cast<long long>(q_), paired_ ? " pairs" : "");
    wanted_ = between(attrs, "wanted", 1, kind_ == Kind::kReal ? n_ / 2 + 1 : n_);
    count_ = between(attrs, "count", 0, kMaxElements);
    const int64_t given = kind_ == Kind::kReal ? n_ : kind_ == Kind::kComplex ? 2 * n_ : 2 * (n_ / 2 + 1);
    along_ = between(attrs, "along", given, given);
    expect(!attrs.has("window") || kind_ == Kind::kReal, "a window of a transform that is not of real numbers");
    const Value& y = spec.output(0);
    const int64_t made = kind_ == Kind::kToReal ? n_ : 2 * wanted_;
    expect(elements(y) == product(count_, made) && y.width > 0 && (y.width % made == 0 || made % y.width == 0),
           "%lld lines of %lld for y of %lld rows of %lld", static_cast<long long>(count_),
           static_cast<long long>(made), static_cast<long long>(y.steps), static_cast<long long>(y.width));
  }

  // Butterflies of a transform of `length`: their radices multiply to it, and as many roots are there as they read.
  static Chain read_chain(const StageSpec& spec, const char* radices, const char* roots, int64_t length) {
    const int64_t count = spec.attrs.count(radices);
    const int32_t* given = spec.attrs.ints(radices, count);
    expect_within(given, count, 2, kMaxRadix + 1, radices);
    int64_t left = length, numbers = 0;
    for (int64_t k = 0; k < count; ++k) {
      expect(left % given[k] == 0, "%s do not multiply to %lld", radices, static_cast<long long>(length));
      left /= given[k];
      numbers += 2 * given[k] * (1 + left);
    }
    expect(left == 1, "%s do not multiply to %lld", radices, static_cast<long long>(length));
    int32_t* own = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int32_t)));
    for (int64_t k = 0; k < count; ++k) own[k] = given[k];
    return {own, count, read_constant(spec, roots, numbers)};
  }

  // [p, q] with padded rows.
  float* rotated(const StageSpec& spec, const char* name) const {
    const float* given = spec.attrs.floats(name, p_ * q_);
    float* own = static_cast<float*>(spec.arena->take(static_cast<size_t>(p_ * wide_q_) * sizeof(float)));
    for (int64_t r = 0; r < p_; ++r)
      for (int64_t c = 0; c < wide_q_; ++c) own[r * wide_q_ + c] = c < q_ ? given[r * q_ + c] : 0.0f;
    return own;
  }

  void read_line(const char* x, int64_t l, float* line) const {
    if (!from_.table && from_.contiguous) {
      const float* given = reinterpret_cast<const float*>(x + from_.at(l, 0));
      if (window_)
        for (int64_t i = 0; i < along_; ++i) line[i] = given[i] * window_[i];
      else
        for (int64_t i = 0; i < along_; ++i) line[i] = given[i];
      return;
    }
    for (int64_t i = 0; i < along_; ++i) {
      const float value = *reinterpret_cast<const float*>(x + from_.at(l, i));
      line[i] = window_ ? value * window_[i] : value;
    }
  }

  // The m complex numbers of the line, number j at row j / q, column j % q. The inverse is the transform with real and
  // imaginary parts exchanged, before and after.
  void spread(const float* line, const Complex& to) const {
    float* re = inverse_ ? to.im : to.re;
    float* im = inverse_ ? to.re : to.im;
    for (int64_t a = 0; a < p_; ++a) {
      float *r = re + a * wide_q_, *i = im + a * wide_q_;
      const int64_t j = a * q_;
      if (kind_ == Kind::kReal && paired_) {
        for (int64_t b = 0; b < q_; ++b) r[b] = line[2 * (j + b)], i[b] = line[2 * (j + b) + 1];
      } else if (kind_ == Kind::kReal) {
        for (int64_t b = 0; b < q_; ++b) r[b] = line[j + b], i[b] = 0.0f;
      } else if (kind_ == Kind::kComplex) {
        for (int64_t b = 0; b < q_; ++b) r[b] = line[j + b], i[b] = line[n_ + j + b];
      } else {
        for (int64_t b = 0; b < q_; ++b) joined(line, j + b, r[b], i[b]);
      }
      for (int64_t b = q_; b < wide_q_; ++b) r[b] = i[b] = 0.0f;
    }
  }

  // Number k of the complex transform inside, from the first half of the spectrum of real numbers.
  void joined(const float* line, int64_t k, float& re, float& im) const {
    const int64_t m = n_ / 2 + 1;
    const float *x = line, *y = line + m;
    const bool even = n_ % 2 == 0;
    if (!paired_) {  // the whole spectrum: its second half is the conjugate of the first
      const int64_t at = k < m ? k : n_ - k;
      re = x[at];
      im = at == 0 || (even && at == m - 1) ? 0.0f : k < m ? y[at] : -y[at];
      return;
    }
    const int64_t other = n_ / 2 - k;
    const float yr = k == 0 ? 0.0f : y[k], zr = other == 0 || k == 0 ? 0.0f : y[other];
    const float sum_re = x[k] + x[other], sum_im = yr - zr;
    const float off_re = x[k] - x[other], off_im = yr + zr;
    const float c = half_[2 * k], s = -half_[2 * k + 1];  // exp(+2 pi i k / n)
    // (sum) + i exp(..) (off)
    re = sum_re - (off_re * s + off_im * c);
    im = sum_im + (off_re * c - off_im * s);
  }

  void transform_line(const Buffers& b) const {
    Complex from = b.a, to = b.b;
    spread(b.line, from);
    columns(down_, p_, wide_q_, from, to);
    turn(from, to);
    std::swap(from, to);
    columns(across_, q_, wide_p_, from, to);
    for (int64_t d = 0; d < q_; ++d)
      for (int64_t c = 0; c < p_; ++c) {
        b.out.re[d * p_ + c] = from.re[d * wide_p_ + c];
        b.out.im[d * p_ + c] = from.im[d * wide_p_ + c];
      }
  }

  // Transforms of `length` down the columns of rows of `wide` numbers; the result is in `from`, whichever buffer that
  // is.
  static void columns(const Chain& chain, int64_t length, int64_t wide, Complex& from, Complex& to) {
    int64_t left = length, stride = 1;
    const float* roots = chain.roots;
    for (int64_t f = 0; f < chain.count; ++f) {
      const int64_t radix = chain.radices[f], groups = left / radix;
      const float* own = roots;
      roots += 2 * radix;
      for (int64_t j = 0; j < groups; ++j, roots += 2 * radix)
        for (int64_t s = 0; s < stride; ++s) {
          const int64_t in = (s + stride * j) * wide, out = (s + stride * radix * j) * wide;
          const int64_t gap = stride * groups * wide, step = stride * wide;
          if (radix == 4)
            four(from, to, in, out, gap, step, wide, roots);
          else if (radix == 2)
            two(from, to, in, out, gap, step, wide, roots);
          else
            any(from, to, in, out, gap, step, wide, roots, radix, own);
        }
      left = groups, stride *= radix;
      std::swap(from, to);
    }
  }

  static void put(const Complex& to, int64_t at, F re, F im, const float* root) {
    const F c = S::set(root[0]), s = S::set(root[1]);
    S::store(to.re + at, S::sub(S::mul(re, c), S::mul(im, s)));
    S::store(to.im + at, S::add(S::mul(re, s), S::mul(im, c)));
  }

  static void two(const Complex& from, const Complex& to, int64_t in, int64_t out, int64_t gap, int64_t step,
                  int64_t wide, const float* roots) {
    for (int64_t w = 0; w < wide; w += S::kLanes) {
      const F ar = S::load(from.re + in + w), ai = S::load(from.im + in + w);
      const F br = S::load(from.re + in + gap + w), bi = S::load(from.im + in + gap + w);
      S::store(to.re + out + w, S::add(ar, br));
      S::store(to.im + out + w, S::add(ai, bi));
      put(to, out + step + w, S::sub(ar, br), S::sub(ai, bi), roots + 2);
    }
  }

  static void four(const Complex& from, const Complex& to, int64_t in, int64_t out, int64_t gap, int64_t step,
                   int64_t wide, const float* roots) {
    for (int64_t w = 0; w < wide; w += S::kLanes) {
      const float *re = from.re + in + w, *im = from.im + in + w;
      const F ar = S::load(re), ai = S::load(im), br = S::load(re + gap), bi = S::load(im + gap);
      const F cr = S::load(re + 2 * gap), ci = S::load(im + 2 * gap);
      const F dr = S::load(re + 3 * gap), di = S::load(im + 3 * gap);
      const F er = S::add(ar, cr), ei = S::add(ai, ci), fr = S::sub(ar, cr), fi = S::sub(ai, ci);
      const F gr = S::add(br, dr), gi = S::add(bi, di), hr = S::sub(br, dr), hi = S::sub(bi, di);
      S::store(to.re + out + w, S::add(er, gr));
      S::store(to.im + out + w, S::add(ei, gi));
      put(to, out + step + w, S::add(fr, hi), S::sub(fi, hr), roots + 2);  // a - i b - c + i d
      put(to, out + 2 * step + w, S::sub(er, gr), S::sub(ei, gi), roots + 4);
      put(to, out + 3 * step + w, S::sub(fr, hi), S::add(fi, hr), roots + 6);
    }
  }

  // own: the roots of the radix itself.
  static void any(const Complex& from, const Complex& to, int64_t in, int64_t out, int64_t gap, int64_t step,
                  int64_t wide, const float* roots, int64_t radix, const float* own) {
    for (int64_t w = 0; w < wide; w += S::kLanes)
      for (int64_t k = 0; k < radix; ++k) {
        F re = S::load(from.re + in + w), im = S::load(from.im + in + w);
        for (int64_t t = 1, at = k; t < radix; ++t, at = at + k >= radix ? at + k - radix : at + k) {
          const F c = S::set(own[2 * at]), s = S::set(own[2 * at + 1]);
          const F xr = S::load(from.re + in + t * gap + w), xi = S::load(from.im + in + t * gap + w);
          re = S::add(re, S::sub(S::mul(xr, c), S::mul(xi, s)));
          im = S::add(im, S::add(S::mul(xr, s), S::mul(xi, c)));
        }
        put(to, out + k * step + w, re, im, roots + 2 * k);
      }
  }

  // from [p, q] times the rotation, transposed to [q, p]. Square blocks are exchanged in registers.
  void turn(const Complex& from, const Complex& to) const {
    constexpr int n = S::kLanes;
    for (int64_t c = 0; c < p_; c += n)
      for (int64_t b = 0; b < q_; b += n) {
        F re[n], im[n];
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r) {
          if (c + r >= p_) {
            re[r] = im[r] = S::set(0.0f);
            continue;
          }
          const int64_t at = (c + r) * wide_q_ + b;
          const F x = S::load(from.re + at), y = S::load(from.im + at);
          const F cos = S::load(turn_re_ + at), sin = S::load(turn_im_ + at);
          re[r] = S::sub(S::mul(x, cos), S::mul(y, sin));
          im[r] = S::add(S::mul(x, sin), S::mul(y, cos));
        }
        exchange_all<S, 1>(re);
        exchange_all<S, 1>(im);
#pragma GCC unroll 16
        for (int r = 0; r < n; ++r)
          if (b + r < q_) {
            S::store(to.re + (b + r) * wide_p_ + c, re[r]);
            S::store(to.im + (b + r) * wide_p_ + c, im[r]);
          }
      }
  }

  void write(const Buffers& b, float* y) const {
    const float* re = inverse_ ? b.out.im : b.out.re;
    const float* im = inverse_ ? b.out.re : b.out.im;
    if (kind_ == Kind::kToReal) {
      if (paired_)
        for (int64_t j = 0; j < m_; ++j) y[2 * j] = re[j] * scale_, y[2 * j + 1] = im[j] * scale_;
      else
        for (int64_t j = 0; j < n_; ++j) y[j] = re[j] * scale_;
      return;
    }
    if (kind_ == Kind::kComplex || !paired_) {
      for (int64_t k = 0; k < wanted_; ++k) y[k] = re[k] * scale_, y[wanted_ + k] = im[k] * scale_;
      if (kind_ == Kind::kReal) y[wanted_] = 0.0f;
      return;
    }
    // Z[k] = E[k] + i O[k] of the even and the odd numbers; X[k] = E[k] + exp(-2 pi i k / n) O[k].
    for (int64_t k = 0; k < wanted_; ++k) {
      const int64_t here = k == m_ ? 0 : k, there = k == 0 || k == m_ ? 0 : m_ - k;
      const float even_re = re[here] + re[there], even_im = im[here] - im[there];
      const float odd_re = im[here] + im[there], odd_im = re[there] - re[here];
      const float c = half_[2 * k], s = half_[2 * k + 1];
      const float x = even_re + (odd_re * c - odd_im * s), z = even_im + (odd_re * s + odd_im * c);
      y[k] = x * 0.5f * scale_, y[wanted_ + k] = z * 0.5f * scale_;
    }
    // These are real: a phase taken of them is 0 or pi, and not the sign of what rounding left.
    y[wanted_] = 0.0f;
    if (wanted_ > m_) y[wanted_ + m_] = 0.0f;
  }

  GraphIO x_, y_;
  Kind kind_;
  bool inverse_, paired_;
  int64_t n_, wanted_, count_, along_, p_, q_, wide_p_, wide_q_, m_, room_, line_, out_;
  float scale_;
  Chain down_, across_;
  const float *turn_re_, *turn_im_, *half_, *window_;
  LineOperand from_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "fourier", "cpu", nullptr, create_stage<FourierStage<S>>);
}

}  // namespace rta
