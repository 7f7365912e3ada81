// The lines of planes.h, which includes this: x, or the padded image, as float32 rows by phase.
#pragma once

#include "_simd/split_pairs.h"
#include "planes.h"

namespace rta {

// Every kApart-th number; the loop is one that compilers turn into shuffles.
template <int kApart>
static void every_number(const float* __restrict x, float* __restrict to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = x[i * kApart];
}

template <class S, bool kInt8>
void PlaneStage<S, kInt8>::make_lines(const char* image, float* lines) const {
  const ConvGeometry& g = p_.at;
  if (!kInt8 && p_.x_planes && g.stride.x == 2) return split_lines(image, lines);
  for (int64_t y = 0; y < g.reach.y; ++y)
    for (int64_t phase = 0; phase < g.stride.x; ++phase) {
      const int64_t count = (g.reach.x - phase + g.stride.x - 1) / g.stride.x;
      if (count <= 0) continue;
      float* to = lines + y * line_ + phase * phase_;
      const char* from = image + y * padded_image_.row + phase * padded_image_.cell;
      if constexpr (!kInt8) {
        if (!p_.x_planes) {
          transpose<S>(from, g.stride.x * padded_image_.cell, static_cast<int>(count), static_cast<int>(p_.c), 1.0f, to,
                       plane_);
          continue;
        }
      }
      for (int64_t c = 0; c < p_.c; ++c)
        one_line(from + (p_.x_planes ? c * padded_image_.plane : c * (kInt8 ? 1 : 4)), to + c * plane_, count);
    }
}

template <class S, bool kInt8>
void PlaneStage<S, kInt8>::split_lines(const char* image, float* lines) const {
  for (int64_t c = 0; c < p_.c; ++c)
    for (int64_t y = 0; y < p_.at.reach.y; ++y) {
      const float* x = reinterpret_cast<const float*>(image + c * padded_image_.plane + y * padded_image_.row);
      float* to = lines + c * plane_ + y * line_;
      split_pairs<S>(
          p_.at.reach.x, to, to + phase_, [x](int64_t i) __attribute__((always_inline)) { return S::load(x + i); },
          [x](int64_t i) __attribute__((always_inline)) { return x[i]; });
    }
}

template <class S, bool kInt8>
void PlaneStage<S, kInt8>::one_line(const char* from, float* to, int64_t count) const {
  const int64_t apart = p_.at.stride.x * padded_image_.cell;
  if constexpr (kInt8) {
    const F zero = S::set(static_cast<float>(p_.x_zero));
    int64_t i = 0;
    if (apart == 1)
      for (; i + S::kLanes <= count; i += S::kLanes)
        S::store(to + i, S::sub(S::to_float(S::load_u8(reinterpret_cast<const uint8_t*>(from) + i)), zero));
    for (; i < count; ++i)
      to[i] = static_cast<float>(static_cast<int32_t>(static_cast<uint8_t>(from[i * apart])) - p_.x_zero);
  } else {
    const float* x = reinterpret_cast<const float*>(from);
    switch (apart) {
      case 12: return every_number<3>(x, to, count);
      case 16: return every_number<4>(x, to, count);
      default:
        for (int64_t i = 0; i < count; ++i) to[i] = x[i * (apart / 4)];
    }
  }
}

}  // namespace rta
