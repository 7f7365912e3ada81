// Vectors of 4 float32 in the compiler's own vector type: any CPU, no intrinsics, the same results.
#pragma once

#include <cstdint>

#include "_simd/simd_common.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct PortableTypes {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));
  using M = I;
};

struct Portable : Common<Portable, PortableTypes> {
  static constexpr Isa kIsa = Isa::kPortable;
  typedef uint32_t U __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;
  static constexpr int kTileVectors = 8;

  static F load(const float* p) {
    F v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  static void store(float* p, F v) { __builtin_memcpy(p, &v, 16); }
  static F load_n(const float* p, int n, float rest = 0) {
    F v = set(rest);
    for (int i = 0; i < n; ++i) v[i] = p[i];
    return v;
  }
  static void store_n(float* p, F v, int n) {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  static F set(float v) { return F{v, v, v, v}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) {
    return F{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]), __builtin_fmaf(a[2], b[2], c[2]),
             __builtin_fmaf(a[3], b[3], c[3])};
  }
  static F mul_add(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  static F abs(F a) { return reinterpret_cast<F>(reinterpret_cast<I>(a) & INT32_MAX); }
  static F copy_sign(F magnitude, F sign) {
    return reinterpret_cast<F>((reinterpret_cast<I>(magnitude) & INT32_MAX) | (reinterpret_cast<I>(sign) & INT32_MIN));
  }
  static F sqrt(F a) {
    return F{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
  }
  static F round(F a) {  // adding 2^23 leaves an integer; from there on there are only integers
    const F whole = set(8388608.0f), size = abs(a);
    return select(less(size, whole), copy_sign((size + whole) - whole, a), a);
  }
  static M less(F a, F b) { return a < b; }
  static M equal(F a, F b) { return a == b; }
  static bool all(M m) { return (m[0] & m[1] & m[2] & m[3]) != 0; }
  static F select(M m, F yes, F no) { return m ? yes : no; }
  static float max_of(F v) {
    float m = v[0];
    for (int i = 1; i < 4; ++i) m = m > v[i] ? m : v[i];
    return m;
  }
  static float sum_of(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }

  static I to_int(F v) {  // adding 1.5 * 2^23 leaves an integer, rounded to nearest even, for |v| < 2^22
    const F magic = set(12582912.0f);
    return __builtin_convertvector((v + magic) - magic, I);
  }
  static F to_float(I v) { return __builtin_convertvector(v, F); }
  static I set_int(int32_t v) { return I{v, v, v, v}; }
  static I load_int(const int32_t* p) {
    I v;
    __builtin_memcpy(&v, p, 16);
    return v;
  }
  static void store_int(int32_t* p, I v) { __builtin_memcpy(p, &v, 16); }
  // Unsigned inside: int32 lanes wrap, as they do on every other set.
  static I add_int(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) + reinterpret_cast<U>(b)); }
  static I sub_int(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) - reinterpret_cast<U>(b)); }
  static I mul_int(I a, I b) { return reinterpret_cast<I>(reinterpret_cast<U>(a) * reinterpret_cast<U>(b)); }
  static I and_int(I a, I b) { return a & b; }
  template <int n>
  static I shift_left(I v) {
    return reinterpret_cast<I>(reinterpret_cast<U>(v) << n);
  }
  template <int n>
  static I shift_right(I v) {
    return v >> n;
  }
  static I as_int(F v) { return reinterpret_cast<I>(v); }
  static F as_float(I v) { return reinterpret_cast<F>(v); }
  static I min_int(I a, I b) { return a < b ? a : b; }
  static I max_int(I a, I b) { return a > b ? a : b; }
  static I bits_of_abs(F v) { return reinterpret_cast<I>(v) & INT32_MAX; }
  static int32_t max_of_int(I v) {
    int32_t m = v[0];
    for (int i = 1; i < 4; ++i) m = m > v[i] ? m : v[i];
    return m;
  }
  static int32_t sum_of_int(I v) { return (v[0] + v[2]) + (v[1] + v[3]); }

  static I load_u8(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static I load_s8(const int8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static I load_u16(const uint16_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static void store_u16(uint16_t* p, I v) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<uint16_t>(v[i]);
  }
  static void store_u8(uint8_t* p, I v) {
    for (int i = 0; i < 4; ++i) p[i] = static_cast<uint8_t>(v[i] < 0 ? 0 : v[i] > 255 ? 255 : v[i]);
  }

  static constexpr int kGroup = 1;
  static constexpr int kWeightBytes = 4;
  static constexpr int kXOffset = 128;
  using X = I;
  using W = I;
  static X broadcast_x(const uint8_t* p) { return set_int(*p); }
  static W load_w(const int8_t* p) {
    typedef int8_t Bytes __attribute__((vector_size(4)));
    Bytes bytes;
    __builtin_memcpy(&bytes, p, 4);
    return __builtin_convertvector(bytes, W);
  }
  static I dot(I acc, X x, W w) { return add_int(acc, x * w); }  // a start from a file may be anything
};

using simd_portable = Portable;

}  // namespace
}  // namespace rta
