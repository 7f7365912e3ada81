// Lengths of streams. Included behind kTime, kBatch, kCounted and RTA_LONGEST of a form.
#pragma once

// How many time steps a stream has; alive ends where that is no number of them.
static __device__ __forceinline__ int steps_of(const long long* counts, int stream, bool& alive) {
  if constexpr (!kCounted) return kTime;
  const long long count = counts[stream];
  alive = count >= 1 && count <= kTime;
  if (RTA_LONGEST) {
    long long longest = count;
    for (int i = 0; i < kBatch; ++i) {
      const long long other = counts[stream / kBatch * kBatch + i];
      longest = other > longest ? other : longest;
    }
    alive = alive && longest == kTime;
  }
  return alive ? static_cast<int>(count) : kTime;
}
