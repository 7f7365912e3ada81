// Columns of x that are brought to one range before they are rounded to int8.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace rta {

// to = x * factor, the product rounded to float32. What is finite stays so: int8 ends far below what float32 holds.
inline void scale_columns(const float* __restrict x, const float* __restrict factor, int64_t numbers,
                          float* __restrict to) {
  uint32_t odd = 0;
  for (int64_t i = 0; i < numbers; ++i) {
    const float product = x[i] * factor[i];
    int32_t bits;
    std::memcpy(&bits, &product, sizeof bits);
    odd |= (bits & 0x7f800000) >= 0x7f800000 ? 1u : 0u;
    to[i] = product;
  }
  if (!odd) return;
  for (int64_t i = 0; i < numbers; ++i)
    if (std::isinf(to[i]) && std::isfinite(x[i])) to[i] = std::copysign(FLT_MAX, to[i]);
}

}  // namespace rta
