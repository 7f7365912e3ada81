// One recurrent layer in float32 over all time steps, in one launch: its weights of h stay on the chip.
//
// Products with x were made before, of all time steps at once. Row r of gx has those of its gates, with their biases:
// r = (m * time + t) * batch + b, or (m * batch + b) * time + t with batch_first, and in each row the directions one
// behind the other. What is left of a time step is W_h h and the cell.
//
// kLanes threads share a unit, and each has every kLanes-th line of four numbers of its gates' rows: in registers, and
// behind those in shared memory. All lanes of a unit add up the same sums and compute the same cell, so states are in
// registers. h has two places in shared memory that take turns: a time step has one barrier.
//
// Programs of a stream are a cluster. Each stores its units' h into the shared memory of all others as numbered words,
// in two slots that take turns, as those of window.cu do (tests/gpu/protocols/cluster.py). A word of time step t is
// written over in t + 2. Its writer has then seen the words of t + 1 of every other program, and those were sent behind
// the barrier that ends time step t there. So nobody still looks at it. A program that lacks a word sends no more, and
// all that it has made is NaN.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif
#include "_persistent/cuda_numbered.h"

#ifndef RTA_TIME
#define RTA_CELL 0  // 0: LSTM, 1: GRU, 2: RNN with tanh, 3: RNN with ReLU
#define RTA_HIDDEN 100
#define RTA_TIME 50
#define RTA_BATCH 1  // streams of a sample
#define RTA_DIRECTIONS 1
#define RTA_BATCH_FIRST 1
#define RTA_LAST 0     // 1: y is the row of the newest time step alone
#define RTA_GIVEN 0    // 1: h0 and c0 come in; else they are zeros
#define RTA_STATES 0   // 1: the states behind the window go out
#define RTA_COUNTED 0  // 1: streams say how many time steps they have; y behind them is 0
#define RTA_LONGEST 0  // 1: one of a sample's streams has to have all
#define RTA_UNITS 100  // of a program
#define RTA_PROGRAMS 1
#define RTA_LANES 4
#define RTA_THREADS 416     // units * lanes, in whole warps
#define RTA_KEPT 28         // steps whose weights are in registers; a step is four numbers of every thread
#define RTA_HELD 0          // further steps whose weights are in shared memory
#define RTA_SHARED_BYTES 0  // 0: whatever it comes to
#define RTA_LOOKS 4194304   // looks for a word of another program before it is given up
#endif

constexpr int kHidden = RTA_HIDDEN, kTime = RTA_TIME, kBatch = RTA_BATCH, kDirections = RTA_DIRECTIONS;
constexpr int kUnits = RTA_UNITS, kPrograms = RTA_PROGRAMS, kLanes = RTA_LANES, kThreads = RTA_THREADS;
constexpr int kKept = RTA_KEPT, kHeld = RTA_HELD, kMostLooks = RTA_LOOKS;
constexpr bool kLast = RTA_LAST, kGiven = RTA_GIVEN, kStates = RTA_STATES, kCounted = RTA_COUNTED;
constexpr bool kCluster = kPrograms > 1, kLong = RTA_CELL == 0;
constexpr int kGates = RTA_CELL == 0 ? 4 : RTA_CELL == 1 ? 3 : 1;
#include "recurrent/cuda/lengths.h"

constexpr int kWide = kPrograms * kUnits;  // units, with those that are there to fill up
constexpr int kChunks = (kWide + 4 * kLanes - 1) / (4 * kLanes), kSteps = kGates * kChunks;
constexpr int kBytesH = 16 * kChunks * kLanes;

// Shared memory, in bytes from its beginning.
constexpr int kAtH = 16 * kHeld * kThreads;
constexpr int kAtLost = kAtH + 2 * kBytesH;
constexpr int kAtExchange = kAtLost + 16;
constexpr int kSharedBytes = kAtExchange + (kCluster ? (2 * 8 * kWide + 15) / 16 * 16 : 0);

static_assert(RTA_SHARED_BYTES == 0 || RTA_SHARED_BYTES == kSharedBytes, "config.py counts otherwise");
static_assert(kKept + kHeld == kSteps, "all weights are on the chip");
static_assert(kThreads % 32 == 0 && kUnits * kLanes <= kThreads && 32 % kLanes == 0, "threads do not fit the units");
static_assert(kUnits % 4 == 0, "lines of h are four units");

static __device__ __forceinline__ float other_lane(float v, int step) {
  return float_of(static_cast<unsigned>(__shfl_xor_sync(0xffffffffu, static_cast<int>(bits_of(v)), step)));
}
static __device__ __forceinline__ float sigmoid(float t) { return quotient_near(1.0f, 1.0f + exp_near(-t)); }
static __device__ __forceinline__ float tanh_near(float t) {
  const float e = exp_near(-2.0f * (t < 0.0f ? -t : t)), r = quotient_near(1.0f - e, 1.0f + e);
  return t < 0.0f ? -r : r;
}

// h, and of an LSTM c, behind a time step: from gates of x with their biases, and those of h.
static __device__ __forceinline__ void cell(const float (&x)[kGates], const float (&from_h)[kGates], float bias_n,
                                            float& h, float& c) {
  if constexpr (RTA_CELL == 0) {
    c = fma_rn(sigmoid(x[1] + from_h[1]), c, sigmoid(x[0] + from_h[0]) * tanh_near(x[2] + from_h[2]));
    h = sigmoid(x[3] + from_h[3]) * tanh_near(c);
  } else if constexpr (RTA_CELL == 1) {
    const float z = sigmoid(x[1] + from_h[1]);
    const float n = tanh_near(fma_rn(sigmoid(x[0] + from_h[0]), from_h[2] + bias_n, x[2]));
    h = fma_rn(z, h, (1.0f - z) * n);
  } else if constexpr (RTA_CELL == 2) {
    h = tanh_near(x[0] + from_h[0]);
  } else {
    const float t = x[0] + from_h[0];
    h = t < 0.0f ? 0.0f : t;
  }
}

struct Layer {
  char* const shared;
  const int program, thread, unit, lane, at;  // at: the unit's place among all
  int turn = 0;                               // which place of h is read
  uint4 kept[kKept ? kKept : 1];

  __device__ __forceinline__ explicit Layer(char* memory)
      : shared(memory),
        program(blockIdx.x),
        thread(threadIdx.x),
        unit(threadIdx.x / kLanes),
        lane(threadIdx.x % kLanes),
        at(blockIdx.x * kUnits + threadIdx.x / kLanes) {}

  __device__ __forceinline__ bool there() const { return unit < kUnits && at < kHidden; }
  __device__ __forceinline__ float* h(int place) const {
    return reinterpret_cast<float*>(shared + kAtH + place * kBytesH);
  }
  __device__ __forceinline__ uint4* held() const { return reinterpret_cast<uint4*>(shared) + thread; }
  // Two that take turns: while one thread still looks, others may lack a word of the time step behind it.
  __device__ __forceinline__ volatile unsigned& lost(int t) const {
    return reinterpret_cast<volatile unsigned*>(shared + kAtLost)[t & 1];
  }
  __device__ __forceinline__ Word* slot(int t) const {
    return reinterpret_cast<Word*>(shared + kAtExchange) + (t & 1) * kWide;
  }

  __device__ __forceinline__ void clear() const {
    for (int i = kAtH / 16 + thread; i < kSharedBytes / 16; i += kThreads)
      reinterpret_cast<uint4*>(shared)[i] = uint4{0, 0, 0, 0};
    if constexpr (kCluster)
      meet_cluster();
    else
      __syncthreads();
  }

  __device__ __forceinline__ void load(const uint4* words) {
    const uint4* from = words + static_cast<long long>(program) * kSteps * kThreads + thread;
#pragma unroll
    for (int step = 0; step < kKept; ++step) kept[step] = load_weights(from + step * kThreads);
#pragma unroll 8
    for (int step = 0; step < kHeld; ++step) held()[step * kThreads] = load_weights(from + (kKept + step) * kThreads);
  }

  // W_h h of the unit's gates, in all of its lanes.
  __device__ __forceinline__ void products(float (&sums)[kGates]) const {
    const uint4* from = reinterpret_cast<const uint4*>(h(turn)) + lane;
    float odd[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) sums[g] = odd[g] = 0.0f;
#pragma unroll
    for (int chunk = 0; chunk < kChunks; ++chunk) {
      const uint4 v = from[chunk * kLanes];
#pragma unroll
      for (int g = 0; g < kGates; ++g) {
        const int step = chunk * kGates + g;
        const uint4 w = step < kKept ? kept[step < kKept ? step : 0] : held()[(step - kKept) * kThreads];
        sums[g] = fma_rn(float_of(w.x), float_of(v.x), sums[g]);
        odd[g] = fma_rn(float_of(w.y), float_of(v.y), odd[g]);
        sums[g] = fma_rn(float_of(w.z), float_of(v.z), sums[g]);
        odd[g] = fma_rn(float_of(w.w), float_of(v.w), odd[g]);
      }
    }
#pragma unroll
    for (int g = 0; g < kGates; ++g) sums[g] = sums[g] + odd[g];
#pragma unroll
    for (int step = kLanes / 2; step; step /= 2)
#pragma unroll
      for (int g = 0; g < kGates; ++g) sums[g] = sums[g] + other_lane(sums[g], step);
  }

  // The unit's new h for all programs; the caller waits for its own. Lanes share the others.
  __device__ __forceinline__ void publish(float v, int t) const {
    if (unit >= kUnits) return;
    if (lane == 0) h(turn ^ 1)[at] = v;
    if constexpr (kCluster)
      for (int other = lane; other < kPrograms; other += kLanes)
        if (other != program) store_cluster(slot(t) + at, other, word_of(bits_of(v), t + 1));
  }
  __device__ __forceinline__ void receive(int t) const {
    for (int i = thread; i < kWide; i += kThreads) {
      if (i / kUnits == program) continue;
      const Word* from = slot(t) + i;
      int looks = 0;
      Word word = load_cluster(from);
      while (number_of(word) != static_cast<unsigned>(t + 1) && ++looks < kMostLooks) word = load_cluster(from);
      if (number_of(word) != static_cast<unsigned>(t + 1)) lost(t) = 1;
      h(turn ^ 1)[i] = float_of(static_cast<unsigned>(word));
    }
  }
};

#if RTA_PROGRAMS > 1 && defined(__CUDACC__)
#define RTA_CLUSTER_DIMS __cluster_dims__(RTA_PROGRAMS, 1, 1)
#else
#define RTA_CLUSTER_DIMS
#endif

// first_stream: of this launch, a stream in one direction. state_rows, first_state: rows of all layers' states of a
// stream, and the first one of this layer. The last two parameters are scratch memory, which every stored kernel is
// passed and this one has no use for.
extern "C" __global__ void RTA_CLUSTER_DIMS __launch_bounds__(kThreads, 1)
    rtaccel_layer(const float* gx, float* y, const long long* counts, const float* h0, const float* c0, float* hn,
                  float* cn, const uint4* words, const float* bias_n, int first_stream, int state_rows, int first_state,
                  void*, void*) {
  Layer layer(reinterpret_cast<char*>(shared_memory()));
  const int number = first_stream + static_cast<int>(blockIdx.y), d = number % kDirections,
            stream = number / kDirections;
  const long long sample = stream / kBatch;
  const int b = stream % kBatch;
  layer.clear();
  layer.load(words + static_cast<long long>(d) * kPrograms * kSteps * kThreads);

  bool alive = true;
  const int steps = steps_of(counts, stream, alive);
  const long long state = ((sample * state_rows + first_state + d) * kBatch + b) * kHidden;
  const int at = layer.there() ? layer.at : 0;
  float h = 0.0f, c = 0.0f;
  if constexpr (kGiven) {
    for (int i = layer.thread; i < kHidden; i += kThreads) layer.h(0)[i] = h0[state + i];
    if (layer.there()) {
      h = h0[state + at];
      if (kLong) c = c0[state + at];
    }
  }
  const float bias = RTA_CELL == 1 && bias_n ? bias_n[d * kHidden + at] : 0.0f;

  // Rows of gx and y. The other direction begins at the stream's own end.
  const auto row = [&](int step) {
    return (sample * (kTime * kBatch) + (RTA_BATCH_FIRST ? b * kTime + step : step * kBatch + b)) * kDirections + d;
  };
  const int way = (d ? -1 : 1) * (RTA_BATCH_FIRST ? 1 : kBatch) * kDirections, begin = d ? steps - 1 : 0;
  const float* from = gx + row(begin) * (kGates * kHidden) + at;
  float* const to = y + (kLast ? static_cast<long long>(stream) * kDirections + d : row(begin)) * kHidden + at;
  const auto store_y = [&](int t, float v) {
    if (!kLast)
      to[static_cast<long long>(t) * (way * kHidden)] = v;
    else if ((d ? steps - 1 - t : t) == kTime - 1)
      *to = v;
  };
  float next[kGates];
  const auto fetch = [&] {
#pragma unroll
    for (int g = 0; g < kGates; ++g) next[g] = layer.there() ? from[g * kHidden] : 0.0f;
    from += way * (kGates * kHidden);
  };
  fetch();
  __syncthreads();

  for (int t = 0; t < steps; ++t) {
    float x[kGates], sums[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) x[g] = next[g];
    if (t + 1 < steps) fetch();
    layer.products(sums);
    cell(x, sums, bias, h, c);
    layer.publish(h, t);
    if (layer.lane == 0 && layer.there()) store_y(t, h);
    if constexpr (kCluster) {
      if (t + 1 == steps) break;  // nobody reads what the last one wrote
      layer.receive(t);
    }
    __syncthreads();
    layer.turn ^= 1;
    if constexpr (kCluster)
      if (layer.lost(t)) break;
  }

  if (kCluster) alive = alive && !layer.lost(0) && !layer.lost(1);
  if (layer.lane == 0 && layer.there()) {
    const float nan = float_of(0x7fc00000u);
    if (kStates) {
      hn[state + at] = alive ? h : nan;
      if (kLong) cn[state + at] = alive ? c : nan;
    }
    for (int t = 0; !alive && t < steps; ++t) store_y(t, nan);
    for (int step = steps; kCounted && step < kTime; ++step)  // that a stream does not have
      if (!kLast)
        y[row(step) * kHidden + at] = 0.0f;
      else if (step == kTime - 1)
        *to = 0.0f;
  }
  if constexpr (kCluster) meet_cluster();
}
