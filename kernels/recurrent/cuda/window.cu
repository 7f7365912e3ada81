// A window of LSTM or GRU in one launch of a graph: all weights on the chip, and the layers as a wavefront.
//
// What a block holds and multiplies is that of a stream (recurrent.cu, stack.h), and nobody waits for a host. In wave w
// layer l computes time step w - l, so all layers work at once: what each reads was written in the wave before, by
// itself and by the layer below. A wave takes one barrier, where a time step of a stream takes one for each layer. x
// and h have two places that take turns. Lane l of a unit's threads computes the cell of layer l, so cells are side by
// side, too.
//
// Blocks of a stream are a cluster. They exchange the h of all layers once in a wave, by numbered words in each other's
// shared memory (tests/gpu/protocols/cluster.py). Clusters know nothing of each other: a grid has any number of
// streams.
//
// A stream with a NaN or an infinity in x or its states is NaN, as on the CPU, and so is one that has no number of time
// steps. What is found at the end is written then: all earlier outputs are written over. A block that lacks a word
// sends none, so others do not answer with it.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif

#ifndef RTA_TIME
#define RTA_WINDOW 1
#define RTA_TIME 50
#define RTA_BATCH 1  // streams of a sample
#define RTA_BATCH_FIRST 1
#define RTA_LAST 1     // 1: y is the h of the newest time step alone
#define RTA_STATES 0   // 1: h0 and c0 come in; else states begin as zeros
#define RTA_AFTER 0    // 1: the states behind the window go out
#define RTA_COUNTED 0  // 1: streams say how many time steps they have; y behind them is 0
#define RTA_LONGEST 0  // 1: one of a sample's streams has to have all
#define RTA_X8 0       // 1: x is int8, else float32 that is quantized here
#define RTA_Y8 0
#endif
#include "recurrent/cuda/weights.h"

constexpr int kTime = RTA_TIME, kBatch = RTA_BATCH;
constexpr bool kLast = RTA_LAST, kStates = RTA_STATES, kAfter = RTA_AFTER, kCounted = RTA_COUNTED, kX8 = RTA_X8,
               kY8 = RTA_Y8;
#include "recurrent/cuda/lengths.h"

constexpr int kStepX = RTA_BATCH_FIRST ? kInputs : kBatch * kInputs;  // from one time step to the next
constexpr int kStepY = RTA_BATCH_FIRST ? kHidden : kBatch * kHidden;
constexpr int kEachX = ceil_div(kInputs, kThreads);  // numbers of x that a thread fetches

// One stream: where its numbers are, and how they become others.
struct Stream {
  const char* x;
  char* y;
  const float *h0, *c0;
  float *hn, *cn;
  int steps;  // time steps that it has
  float x_inverse, h_inverse, y_inverse;
  int x_zero_point, y_zero_point;

  __device__ __forceinline__ void store_y(int t, int unit, float h) const {
    const long long at = (kLast ? 0ll : static_cast<long long>(t) * kStepY) + unit;
    if constexpr (kY8)
      y[at] = static_cast<char>(to_int8(mul_rn(h, y_inverse), y_zero_point));
    else
      reinterpret_cast<float*>(y)[at] = h;
  }
  __device__ __forceinline__ signed char int8_of(float h) const {
    return static_cast<signed char>(to_int8(mul_rn(h, h_inverse), 0));
  }
};

// x of a time step on its way into the block: fetched while a wave computes, and put behind it.
struct Fetched {
  float numbers[kX8 ? 1 : kEachX];
  signed char bytes[kX8 ? kEachX : 1];

  __device__ __forceinline__ void fetch(const Stack& stack, const Stream& of, int t) {
#pragma unroll
    for (int i = 0; i < kEachX; ++i) {
      const int k = stack.thread + i * kThreads;
      if (k >= kInputs) continue;
      const long long at = static_cast<long long>(t) * kStepX + k;
      if constexpr (kX8)
        bytes[i] = reinterpret_cast<const signed char*>(of.x)[at];
      else
        numbers[i] = reinterpret_cast<const float*>(of.x)[at];
    }
  }
  __device__ __forceinline__ void put(const Stack& stack, const Stream& of, int place) const {
#pragma unroll
    for (int i = 0; i < kEachX; ++i) {
      const int k = stack.thread + i * kThreads;
      if (k >= kInputs) continue;
      if constexpr (kX8) {
        stack.x_at(place)[k] = bytes[i];
      } else {
        if (!finite(bits_of(numbers[i]))) stack.flags()[kNonfiniteAt] = 1;
        stack.x_at(place)[k] = static_cast<signed char>(to_int8(mul_rn(numbers[i], of.x_inverse), of.x_zero_point));
      }
    }
  }
};

// The states before the window: as int8 of all units, and as they are of the block's own.
static __device__ __forceinline__ void begin(const Stack& stack, const Stream& of) {
  for (int i = stack.thread; i < kLayers * kHidden; i += kThreads) {
    const int layer = i / kHidden, unit = i % kHidden, own = unit - stack.program * kUnits;
    const long long at = static_cast<long long>(layer) * kBatch * kHidden + unit;
    const float h = of.h0[at], c = kGates == 4 ? of.c0[at] : 0.0f;
    if (!finite(bits_of(h)) || !finite(bits_of(c))) stack.flags()[kNonfiniteAt] = 1;
    stack.h_at(0, layer)[unit] = of.int8_of(h);
    if (own >= 0 && own < kUnits) {
      stack.states()[layer * kUnits + own] = h;
      if (kGates == 4) stack.states()[(kLayers + layer) * kUnits + own] = c;
    }
  }
}

// The states behind the window, of one unit.
static __device__ __forceinline__ void store_states(const Stream& to, int layer, int unit, float h, float c) {
  const long long at = static_cast<long long>(layer) * kBatch * kHidden + unit;
  to.hn[at] = h;
  if (kGates == 4) to.cn[at] = c;
}

// The sums of `count` layers: each lane keeps those of its own.
template <int layer, int count, int own = 0>
static __device__ __forceinline__ void sums_of(const Stack& stack, float (&of_x)[kGates], float (&of_h)[kGates]) {
  float x[kGates], h[kGates];
  stack.template sums<true, layer>(x);
  stack.template sums<false, layer>(h);
  if (stack.lane == own)
#pragma unroll
    for (int g = 0; g < kGates; ++g) of_x[g] = x[g], of_h[g] = h[g];
  if constexpr (own + 1 < count) sums_of<layer + 1, count, own + 1>(stack, of_x, of_h);
}

// A wave, from layer `first` on.
template <int first = 0>
static __device__ __forceinline__ void wave_of(const Stack& stack, const Stream& stream, int wave) {
  constexpr int count = kLanes < kLayers - first ? kLanes : kLayers - first;
  float of_x[kGates], of_h[kGates];
  sums_of<first, count>(stack, of_x, of_h);
  if (stack.lane < count && stack.unit < kUnits) {
    const int layer = first + stack.lane, t = wave - layer, at = stack.program * kUnits + stack.unit;
    float h = stack.state_h(layer);
    if (t >= 0 && t < stream.steps) {
#pragma unroll
      for (int g = 0; g < kGates; ++g) of_h[g] = mul_rn(of_h[g], stack.row(layer, kGates + g)[stack.unit]);
      h = stack.advance(layer, of_x, of_h);
      if (layer == kLayers - 1 && at < kHidden && (!kLast || t == stream.steps - 1)) stream.store_y(t, at, h);
      if (kAfter && t == stream.steps - 1 && at < kHidden)
        store_states(stream, layer, at, h, kGates == 4 ? stack.state_c(layer) : 0.0f);
    }
    stack.h_at(stack.turn ^ 1, layer)[at] = stream.int8_of(h);
  }
  if constexpr (first + count < kLayers) wave_of<first + count>(stack, stream, wave);
}

// Behind the last wave: zeros where a stream had no time step, and NaN all over one that is not alive.
static __device__ __forceinline__ void finish(const Stack& stack, const Stream& stream, bool alive) {
  for (int own = stack.thread; own < kUnits; own += kThreads) {
    const int at = stack.program * kUnits + own;
    if (at >= kHidden) return;
    const float nan = float_of(0x7fc00000u);
    if (!alive) {
      for (int t = kLast ? stream.steps - 1 : 0; t < stream.steps; ++t) stream.store_y(t, at, kY8 ? 0.0f : nan);
      for (int layer = 0; kAfter && layer < kLayers; ++layer) store_states(stream, layer, at, nan, nan);
    }
    for (int t = kLast && stream.steps < kTime ? kTime - 1 : stream.steps; kCounted && t < kTime; ++t)
      stream.store_y(t, at, 0.0f);
  }
}

// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
#if RTA_CLUSTER && defined(__CUDACC__)
#define RTA_CLUSTER_DIMS __cluster_dims__(RTA_PROGRAMS, 1, 1)
#else
#define RTA_CLUSTER_DIMS
#endif
extern "C" __global__ void RTA_CLUSTER_DIMS __launch_bounds__(kThreads, 1)
    rtaccel_window(const char* x, char* y, const long long* counts, const float* h0, const float* c0, float* hn,
                   float* cn, const uint4* words, const float* params, const int* compensation, const float* scales,
                   float x_inverse, int x_zero_point, float h_inverse, float y_inverse, int y_zero_point,
                   int first_stream, void*, void*) {
  uint4* const memory = shared_memory();
  clear(memory);
  Stack stack(reinterpret_cast<char*>(memory));
  Word* const exchange = stack.exchange(nullptr);

  const int number = first_stream + static_cast<int>(blockIdx.y), row = number % kBatch;
  const long long sample = number / kBatch;
  const long long in = sample * kTime * kBatch * kInputs + row * (RTA_BATCH_FIRST ? kTime * kInputs : kInputs);
  const long long out = kLast ? static_cast<long long>(number) * kHidden
                              : sample * kTime * kBatch * kHidden + row * (RTA_BATCH_FIRST ? kTime * kHidden : kHidden);
  const long long state = sample * kLayers * kBatch * kHidden + static_cast<long long>(row) * kHidden;
  bool alive = true;
  const int steps = steps_of(counts, number, alive);
  const Stream stream{x + (kX8 ? 1 : 4) * in,
                      y + (kY8 ? 1 : 4) * out,
                      h0 + state,
                      c0 + state,
                      hn + state,
                      cn + state,
                      steps,
                      x_inverse,
                      h_inverse,
                      y_inverse,
                      x_zero_point,
                      y_zero_point};
  Fetched next;
  next.fetch(stack, stream, 0);
  if constexpr (kStates) begin(stack, stream);
  next.put(stack, stream, 0);
  renew(stack, Weights{words, params, compensation, scales, nullptr, nullptr, nullptr}, 0);

  const int last = stream.steps + kLayers - 2;
  for (int wave = 0; wave <= last; ++wave) {
    const bool more = wave + 1 < stream.steps;
    if (more) next.fetch(stack, stream, wave + 1);
    wave_of(stack, stream, wave);
    if (more) next.put(stack, stream, stack.turn ^ 1);
    meet<1, kThreads>();
    stack.turn ^= 1;
    if constexpr (kPrograms > 1) {
      if (wave == last) break;  // nobody reads what the last wave wrote
      const unsigned sequence = wave + 1;
      Word* const slots = stack.slot_h(exchange, 0, sequence);
      stack.template publish<false, kLayers>(slots, stack.h(0), sequence);
      stack.template receive<kLayers>(slots, stack.h(0), sequence);
      meet<1, kThreads>();
      if (stack.flags()[kLost]) break;
    }
  }
  finish(stack, stream, alive && !stack.flags()[kNonfiniteAt] && !stack.flags()[kLost]);
  if constexpr (kCluster) meet_cluster();
}
