// The activation functions of a CPU on a GPU, one number at a time.
#pragma once

#include "_common/activations/activate.h"

// One number in the place of a vector: what the functions of _common/activations are computed over.
struct Lane {
  using F = float;
  using I = unsigned;
  static __device__ __forceinline__ F set(float v) { return v; }
  static __device__ __forceinline__ F add(F a, F b) { return add_rn(a, b); }
  static __device__ __forceinline__ F sub(F a, F b) { return add_rn(a, -b); }
  static __device__ __forceinline__ F mul(F a, F b) { return mul_rn(a, b); }
  static __device__ __forceinline__ F div(F a, F b) { return div_rn(a, b); }
  static __device__ __forceinline__ F fma(F a, F b, F c) { return fma_rn(a, b, c); }
  static __device__ __forceinline__ F max(F a, F b) { return a > b ? a : b; }
  static __device__ __forceinline__ F min(F a, F b) { return a < b ? a : b; }
  static __device__ __forceinline__ F abs(F a) { return float_of(bits_of(a) & 0x7fffffffu); }
  static __device__ __forceinline__ F copy_sign(F magnitude, F sign) {
    return float_of((bits_of(magnitude) & 0x7fffffffu) | (bits_of(sign) & 0x80000000u));
  }
  static __device__ __forceinline__ F where_less(F a, F b, F then, F other) { return a < b ? then : other; }
  static __device__ __forceinline__ I as_int(F a) { return bits_of(a); }
  static __device__ __forceinline__ F as_float(I a) { return float_of(a); }
  template <int bits>
  static __device__ __forceinline__ I shift_left(I a) {
    return a << bits;
  }
};
