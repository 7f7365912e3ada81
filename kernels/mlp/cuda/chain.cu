// A chain of linear layers that stays on one multiprocessor: an answer for every message, with all weights on the chip.
//
// Why this is CUDA C++. Triton has registers alone for what stays, so a network of 295 KB takes three multiprocessors
// and two exchanges of words between them. Here a block has a part of each layer's weights in registers and the others
// in shared memory, which together hold some 320 KB of an H100. Triton also ends each wait on a sum over all threads,
// and polls once at a time; here four warps look at the mailbox in turn and hand a message on
// (_persistent/cuda_poll.h).
//
// Thread (row, lane) has every kLanes-th line of 16 bytes of its outputs: those of one row in each pass. A line of the
// input serves all passes, and sums never leave a warp. Each layer's int8 outputs have a place of their own in shared
// memory, so a layer is a product, a sum over lanes, and one barrier.
//
// A message's last word is a command. kRenew: from here on the weights are those of the set that kSecond names; the
// host has written it before the message.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif
#include "_persistent/cuda_lane.h"
#include "_persistent/cuda_poll.h"
#include "mlp/cuda/config.h"

struct Chain {
  char* const shared;
  const int thread;
  uint4 kept[kAllKept ? kAllKept : 1];

  __device__ __forceinline__ explicit Chain(char* memory) : shared(memory), thread(threadIdx.x) {}

  __device__ __forceinline__ uint4* held() const { return reinterpret_cast<uint4*>(shared) + thread; }
  __device__ __forceinline__ signed char* x_at(int place) const {
    return reinterpret_cast<signed char*>(shared + kAtX + place * input_bytes(0));
  }
  __device__ __forceinline__ unsigned* params() const { return reinterpret_cast<unsigned*>(shared + kAtParams); }
  __device__ __forceinline__ unsigned* poll_words() const { return reinterpret_cast<unsigned*>(shared + kAtPoll); }
  __device__ __forceinline__ volatile unsigned* headers() const {  // of two messages in turn
    return reinterpret_cast<volatile unsigned*>(shared + kAtHeaders);
  }

  // Of a layer: the steps in registers first, in the order in which they are multiplied; so they lie in memory too.
  template <int layer = 0>
  __device__ __forceinline__ void load(const uint4* from) {
    if constexpr (layer < kLayers) {
      constexpr int first = steps_before(layer), others = first - kept_before(layer);
#pragma unroll
      for (int step = 0; step < kKept[layer]; ++step)
        kept[kept_before(layer) + step] = load_weights(from + (first + step) * kThreads);
      for (int step = kKept[layer]; step < steps_of(layer); ++step)
        held()[(others + step - kKept[layer]) * kThreads] = load_weights(from + (first + step) * kThreads);
      load<layer + 1>(from);
    }
  }

  // From here on the weights are those of a set.
  __device__ __forceinline__ void renew(const uint4* words, const unsigned* numbers, int set) {
    for (int i = thread; i < kParams; i += kThreads) params()[i] = numbers[set * kParams + i];
    load(words + set * kSetWords + thread);
    meet<1, kThreads>();
  }

  template <int layer>
  __device__ __forceinline__ uint4 line(int step) const {
    constexpr int others = steps_before(layer) - kept_before(layer);
    if (step < kKept[layer]) return kept[kept_before(layer) + step];
    return held()[(others + step - kKept[layer]) * kThreads];
  }

  // An output before its activation, from its sum.
  template <int layer>
  __device__ __forceinline__ float output(int n, float sum) const {
    constexpr int outputs = kWidths[layer + 1];
    const float* of = reinterpret_cast<const float*>(params() + params_before(layer));
    return add_rn(mul_rn(sum, of[n]), of[outputs + n]);
  }

  // The sums of this thread's outputs, which each lane of a row has for int8, and for int4 the lane that is asked.
  template <int layer>
  __device__ __forceinline__ void sums(const signed char* from, float (&total)[passes_of(layer)]) const {
    constexpr int lanes = kLanes[layer], passes = passes_of(layer), each = each_of(layer), wide = kLineParams / 16;
    constexpr int outputs = kWidths[layer + 1];
    const int lane = thread % lanes, row = thread / lanes;
    const uint4* in = reinterpret_cast<const uint4*>(from) + lane * wide;
    const unsigned* of = params() + params_before(layer);
    if constexpr (kGroup == 0) {
      int acc[passes] = {};
#pragma unroll
      for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < passes; ++p) acc[p] = dot<0>(line<layer>(j * passes + p), in + j * lanes, acc[p]);
#pragma unroll
      for (int p = 0; p < passes; ++p) {
        const int n = p * rows_of(layer) + row, of_zero = n < outputs ? static_cast<int>(of[2 * outputs + n]) : 0;
        total[p] = static_cast<float>(sum_over<lanes>(acc[p]) + of_zero);
      }
    } else {
      constexpr int pitch = pitch_of(layer), groups = groups_of(layer), in_group = kGroup / 32 ? kGroup / 32 : 1;
      constexpr int most = groups * in_group < pitch - 1 ? groups * in_group : pitch - 1;
      int* fold_at = reinterpret_cast<int*>(shared + kAtFold);
#pragma unroll
      for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = 0; p < passes; ++p)
          fold_at[(p * rows_of(layer) + row) * pitch + j * lanes + lane] =
              dot<kGroup>(line<layer>(j * passes + p), in + j * lanes * wide, 0);
      __syncwarp();
      const float* scales = reinterpret_cast<const float*>(of + 3 * outputs);
#pragma unroll
      for (int p = 0; p < passes; ++p) {
        const int n = p * rows_of(layer) + row;
        if (n < outputs && lane == p % lanes) total[p] = fold<kGroup>(fold_at + n * pitch, scales + n * groups, most);
      }
    }
  }

  template <int layer>
  __device__ __forceinline__ void layers(const signed char* from, Word* reply, unsigned sequence, bool fine) const {
    constexpr bool last = layer == kLayers - 1;
    constexpr int lanes = kLanes[layer], passes = passes_of(layer), outputs = kWidths[layer + 1];
    constexpr rta::Activation activation = static_cast<rta::Activation>(kActivations[layer]);
    float total[passes];
    sums<layer>(from, total);
    const unsigned* behind = params() + params_before(layer) + outputs * (3 + groups_of(layer));
    const float parameter = float_of(behind[0]);
    signed char* to = reinterpret_cast<signed char*>(shared + kAtInputs + inputs_before(layer + 1));
#pragma unroll
    for (int p = 0; p < passes; ++p) {
      const int n = p * rows_of(layer) + thread / lanes;
      if (n >= outputs || thread % lanes != p % lanes) continue;
      const float y = rta::activate<Lane>(activation, parameter, output<layer>(n, total[p]));
      if constexpr (last)
        store_system(reply + n, word_of(fine ? bits_of(y) : 0x7fc00000u, sequence));
      else
        to[n] = static_cast<signed char>(to_int8(y, static_cast<int>(behind[1])));
    }
    if constexpr (!last) {
      meet<1, kThreads>();
      layers<layer + 1>(to, reply, sequence, fine);
    }
  }
};

// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
extern "C" __global__ void __launch_bounds__(kAllThreads, 1)
    rtaccel_chain(const Word* request, Word* reply, Word* control, const uint4* words, const unsigned* numbers,
                  float inverse, int zero_point, int idle_looks, int second, void*, void*) {
  uint4* const memory = shared_memory();
  for (int at = kAtX / 16 + threadIdx.x; at < kSharedBytes / 16; at += kAllThreads) memory[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  Chain chain(reinterpret_cast<char*>(memory));
  if (chain.thread >= kThreads) {
    const int lane = chain.thread % 32;
    poll<kInputs + 1, kPollers>((chain.thread - kThreads) / 32, lane, request, control, chain.poll_words(), idle_looks,
                                [&](unsigned sequence, const auto& payload, unsigned why) {
                                  const unsigned header = quantized<kInputs>(lane, payload, why, inverse, zero_point,
                                                                             chain.x_at(sequence & 1));
                                  if (lane == kInputs % 32) {
                                    if (header & kRenew) fence_system();
                                    chain.headers()[sequence & 1] = header;
                                  }
                                  fence_block();
                                  arrive<2, kThreads + 32>();
                                });
    return;
  }
  unsigned header = kRenew | (second ? kSecond : 0u), sequence = 0;
  for (bool started = false;; started = true) {
    if (header & kRenew) chain.renew(words, numbers, header & kSecond ? 1 : 0);
    if (started)
      chain.layers<0>(chain.x_at(sequence & 1), reply + (sequence & 1) * kOutputs, sequence, !(header & kNonfinite));
    else if (chain.thread == 0)
      store_system(control + 1, kRunning);
    ++sequence;
    if (chain.thread == 0) static_cast<volatile unsigned*>(chain.poll_words())[kWanted] = sequence;
    meet<2, kThreads + 32>();
    header = chain.headers()[sequence & 1];
    if (header & kEnd) break;
  }
  if (chain.thread == 0) store_system(control + 1, static_cast<volatile unsigned*>(chain.poll_words())[kWhyEnded]);
}
