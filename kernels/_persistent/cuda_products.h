// Products of lines of 16 bytes of weights with int8 numbers, their sums over lanes and groups, and int8 of float32:
// what layers on a GPU are made of, with the bits of the CPU's kernels.
#pragma once

#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#endif

static __device__ __forceinline__ int to_int8(float v, int zero_point) {
  const int q = rounded(v < -512.0f ? -512.0f : v > 512.0f ? 512.0f : v) + zero_point;
  return q < -128 ? -128 : q > 127 ? 127 : q;
}
static __device__ __forceinline__ bool finite(unsigned bits) { return (bits & 0x7f800000u) != 0x7f800000u; }

// Sum over the neighboring `lanes` of a warp, which each of them has.
template <int lanes>
static __device__ __forceinline__ int sum_over(int v) {
  if constexpr (lanes == 32) {
    return __reduce_add_sync(0xffffffffu, v);
  } else {
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
  }
}

// The products of a line: int8 numbers, or int4 ones in the high halves of bytes, the low halves first, times 16.
template <int group>
static __device__ __forceinline__ int dot(const uint4& w, const uint4* in, int acc) {
  const uint4 x = in[0];
  if constexpr (group == 0) {
    acc = __dp4a(static_cast<int>(w.x), static_cast<int>(x.x), acc);
    acc = __dp4a(static_cast<int>(w.y), static_cast<int>(x.y), acc);
    acc = __dp4a(static_cast<int>(w.z), static_cast<int>(x.z), acc);
    return __dp4a(static_cast<int>(w.w), static_cast<int>(x.w), acc);
  } else {
    const uint4 y = in[1];
    constexpr unsigned high = 0xf0f0f0f0u;
    const unsigned p = opaque(w.x), q = opaque(w.y), r = opaque(w.z), s = opaque(w.w);
    acc = __dp4a(static_cast<int>(p << 4 & high), static_cast<int>(x.x), acc);
    acc = __dp4a(static_cast<int>(q << 4 & high), static_cast<int>(x.y), acc);
    acc = __dp4a(static_cast<int>(r << 4 & high), static_cast<int>(x.z), acc);
    acc = __dp4a(static_cast<int>(s << 4 & high), static_cast<int>(x.w), acc);
    acc = __dp4a(static_cast<int>(p & high), static_cast<int>(y.x), acc);
    acc = __dp4a(static_cast<int>(q & high), static_cast<int>(y.y), acc);
    acc = __dp4a(static_cast<int>(r & high), static_cast<int>(y.z), acc);
    return __dp4a(static_cast<int>(s & high), static_cast<int>(y.w), acc);
  }
}

// int4: the sums of `lines` lines, times 16, by groups and in their order; the scales are those of whole groups.
template <int group>
static __device__ __forceinline__ float fold(const int* sums, const float* scales, int lines) {
  constexpr int each = group ? group / 32 : 1;
  float acc = 0.0f;
  for (int first = 0; first < lines; first += each) {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (first + i < lines) sum += sums[first + i];
    acc = fma_rn(static_cast<float>(sum >> 4), scales[first / each], acc);
  }
  return acc;
}
