// What a block of recurrent.cu and window.cu holds, and the parts of a time step that need it alone: products, cells,
// and the exchange of h with the other blocks.
#pragma once

#include "_persistent/cuda_poll.h"
#include "recurrent/cuda/cells.h"
#include "recurrent/cuda/config.h"

// Flags of a block, in shared memory. Two for what a message holds, in turn: while some threads still read that of one
// message, others already take the next.
constexpr int kCommand = 0, kNonfiniteAt = 1, kLost = 3, kEnded = 4, kSet = 5, kHeaderAt = 6;

constexpr int kAtOnceHeld = 8;         // lines of weights on their way into shared memory
constexpr int kMostLooks = RTA_LOOKS;  // for a word of another block, before it is given up

struct Stack {
  char* const shared;
  const uint4* words = nullptr;  // of this thread
  const int program, thread, unit, lane;
  int turn = 0;  // which place has x, and over a window h
  uint4 kept[kKept ? kKept : 1];

  __device__ __forceinline__ explicit Stack(char* memory)
      : shared(memory),
        program(blockIdx.x),
        thread(threadIdx.x),
        unit(threadIdx.x / kLanes),
        lane(threadIdx.x % kLanes) {}

  // The weights of a set where they belong; the caller waits for the block.
  __device__ __forceinline__ void load(const uint4* set) {
    words = set + static_cast<long long>(program) * kSteps * kThreads + thread;
    uint4* held = reinterpret_cast<uint4*>(shared) + thread;
#pragma unroll
    for (int step = 0; step < kKept; ++step) kept[step] = load_weights(words + step * kThreads);
    for (int first = 0; first < kHeld; first += kAtOnceHeld) {  // as one waits for a load, others are on their way
      uint4 lines[kAtOnceHeld];
#pragma unroll
      for (int i = 0; i < kAtOnceHeld; ++i)
        if (first + i < kHeld) lines[i] = load_weights(words + (kKept + first + i) * kThreads);
#pragma unroll
      for (int i = 0; i < kAtOnceHeld; ++i)
        if (first + i < kHeld) held[(first + i) * kThreads] = lines[i];
    }
  }

  // -- what lies in shared memory --------------------------------------------------------------------------------
  __device__ __forceinline__ signed char* x_at(int place) const {
    return reinterpret_cast<signed char*>(shared + kAtX + place * kBytesX);
  }
  __device__ __forceinline__ signed char* x() const { return x_at(turn); }
  __device__ __forceinline__ signed char* h_at(int place, int layer) const {
    return reinterpret_cast<signed char*>(shared + kAtH + (place * kLayers + layer) * kBytesH);
  }
  __device__ __forceinline__ signed char* h(int layer) const { return h_at(kTurnsH > 1 ? turn : 0, layer); }
  __device__ __forceinline__ signed char* y() const { return reinterpret_cast<signed char*>(shared + kAtY); }
  __device__ __forceinline__ float* row(int layer, int index) const {
    return reinterpret_cast<float*>(shared + kAtParams) + (layer * kRows + index) * kUnits;
  }
  __device__ __forceinline__ float& before(int layer, int gate) const {
    return reinterpret_cast<float*>(shared + kAtBefore)[(layer * kGates + gate) * kUnits + unit];
  }
  __device__ __forceinline__ float* states() const { return reinterpret_cast<float*>(shared + kAtStates); }
  __device__ __forceinline__ float& state_h(int layer) const { return states()[layer * kUnits + unit]; }
  __device__ __forceinline__ float& state_c(int layer) const { return states()[(kLayers + layer) * kUnits + unit]; }
  __device__ __forceinline__ volatile unsigned* flags() const {
    return reinterpret_cast<volatile unsigned*>(shared + kAtFlags);
  }

  // -- products --------------------------------------------------------------------------------------------------
  // Steps in the order in which they are placed: of x in all layers, which a waiting host feels, then of h.
  static __device__ constexpr int first_step(bool of_x, int layer) {
    return of_x ? (layer == 0 ? 0 : kGates * (kStepsX + (layer - 1) * kStepsH))
                : kGates * (kStepsX + (kLayers - 1 + layer) * kStepsH);
  }
  __device__ __forceinline__ uint4 line(int step) const {
    if (step < kKept) return kept[step];
    if (step < kKept + kHeld) return reinterpret_cast<const uint4*>(shared)[(step - kKept) * kThreads + thread];
    return read_again(step);
  }
  __device__ __forceinline__ uint4 read_again(int step) const { return load_weights(words + step * kThreads); }

  // The sums of a unit's gates, in each of its threads.
  template <bool of_x, int layer>
  __device__ __forceinline__ void sums(float (&t)[kGates]) const {
    constexpr int count = of_x && layer == 0 ? kStepsX : kStepsH, wide = kLineParams / 16;
    constexpr int first = first_step(of_x, layer);
    // Lines of which the chip has any; from there on few are on their way at once, for want of registers.
    constexpr int placed = ceil_div(kKept + kHeld > first ? kKept + kHeld - first : 0, kGates);
    constexpr int on_chip = placed < count ? placed : count;
    const signed char* from = of_x ? (layer == 0 ? x() : h(layer - 1)) : h(layer);
    const uint4* in = reinterpret_cast<const uint4*>(from) + lane * wide;
    if constexpr (kGroup == 0) {
      int acc[kGates] = {};
#pragma unroll
      for (int j = 0; j < on_chip; ++j)
#pragma unroll
        for (int g = 0; g < kGates; ++g) acc[g] = dot<0>(line(first + j * kGates + g), in + j * kLanes, acc[g]);
#pragma unroll 2
      for (int j = on_chip; j < count; ++j)
#pragma unroll
        for (int g = 0; g < kGates; ++g) acc[g] = dot<0>(read_again(first + j * kGates + g), in + j * kLanes, acc[g]);
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        acc[g] = sum_over<kLanes>(acc[g]);
        if (of_x && layer == 0 && unit < kUnits)
          acc[g] += reinterpret_cast<const int*>(shared + kAtCompensation)[g * kUnits + unit];
        t[g] = static_cast<float>(acc[g]);
      }
    } else {
      constexpr int pitch = kFoldLines + 1, lines = count * kLanes;
      constexpr int groups = of_x && layer == 0 ? kGroupsX : kGroupsH;
      constexpr int halves = of_x ? (layer == 0 ? 0 : 2 * layer) : 2 * layer + 1;  // before it, in the scales
      constexpr int at = halves == 0 ? 0 : kGates * kUnits * (kGroupsX + (halves - 1) * kGroupsH);
      int* own = reinterpret_cast<int*>(shared + kAtFold) + unit * kGates * pitch;
#pragma unroll
      for (int j = 0; j < on_chip; ++j)
#pragma unroll
        for (int g = 0; g < kGates; ++g)
          own[g * pitch + j * kLanes + lane] = dot<kGroup>(line(first + j * kGates + g), in + j * kLanes * wide, 0);
#pragma unroll 2
      for (int j = on_chip; j < count; ++j)
#pragma unroll
        for (int g = 0; g < kGates; ++g)
          own[g * pitch + j * kLanes + lane] =
              dot<kGroup>(read_again(first + j * kGates + g), in + j * kLanes * wide, 0);
      __syncwarp();
      float* result = reinterpret_cast<float*>(own) + kFoldLines;
      const float* scales = reinterpret_cast<const float*>(shared + kAtScales) + at;
      constexpr int each = kGroup / 32 ? kGroup / 32 : 1, most = groups * each < lines ? groups * each : lines;
      if (unit < kUnits)
        for (int g = lane; g < kGates; g += kLanes)
          result[g * pitch] = fold<kGroup>(own + g * pitch, scales + (g * kUnits + unit) * groups, most);
      __syncwarp();
#pragma unroll
      for (int g = 0; g < kGates; ++g) t[g] = result[g * pitch];
    }
  }

  // W_h h of a layer, for the next time step.
  template <int layer>
  __device__ __forceinline__ void prepare() const {
    float t[kGates];
    sums<false, layer>(t);
    if (lane == 0 && unit < kUnits)
#pragma unroll
      for (int g = 0; g < kGates; ++g) before(layer, g) = mul_rn(t[g], row(layer, kGates + g)[unit]);
  }
  template <int layer = 0>
  __device__ __forceinline__ void prepare_all() const {
    if constexpr (layer < kLayers) {
      prepare<layer>();
      prepare_all<layer + 1>();
    }
  }

  // A layer's part of a time step: its h, in the first thread of each unit.
  template <int layer>
  __device__ __forceinline__ float time_step() const {
    float t[kGates];
    sums<true, layer>(t);
    if (lane != 0 || unit >= kUnits) return 0.0f;
    float from_h[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) from_h[g] = before(layer, g);
    return advance(layer, t, from_h);
  }
  // h of a unit behind a time step of a layer, by one of its threads: from the sums of x and the numbers of h. States
  // go on.
  __device__ __forceinline__ float advance(int layer, float (&t)[kGates], const float (&from_h)[kGates]) const {
    float bias[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      t[g] = mul_rn(t[g], row(layer, g)[unit]);
      bias[g] = row(layer, 2 * kGates + g)[unit];
    }
    float& h = state_h(layer);
    if constexpr (kGates == 4) {
#pragma unroll
      for (int g = 0; g < kGates; ++g) t[g] = add_rn(add_rn(t[g], from_h[g]), bias[g]);
      h = lstm_cell(t, state_c(layer));
    } else {
      h = gru_cell(add_rn(add_rn(t[0], from_h[0]), bias[0]), add_rn(add_rn(t[1], from_h[1]), bias[1]),
                   add_rn(t[2], bias[2]), add_rn(from_h[2], row(layer, 3 * kGates)[unit]), h);
    }
    return h;
  }

  // -- between the blocks ----------------------------------------------------------------------------------------
  // Where words of other blocks are: in L2, or, of a cluster, in the memory of each.
  __device__ __forceinline__ Word* exchange(Word* in_l2) const {
    return kCluster ? reinterpret_cast<Word*>(shared + kAtExchange) : in_l2;
  }
  // This block's words of a vector, for all others; first_alone: for the first, where that alone reads them. layers: of
  // a cluster alone, so many vectors behind one another, those of layers.
  template <bool first_alone = false, int layers = 1>
  __device__ __forceinline__ void publish(Word* slot, const signed char* bytes, unsigned sequence) const {
    const unsigned* words = reinterpret_cast<const unsigned*>(bytes) + program * kWordsOwn;
    Word* own = slot + program * kWordsOwn;
    if constexpr (kCluster) {
      constexpr int each = kWordsOwn * (first_alone ? 1 : kPrograms);
      for (int i = thread; i < layers * each; i += kThreads) {
        const int layer = layers > 1 ? i / each : 0, block = (i - layer * each) / kWordsOwn, at = i % kWordsOwn;
        if (block == program) continue;
        store_cluster(own + layer * 2 * kSlotH + at, block, word_of(words[layer * kBytesH / 4 + at], sequence));
      }
    } else {
      if (thread < kWordsOwn) store_card(own + thread, word_of(words[thread], sequence));
    }
  }
  // A word of x or its header from the first block, for all others.
  static __device__ __forceinline__ void pass_on(Word* to, Word word) {
    if constexpr (kCluster) {
      for (int block = 1; block < kPrograms; ++block) store_cluster(to, block, word);
    } else {
      store_card(to, word);
    }
  }
  static __device__ __forceinline__ Word look(const Word* at) {
    if constexpr (kCluster) return load_cluster(at);
    return load_card(at);
  }
  // Fills in the words of the others; the caller waits for the block.
  template <int layers = 1>
  __device__ __forceinline__ void receive(const Word* slot, signed char* bytes, unsigned sequence) const {
    for (int i = thread; i < layers * kWordsH; i += kThreads) {
      const int layer = layers > 1 ? i / kWordsH : 0, at = i - layer * kWordsH;
      if (at / kWordsOwn == program) continue;
      const Word* from = slot + layer * 2 * kSlotH + at;
      int looks = 0;
      Word word = look(from);
      while (number_of(word) != sequence && ++looks < kMostLooks) word = look(from);
      if (number_of(word) != sequence) flags()[kLost] = 1;
      reinterpret_cast<unsigned*>(bytes)[layer * kBytesH / 4 + at] = static_cast<unsigned>(word);
    }
  }
  __device__ __forceinline__ Word* slot_h(Word* exchange, int layer, unsigned sequence) const {
    return exchange + (2 * layer + (sequence & 1)) * kSlotH;
  }
};
