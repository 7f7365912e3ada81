// Several lines at once: number i of each is one vector, so every butterfly works on whole vectors, whatever the
// lengths are. A line goes through the operations that it would go through alone, so its bits do not depend on its
// neighbors.
#pragma once

#include "_common/lines.h"
#include "_simd/transpose.h"
#include "fourier/tables.h"

namespace rta {

template <class S>
class SideBySide {
 public:
  using Tables = FourierTables<S>;
  static constexpr int kLanes = S::kLanes;

  // Where a line of x and one of y are. x: null where the lines are `beside` one another in memory.
  struct Lines {
    const float* x[kLanes];
    float* y[kLanes];
    const char* sample;
    const LineOperand* beside;
    int64_t first;
  };

  static int64_t scratch_floats(const Tables& t) {
    return (4 * t.m + (t.kind == Tables::Kind::kToReal ? t.along : 0)) * kLanes;
  }

  // Of fewer lines each alone is faster. Buffers that a first-level cache holds cost as much as a quarter of the lines,
  // those that fill a part of a second-level cache as a half; beyond, nothing is gained.
  static int64_t least(const Tables& t) {
    const int64_t floats = scratch_floats(t);
    return floats <= 1 << 13 ? kLanes / 4 : floats <= 1 << 15 ? kLanes / 2 : INT64_MAX;
  }

  static void run(const Tables& t, const Lines& lines, int count, float* scratch) {
    const int64_t room = t.m * kLanes;
    Complex from = {scratch, scratch + room}, to = {scratch + 2 * room, scratch + 3 * room};
    float* half = scratch + 4 * room;
    // The inverse is the transform with real and imaginary parts exchanged, before and after.
    const Complex given = t.inverse ? Complex{from.im, from.re} : from;
    read(t, lines, count, t.kind == Tables::Kind::kToReal ? Complex{half, half} : given);
    if (t.kind == Tables::Kind::kToReal) join(t, half, given);
    Butterflies<S>::columns(t.down, t.p, t.q * kLanes, from, to);
    turn(t, from, to);
    std::swap(from, to);
    Butterflies<S>::columns(t.across, t.q, t.p * kLanes, from, to);
    write(t, t.inverse ? Complex{from.im, from.re} : from, lines, count);
  }

 private:
  using F = typename S::F;
  using Kind = typename Tables::Kind;

  static F at(const float* numbers, int64_t k) { return S::load(numbers + k * kLanes); }

  static void read(const Tables& t, const Lines& lines, int count, const Complex& to) {
    const auto put = [&](int64_t i, F v) {
      if (t.window) v = S::mul(v, S::set(t.window[i]));
      if (t.kind == Kind::kReal && t.paired)
        S::store((i % 2 ? to.im : to.re) + i / 2 * kLanes, v);
      else if (t.kind == Kind::kComplex && i >= t.n)
        S::store(to.im + (i - t.n) * kLanes, v);
      else
        S::store(to.re + i * kLanes, v);
    };
    if (t.kind == Kind::kReal && !t.paired)
      for (int64_t i = 0; i < t.n; ++i) S::store(to.im + i * kLanes, S::set(0.0f));
    if (lines.beside) {
      for (int64_t i = 0; i < t.along; ++i)
        put(i, S::load_n(reinterpret_cast<const float*>(lines.sample + lines.beside->at(lines.first, i)), count));
      return;
    }
    for (int64_t i = 0; i < t.along; i += kLanes) {
      const int columns = t.along - i < kLanes ? static_cast<int>(t.along - i) : kLanes;
      F row[kLanes];
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r)
        row[r] = r >= count          ? S::set(0.0f)
                 : columns == kLanes ? S::load(lines.x[r] + i)
                                     : S::load_n(lines.x[r] + i, columns);
      exchange_all<S, 1>(row);
#pragma GCC unroll 16
      for (int c = 0; c < kLanes; ++c)
        if (c < columns) put(i + c, row[c]);
    }
  }

  // The complex numbers of the transform inside, from the first half of the spectrum of real numbers.
  static void join(const Tables& t, const float* x, const Complex& to) {
    const int64_t m = t.n / 2 + 1;
    const float* y = x + m * kLanes;
    const F zero = S::set(0.0f);
    if (!t.paired) {  // the whole spectrum: its second half is the conjugate of the first
      for (int64_t k = 0; k < t.n; ++k) {
        const int64_t from = k < m ? k : t.n - k;
        S::store(to.re + k * kLanes, at(x, from));
        const bool real = from == 0 || (t.n % 2 == 0 && from == m - 1);
        S::store(to.im + k * kLanes, real ? zero : k < m ? at(y, from) : S::sub(zero, at(y, from)));
      }
      return;
    }
    for (int64_t k = 0; k < t.m; ++k) {
      const int64_t other = t.m - k;
      const F yr = k == 0 ? zero : at(y, k), zr = k == 0 ? zero : at(y, other);
      const F sum_re = S::add(at(x, k), at(x, other)), sum_im = S::sub(yr, zr);
      const F off_re = S::sub(at(x, k), at(x, other)), off_im = S::add(yr, zr);
      const F c = S::set(t.half[2 * k]), s = S::set(-t.half[2 * k + 1]);  // exp(+2 pi i k / n)
      S::store(to.re + k * kLanes, S::sub(sum_re, S::add(S::mul(off_re, s), S::mul(off_im, c))));
      S::store(to.im + k * kLanes, S::add(sum_im, S::sub(S::mul(off_re, c), S::mul(off_im, s))));
    }
  }

  // from [p, q] times the rotation, transposed to [q, p].
  static void turn(const Tables& t, const Complex& from, const Complex& to) {
    for (int64_t r = 0; r < t.p; ++r)
      for (int64_t b = 0; b < t.q; ++b) {
        const F x = at(from.re, r * t.q + b), y = at(from.im, r * t.q + b);
        const F cos = S::set(t.turn_re[r * t.wide_q + b]), sin = S::set(t.turn_im[r * t.wide_q + b]);
        S::store(to.re + (b * t.p + r) * kLanes, S::sub(S::mul(x, cos), S::mul(y, sin)));
        S::store(to.im + (b * t.p + r) * kLanes, S::add(S::mul(x, sin), S::mul(y, cos)));
      }
  }

  // Number o of a line of y.
  static F result(const Tables& t, const float* re, const float* im, int64_t o) {
    const F scale = S::set(t.scale);
    if (t.kind == Kind::kToReal) return S::mul(t.paired ? at(o % 2 ? im : re, o / 2) : at(re, o), scale);
    const int64_t k = o < t.wanted ? o : o - t.wanted;
    // These are real: a phase taken of them is 0 or pi, and not the sign of what rounding left.
    if (o >= t.wanted && t.kind == Kind::kReal && (k == 0 || (t.paired && k == t.m))) return S::set(0.0f);
    if (!t.paired) return S::mul(at(o < t.wanted ? re : im, k), scale);
    // Z[k] = E[k] + i O[k] of the even and the odd numbers; X[k] = E[k] + exp(-2 pi i k / n) O[k].
    const int64_t here = k == t.m ? 0 : k, there = k == 0 || k == t.m ? 0 : t.m - k;
    const F odd_re = S::add(at(im, here), at(im, there)), odd_im = S::sub(at(re, there), at(re, here));
    const F c = S::set(t.half[2 * k]), s = S::set(t.half[2 * k + 1]);
    const F found = o < t.wanted
                        ? S::add(S::add(at(re, here), at(re, there)), S::sub(S::mul(odd_re, c), S::mul(odd_im, s)))
                        : S::add(S::sub(at(im, here), at(im, there)), S::add(S::mul(odd_re, s), S::mul(odd_im, c)));
    return S::mul(S::mul(found, S::set(0.5f)), scale);
  }

  static void write(const Tables& t, const Complex& from, const Lines& lines, int count) {
    const int64_t made = t.made();
    for (int64_t o = 0; o < made; o += kLanes) {
      const int columns = made - o < kLanes ? static_cast<int>(made - o) : kLanes;
      F row[kLanes];
#pragma GCC unroll 16
      for (int c = 0; c < kLanes; ++c) row[c] = c < columns ? result(t, from.re, from.im, o + c) : S::set(0.0f);
      exchange_all<S, 1>(row);
#pragma GCC unroll 16
      for (int r = 0; r < kLanes; ++r) {
        if (r >= count) continue;
        if (columns == kLanes)
          S::store(lines.y[r] + o, row[r]);
        else
          S::store_n(lines.y[r] + o, row[r], columns);
      }
    }
  }
};

}  // namespace rta
