// float32 and int64, each made of the other. No set below AVX-512 has vectors of that; numbers that int32 holds go by
// way of it, which all have.
#pragma once

#include <cstdint>

namespace rta {

// Whether each is at least -2^bits and below 2^bits.
static inline bool within_bits(const int64_t* x, int64_t n, int bits) {
  uint64_t found = 0;
  for (int64_t k = 0; k < n; ++k) found |= static_cast<uint64_t>(x[k]) + (uint64_t{1} << bits);
  return found >> (bits + 1) == 0;
}

static inline int64_t whole_of(float x) {
  return x >= -9223372036854775808.0f && x < 9223372036854775808.0f ? static_cast<int64_t>(x) : INT64_MIN;
}

// Float32 within int32 is rounded toward zero by vectors of that.
static inline void whole_of_all(const float* x, int64_t n, int64_t* __restrict to) {
  int32_t most = 0;
  for (int64_t k = 0; k < n; ++k) {
    int32_t bits;
    __builtin_memcpy(&bits, x + k, 4);
    bits &= INT32_MAX;  // of the absolute value, and those of a NaN are above all
    most = bits > most ? bits : most;
  }
  if (most < 0x4f000000)  // 2^31
    for (int64_t k = 0; k < n; ++k) to[k] = static_cast<int32_t>(x[k]);
  else
    for (int64_t k = 0; k < n; ++k) to[k] = whole_of(x[k]);
}

static inline void float_of_all(const int64_t* x, int64_t n, float* __restrict to) {
  if (within_bits(x, n, 31))
    for (int64_t k = 0; k < n; ++k) to[k] = static_cast<float>(static_cast<int32_t>(x[k]));
  else
    for (int64_t k = 0; k < n; ++k) to[k] = static_cast<float>(x[k]);
}

}  // namespace rta
