// Where the points of a grid lie in an image, and with which weights: kernels/grid_sample/contract.py, dimension by
// dimension, a vector of points at a time.
#pragma once

#include "_core/stage.h"
#include "_expression/functions.h"

namespace rta {

constexpr int kMostTaps = 16, kMostOfLine = 4;
constexpr float kOutside = -1e9f;  // a place that there is not
enum { kLinear, kNearest, kCubic };
enum { kZeros, kBorder, kReflection };

template <class S>
struct GridDimension {
  using F = typename S::F;
  int mode, padding;
  bool align, plane;  // plane: of two dimensions, where a NaN is the first place
  float size, scale, shift, low, high, span;

  void set(int64_t n, int of_mode, int of_padding, bool of_align, int rank) {
    mode = of_mode, padding = of_padding, align = of_align, plane = rank == 2;
    size = static_cast<float>(n);
    scale = align ? static_cast<float>(n - 1) / 2.0f : size / 2.0f;
    shift = align ? 0.0f : 0.5f;
    low = align ? 0.0f : -0.5f, high = align ? size - 1.0f : size - 0.5f;
    span = high - low;
  }

  static F floor(F a) { return expression::floor<S>(a); }
  F valid(F at) const {
    const F none = S::set(kOutside);
    return S::where_less(S::set(-1.0f), at, S::where_less(at, S::set(size), at, none), none);
  }
  F inside(F place) const {
    const F zero = S::set(0.0f), last = S::set(size - 1.0f);
    if (padding == kZeros) return place;
    if (padding == kReflection) {
      if (span > 0.0f) {
        const F off = S::abs(S::sub(place, S::set(low))), times = floor(S::div(off, S::set(span)));
        const F extra = S::sub(off, S::mul(times, S::set(span)));
        const F odd = S::sub(times, S::mul(S::set(2.0f), floor(S::mul(times, S::set(0.5f)))));
        place = S::where_less(S::set(0.5f), odd, S::sub(S::set(high), extra), S::add(extra, S::set(low)));
      } else {
        place = S::mul(place, zero);
      }
    }
    if (plane) return S::where_less(zero, place, S::where_less(last, place, last, place), zero);
    return S::where_less(place, last, S::where_less(place, zero, zero, place), last);
  }

  // Places and weights of each tap.
  void taps(F point, F (&at)[kMostOfLine], F (&weight)[kMostOfLine]) const {
    const F one = S::set(1.0f);
    F place = S::mul(S::add(point, one), S::set(scale));
    if (shift != 0.0f) place = S::sub(place, S::set(shift));
    if (mode == kCubic) {
      const F first = floor(place), t = S::sub(place, first);
      weight[0] = far(S::add(t, one)), weight[1] = near(t);
      weight[2] = near(S::sub(one, t)), weight[3] = far(S::sub(S::set(2.0f), t));
      for (int i = 0; i < 4; ++i) at[i] = valid(inside(S::sub(S::add(first, S::set(static_cast<float>(i))), one)));
      return;
    }
    place = inside(place);
    if (mode == kNearest) {
      at[0] = valid(S::round(place)), weight[0] = one;
      return;
    }
    const F below = floor(place), above = S::add(below, one);
    at[0] = valid(below), weight[0] = S::sub(above, place);
    at[1] = valid(above), weight[1] = S::sub(place, below);
  }

 private:
  static F far(F x) {  // 1 to 2 from the tap
    const F a = S::set(-0.75f);
    const F y = S::mul(S::sub(S::mul(a, x), S::set(-3.75f)), x);
    return S::sub(S::mul(S::add(y, S::set(-6.0f)), x), S::set(-3.0f));
  }
  static F near(F x) {  // up to 1
    const F y = S::mul(S::sub(S::mul(S::set(1.25f), x), S::set(2.25f)), x);
    return S::add(S::mul(y, x), S::set(1.0f));
  }
};

}  // namespace rta
