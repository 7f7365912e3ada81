// Rows of float32 as codes of 8 or 4 bits with a least value and a step each. All arithmetic is in float64, so that the
// only error is half a step and the rounding of the result.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace rta {

template <int Bits>
constexpr uint64_t row_bytes(uint64_t width) {
  return 8 + (width * Bits + 7) / 8;
}

template <int Bits>
void pack_rows(const float* x, uint64_t rows, uint64_t width, uint8_t* to) {
  constexpr double kTop = (1 << Bits) - 1;
  for (uint64_t r = 0; r < rows; ++r, x += width, to += row_bytes<Bits>(width)) {
    float least = FLT_MAX, most = -FLT_MAX, zero = 0;
    for (uint64_t i = 0; i < width; ++i) {
      least = x[i] < least ? x[i] : least;
      most = x[i] > most ? x[i] : most;
      zero += x[i] * 0;  // NaN from the first number that is not finite
    }
    const bool good = zero == 0 && width;
    float head[2] = {good ? least : 0,
                     good ? static_cast<float>((static_cast<double>(most) - least) / kTop) : __builtin_nanf("")};
    std::memcpy(to, head, sizeof head);
    uint8_t* const codes = to + 8;
    if (!good) {
      std::memset(codes, 0, row_bytes<Bits>(width) - 8);
      continue;
    }
    const double inverse = head[1] > 0 ? 1 / static_cast<double>(head[1]) : 0, base = least;
    const auto code = [&](float v) {
      const double q = (v - base) * inverse + 0.5;
      return static_cast<int32_t>(q < kTop ? q : kTop);
    };
    if constexpr (Bits == 8) {
      for (uint64_t i = 0; i < width; ++i) codes[i] = static_cast<uint8_t>(code(x[i]));
    } else {
      for (uint64_t i = 0; i < width; i += 2)
        codes[i / 2] = static_cast<uint8_t>(code(x[i]) | (i + 1 < width ? code(x[i + 1]) << 4 : 0));
    }
  }
}

template <int Bits>
void unpack_rows(const uint8_t* from, uint64_t rows, uint64_t width, float* x) {
  for (uint64_t r = 0; r < rows; ++r, x += width, from += row_bytes<Bits>(width)) {
    float head[2];
    std::memcpy(head, from, sizeof head);
    const double base = head[0], step = head[1];
    const uint8_t* const codes = from + 8;
    const auto number = [&](int code) {
      const double v = base + step * code;
      return static_cast<float>(v > FLT_MAX ? FLT_MAX : v);  // rounded steps may add up to more than the most
    };
    if constexpr (Bits == 8) {
      for (uint64_t i = 0; i < width; ++i) x[i] = number(codes[i]);
    } else {
      for (uint64_t i = 0; i < width; ++i) x[i] = number(codes[i / 2] >> 4 * (i & 1) & 15);
    }
  }
}

}  // namespace rta
