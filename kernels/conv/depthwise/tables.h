// Where taps lie in x, and the packed weights: the rest of channels.h, which includes it.
#pragma once

#include "channels.h"

namespace rta {

// Where each tap of each position lies in x.
template <class S, int kWide>
void DepthwiseStage<S, kWide>::index(const StageSpec& spec) {
  const ConvGeometry& g = p_.at;
  int32_t* row = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.in.y * g.in.x) * 4));
  for (int64_t i = 0; i < g.in_count; ++i) row[g.in_steps ? g.in_steps[i] : i] = static_cast<int32_t>(i);
  int32_t* at = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.out_count * g.taps) * 4));
  index_ = at;
  for (int64_t i = 0; i < g.out_count; ++i) {
    const int64_t place = g.out_steps ? g.out_steps[i] : i;
    for (int64_t t = 0; t < g.taps; ++t, ++at) {
      const int64_t y = g.out_rows[place / g.out.x] + g.tap_rows[t / g.kernel.x] - g.padding.y;
      const int64_t x = place % g.out.x * g.stride.x + t % g.kernel.x * g.dilation.x - g.padding.x;
      const bool inside = y >= 0 && y < g.in.y && x >= 0 && x < g.in.x;
      *at = inside ? static_cast<int32_t>(row[y * g.in.x + x] * p_.x_step) : -1;
    }
  }
  char* pad = static_cast<char*>(spec.arena->take(256));  // up to 4 vectors: floats of 0, or bytes of the zero point
  for (int i = 0; i < 256; ++i) pad[i] = static_cast<char>(p_.int8 ? p_.x_zero : 0);
  pad_ = pad;
}

template <class S, int kWide>
void DepthwiseStage<S, kWide>::pack(const StageSpec& spec) {
  using Bytes = GroupBytes<S, kWide>;
  const int64_t taps = p_.at.taps, vectors = (p_.n + S::kLanes - 1) / S::kLanes, count = p_.n * kWide * taps;
  const float* floats = p_.int8 ? nullptr : spec.attrs.floats("weight", count);
  const int8_t* bytes = p_.int8 ? spec.attrs.int8s("weight", count) : nullptr;
  const int steps = p_.int8 ? kSteps<true> : kSteps<false>;
  float* to = static_cast<float*>(spec.weights(static_cast<size_t>(taps * steps * vectors * S::kLanes) * 4));
  weights_ = to;
  for (int64_t first = 0; spec.packs() && first < vectors; first += kTile) {
    const int64_t now = (vectors - first < kTile ? vectors - first : kTile) * S::kLanes;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int step = 0; step < steps; ++step)
        for (int64_t i = 0; i < now; ++i, ++to) {
          const int64_t n = first * S::kLanes + i;
          if (n >= p_.n) continue;
          if (!bytes) {
            *to = floats[(n * kWide + step) * taps + tap];
          } else if (!Bytes::kDots) {
            *to = static_cast<float>(bytes[(n * kWide + step) * taps + tap]);
          } else {
            int8_t quad[4] = {};
            for (int c = 4 * step; c < kWide && c < 4 * step + 4; ++c)
              quad[c % 4] = bytes[(n * kWide + c) * taps + tap];
            __builtin_memcpy(to, quad, 4);
          }
        }
  }
}

}  // namespace rta
