// How a block of recurrent.cu and window.cu begins: its shared memory cleared, and a set of weights where it belongs.
#pragma once

#include "recurrent/cuda/stack.h"

// In device memory, two sets of each.
struct Weights {
  const uint4* words;
  const float* params;
  const int* compensation;
  const float* scales;
  const uint4* head_words;
  const float* head_params;
  const int* head_compensation;
};

// From here on a block's weights are those of one set.
static __device__ __forceinline__ void renew(Stack& stack, const Weights& from, int set) {
  const auto fill = [&](int at, const void* first, int count) {
    for (int i = stack.thread; i < count; i += kThreads)
      reinterpret_cast<unsigned*>(stack.shared + at)[i] = static_cast<const unsigned*>(first)[i];
  };
  constexpr int params = kLayers * kRows * kUnits, compensation = kGates * kUnits;
  fill(kAtParams, from.params + set * kSetParams + stack.program * params, params);
  fill(kAtCompensation, from.compensation + set * kSetCompensation + stack.program * compensation, compensation);
  if (kGroup)
    fill(kAtScales, from.scales + set * kSetScales + static_cast<long long>(stack.program) * kScales, kScales);
  if (kHead && kHeadHeld) fill(kAtHead, from.head_words + set * kSetHeadWords, 4 * kSetHeadWords);
  if (stack.thread == 0) stack.flags()[kSet] = set;
  stack.load(from.words + set * kSetWords);
  meet<1, kThreads>();
}

// Everything but weights. Behind it stands a barrier of the block, or of a cluster: others may store here then.
static __device__ __forceinline__ void clear(uint4* memory) {
  for (int at = kAtX / 16 + threadIdx.x; at < kSharedBytes / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
  if constexpr (kCluster)
    meet_cluster();
  else
    __syncthreads();
}
