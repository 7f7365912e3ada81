// Transforms down the columns of rows of numbers, as a chain of small butterflies (Stockham: no bits are reversed). A
// vector holds neighbors of one row, so no butterfly moves numbers inside a vector.
#pragma once

#include <cstdint>
#include <utility>

#include "_core/stage.h"

namespace rta {

struct Complex {
  float *re, *im;
};

// Radices of a chain, and the roots of unity that it multiplies by, in the order of their use: plan.py.
struct Chain {
  const int32_t* radices;
  int64_t count;
  const float* roots;
};

template <class S>
struct Butterflies {
  using F = typename S::F;

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
};

}  // namespace rta
