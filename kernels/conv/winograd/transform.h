// The transforms of Winograd's convolution F(m x m, 3 x 3): m outputs a side from m + 2 inputs, in (m + 2)^2 products
// for each channel where sums of products take 9 m^2. Along one axis
//     outputs = A' ((G weights) * (B' inputs)),     in the points 0, 1, -1, (2, -2,) infinity,
// and along both one after the other. __init__.py has the matrices, and the bound of the error.
//
// The order of operations is fixed; multiplications by a power of two are exact, so fused or not is the same.
#pragma once

#include <cstdint>
#include <type_traits>

namespace rta {

// G. At namespace scope, so that each instruction set has its own.
static constexpr double kWinogradWeights2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
static constexpr double kWinogradWeights4[6][3] = {{1.0 / 4, 0, 0},
                                                   {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                                                   {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                                                   {1.0 / 24, 1.0 / 12, 1.0 / 6},
                                                   {1.0 / 24, -1.0 / 12, 1.0 / 6},
                                                   {0, 0, 1}};

template <int m>
static inline __attribute__((always_inline)) double winograd_weight(int point, int tap) {
  if constexpr (m == 2)
    return kWinogradWeights2[point][tap];
  else
    return kWinogradWeights4[point][tap];
}

template <int m>
struct WinogradTransform;

template <>
struct WinogradTransform<2> {
  template <class S, class F>
  static inline __attribute__((always_inline)) void input(const F (&d)[4], F (&v)[4]) {
    v[0] = S::sub(d[0], d[2]);
    v[1] = S::add(d[1], d[2]);
    v[2] = S::sub(d[2], d[1]);
    v[3] = S::sub(d[1], d[3]);
  }
  template <class S, class F>
  static inline __attribute__((always_inline)) void output(const F (&p)[4], F (&y)[2]) {
    y[0] = S::add(p[0], S::add(p[1], p[2]));
    y[1] = S::sub(S::sub(p[1], p[2]), p[3]);
  }
};

template <>
struct WinogradTransform<4> {
  template <class S, class F>
  static inline __attribute__((always_inline)) void input(const F (&d)[6], F (&v)[6]) {
    const F four = S::set(4.0f), less_four = S::set(-4.0f), two = S::set(2.0f), less_two = S::set(-2.0f);
    const F even = S::mul_add(less_four, d[2], d[4]), odd = S::mul_add(less_four, d[1], d[3]);
    const F near = S::sub(d[4], d[2]), far = S::sub(d[3], d[1]);
    v[0] = S::mul_add(four, S::sub(d[0], d[2]), near);
    v[1] = S::add(even, odd);
    v[2] = S::sub(even, odd);
    v[3] = S::mul_add(two, far, near);
    v[4] = S::mul_add(less_two, far, near);
    v[5] = S::mul_add(less_four, far, S::sub(d[5], d[3]));
  }
  template <class S, class F>
  static inline __attribute__((always_inline)) void output(const F (&p)[6], F (&y)[4]) {
    const F sum = S::add(p[1], p[2]), difference = S::sub(p[1], p[2]);
    const F sum2 = S::add(p[3], p[4]), difference2 = S::sub(p[3], p[4]);
    y[0] = S::add(p[0], S::add(sum, sum2));
    y[1] = S::mul_add(S::set(2.0f), difference2, difference);
    y[2] = S::mul_add(S::set(4.0f), sum2, sum);
    y[3] = S::add(S::mul_add(S::set(8.0f), difference2, difference), p[5]);
  }
};

constexpr int kWinogradRows = 6;  // tiles that share the weights of a panel

// product(rows, first): so many tiles from `first` on, by the number as a type. The last call may reach beyond them.
template <class Product>
static inline __attribute__((always_inline)) void over_tiles(int64_t tiles, Product product) {
  int64_t t = 0;
  for (; t + kWinogradRows <= tiles; t += kWinogradRows) product(std::integral_constant<int, kWinogradRows>{}, t);
  if (tiles - t > 4) return product(std::integral_constant<int, 6>{}, t);
  if (tiles - t > 2) return product(std::integral_constant<int, 4>{}, t);
  if (tiles - t > 0) product(std::integral_constant<int, 2>{}, t);
}

}  // namespace rta
