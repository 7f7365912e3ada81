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
// What one block does not hold is cut among the blocks of a cluster, each with its part of every layer's outputs. After
// a layer they store their parts into each other's shared memory, as words that say themselves that they are there
// (docs/decisions/0070). The first block alone polls the mailbox, and the warp that takes a message passes x on.
//
// The host has rounded x to int8 with the static scale of the first layer, four numbers a word: fewer words are looked
// at and cross the link. `inverse` and `zero_point` are that scale. A launch has them for whoever sends messages.
//
// A message's last word is a command. kNonfinite: x held a NaN or an infinity. kRenew: from here on the weights are
// those of the set that kSecond names; the host has written it before the message.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif
#include "mlp/cuda/config.h"

// Behind the form, which says how often a warp looks.
#include "_persistent/cuda_lane.h"
#include "_persistent/cuda_poll.h"

struct Chain {
  char* const shared;
  const int thread;
  uint4 kept[kAllKept ? kAllKept : 1];

  __device__ __forceinline__ explicit Chain(char* memory) : shared(memory), thread(threadIdx.x) {}

  static __device__ __forceinline__ int program() { return kParts > 1 ? static_cast<int>(blockIdx.x) : 0; }

  __device__ __forceinline__ uint4* held() const { return reinterpret_cast<uint4*>(shared) + thread; }
  __device__ __forceinline__ signed char* x_at(int place) const {
    return reinterpret_cast<signed char*>(shared + kAtX + place * input_bytes(0));
  }
  __device__ __forceinline__ unsigned* params() const { return reinterpret_cast<unsigned*>(shared + kAtParams); }
  __device__ __forceinline__ unsigned* poll_words() const { return reinterpret_cast<unsigned*>(shared + kAtPoll); }
  // Of two messages in turn.
  __device__ __forceinline__ volatile unsigned* headers() const {
    return reinterpret_cast<volatile unsigned*>(shared + kAtHeaders);
  }
  // Behind them the number of the newest message that lacks a word of another block, and a bit above it: 0 is a number.
  __device__ __forceinline__ volatile Word* lacking() const {
    return reinterpret_cast<volatile Word*>(shared + kAtHeaders + 8);
  }

  // Of a layer: the steps in registers first, in the order in which they are multiplied; so they lie in memory too.
  template <int layer = 0>
  __device__ __forceinline__ void load(const uint4* from) {
    if constexpr (layer < kLayers) {
      constexpr int first = steps_before(layer), others = first - kept_before(layer), own = kKept[layer];
#pragma unroll
      for (int step = 0; step < own; ++step)
        kept[kept_before(layer) + step] = load_weights(from + (first + step) * kThreads);
      for (int step = own; step < steps_of(layer); ++step)
        held()[(others + step - own) * kThreads] = load_weights(from + (first + step) * kThreads);
      load<layer + 1>(from);
    }
  }

  // From here on the weights are those of a set.
  __device__ __forceinline__ void renew(const uint4* words, const unsigned* numbers, int set) {
    for (int i = thread; i < kParams; i += kThreads) params()[i] = numbers[set * kSetParams + program() * kParams + i];
    load(words + set * kSetWords + program() * kBlockWords + thread);
    meet<1, kThreads>();
  }

  template <int layer>
  __device__ __forceinline__ uint4 line(int step) const {
    constexpr int others = steps_before(layer) - kept_before(layer), own = kKept[layer];
    if (step < own) return kept[kept_before(layer) + step];
    return held()[(others + step - own) * kThreads];
  }

  // An output before its activation, from its sum.
  template <int layer>
  __device__ __forceinline__ float output(int n, float sum) const {
    constexpr int outputs = own_of(layer);
    const float* of = reinterpret_cast<const float*>(params() + params_before(layer));
    return add_rn(mul_rn(sum, of[n]), of[outputs + n]);
  }

  // The sums of this thread's outputs in passes `begin` .. `end` - 1, which each lane of a row has for int8, and for
  // int4 the lane that is asked.
  template <int layer, int begin, int end>
  __device__ __forceinline__ void sums(const signed char* from, float (&total)[end - begin]) const {
    constexpr int lanes = kLanes[layer], passes = passes_of(layer), each = each_of(layer), wide = kLineParams / 16;
    constexpr int outputs = own_of(layer);
    const int lane = thread % lanes, row = thread / lanes;
    const uint4* in = reinterpret_cast<const uint4*>(from) + lane * wide;
    const unsigned* of = params() + params_before(layer);
    if constexpr (kGroup == 0) {
      int acc[end - begin] = {};
#pragma unroll
      for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = begin; p < end; ++p)
          acc[p - begin] = dot<0>(line<layer>(j * passes + p), in + j * lanes, acc[p - begin]);
#pragma unroll
      for (int p = begin; p < end; ++p) {
        const int n = p * rows_of(layer) + row, of_zero = n < outputs ? static_cast<int>(of[2 * outputs + n]) : 0;
        total[p - begin] = static_cast<float>(sum_over<lanes>(acc[p - begin]) + of_zero);
      }
    } else {
      constexpr int pitch = pitch_of(layer), groups = groups_of(layer), in_group = kGroup / 32 ? kGroup / 32 : 1;
      constexpr int most = groups * in_group < pitch - 1 ? groups * in_group : pitch - 1;
      int* fold_at = reinterpret_cast<int*>(shared + kAtFold);
#pragma unroll
      for (int j = 0; j < each; ++j)
#pragma unroll
        for (int p = begin; p < end; ++p)
          fold_at[(p * rows_of(layer) + row) * pitch + j * lanes + lane] =
              dot<kGroup>(line<layer>(j * passes + p), in + j * lanes * wide, 0);
      __syncwarp();
      const float* scales = reinterpret_cast<const float*>(of + 3 * outputs);
#pragma unroll
      for (int p = begin; p < end; ++p) {
        const int n = p * rows_of(layer) + row;
        if (n < outputs && lane == p % lanes)
          total[p - begin] = fold<kGroup>(fold_at + n * pitch, scales + n * groups, most);
      }
    }
  }

  // -- of a cluster ----------------------------------------------------------------------------------------------
  static __device__ __forceinline__ Word lacks(unsigned sequence) { return word_of(sequence, 1); }
  __device__ __forceinline__ bool complete(unsigned sequence) const {
    return kParts == 1 || *lacking() != lacks(sequence);
  }
  template <int layer>
  __device__ __forceinline__ Word* slot(unsigned sequence) const {
    constexpr int words = words_of(layer) + (layer == 0);
    return reinterpret_cast<Word*>(shared + kAtExchange) + slots_before(layer) + (sequence & 1) * words;
  }
  // The input of a layer: this block's part to all others, and theirs. Who lacks a word gives none, so that all do.
  template <int layer>
  __device__ __forceinline__ void share(signed char* bytes, unsigned sequence) const {
    constexpr int all = words_of(layer), own = own_of(layer - 1) / 4;
    unsigned* words = reinterpret_cast<unsigned*>(bytes);
    Word* at = slot<layer>(sequence);
    for (int i = thread; i < own * kParts; i += kThreads) {
      const int block = i / own, word = program() * own + i % own;
      if (block != program() && word < all && complete(sequence))
        store_cluster(at + word, block, word_of(words[word], sequence));
    }
    for (int word = thread; word < all; word += kThreads) {
      if (word / own == program()) continue;
      int looks = 0;
      Word found = load_cluster(at + word);
      while (number_of(found) != sequence && ++looks < RTA_LOOKS) found = load_cluster(at + word);
      if (number_of(found) != sequence) *lacking() = lacks(sequence);
      words[word] = static_cast<unsigned>(found);
    }
  }
  // x of a message and its header, from the warp of the first block that took it: each lane passes on the words that it
  // wrote (`taken`), and one has the header.
  __device__ __forceinline__ void pass_on(int lane, unsigned header, unsigned sequence) const {
    const unsigned* words = reinterpret_cast<const unsigned*>(x_at(sequence & 1));
    Word* at = slot<0>(sequence);
    for (int word = lane; word < words_of(0); word += 32)
      for (int block = 1; block < kParts; ++block) store_cluster(at + word, block, word_of(words[word], sequence));
    if (lane == kXWords % 32)
      for (int block = 1; block < kParts; ++block) store_cluster(at + words_of(0), block, word_of(header, sequence));
  }
  // The same in another block, however long it takes: the header says when to end.
  __device__ __forceinline__ void receive(unsigned sequence) const {
    unsigned* words = reinterpret_cast<unsigned*>(x_at(sequence & 1));
    const Word* from = slot<0>(sequence);
    for (int word = thread; word <= words_of(0); word += kThreads) {
      Word found = load_cluster(from + word);
      while (number_of(found) != sequence) found = load_cluster(from + word);
      if (word < words_of(0)) {
        words[word] = static_cast<unsigned>(found);
      } else {
        if (found & kRenew) fence_system();
        headers()[sequence & 1] = static_cast<unsigned>(found);
      }
    }
    meet<1, kThreads>();
  }

  // The outputs of passes `begin` .. `end` - 1: to the next layer's input, or, of the last one, to the host.
  template <int layer, int begin, int end>
  __device__ __forceinline__ void outputs_of(const signed char* from, Word* reply, unsigned sequence, bool fine) const {
    constexpr bool last = layer == kLayers - 1;
    constexpr int lanes = kLanes[layer], outputs = own_of(layer);
    constexpr rta::Activation activation = static_cast<rta::Activation>(kActivations[layer]);
    float total[end - begin];
    sums<layer, begin, end>(from, total);
    const unsigned* behind = params() + params_before(layer) + outputs * (3 + groups_of(layer));
    const float parameter = float_of(behind[0]);
    signed char* to = reinterpret_cast<signed char*>(shared + kAtInputs + inputs_before(layer + 1));
#pragma unroll
    for (int p = begin; p < end; ++p) {
      const int n = p * rows_of(layer) + thread / lanes;
      const int at = program() * outputs + n;  // among those of all blocks
      if (n >= outputs || thread % lanes != p % lanes || (kParts > 1 && at >= kWidths[layer + 1])) continue;
      const float y = rta::activate<Lane>(activation, parameter, output<layer>(n, total[p - begin]));
      if constexpr (last)
        store_system(reply + at, word_of(fine && complete(sequence) ? bits_of(y) : 0x7fc00000u, sequence));
      else
        to[at] = static_cast<signed char>(to_int8(y, static_cast<int>(behind[1])));
    }
  }

  // The last layer's last pass is apart: the link has the others' answers while that is computed.
  template <int layer>
  __device__ __forceinline__ void layers(const signed char* from, Word* reply, unsigned sequence, bool fine) const {
    constexpr bool last = layer == kLayers - 1;
    constexpr int passes = passes_of(layer), early = last && passes > 1 ? passes - 1 : passes;
    outputs_of<layer, 0, early>(from, reply, sequence, fine);
    if constexpr (early < passes) outputs_of<layer, early, passes>(from, reply, sequence, fine);
    if constexpr (!last) {
      signed char* to = reinterpret_cast<signed char*>(shared + kAtInputs + inputs_before(layer + 1));
      meet<1, kThreads>();
      if constexpr (kParts > 1) {
        share<layer + 1>(to, sequence);
        meet<1, kThreads>();
      }
      layers<layer + 1>(to, reply, sequence, fine);
    }
  }
};

// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
#if RTA_PARTS > 1 && defined(__CUDACC__)
#define RTA_CLUSTER_DIMS __cluster_dims__(RTA_PARTS, 1, 1)
#else
#define RTA_CLUSTER_DIMS
#endif
extern "C" __global__ void RTA_CLUSTER_DIMS __launch_bounds__(kAllThreads, 1)
    rtaccel_chain(const Word* request, Word* reply, Word* control, const uint4* words, const unsigned* numbers,
                  float /*inverse*/, int /*zero_point*/, int idle_looks, int second, void*, void*) {
  uint4* const memory = shared_memory();
  for (int at = kAtX / 16 + threadIdx.x; at < kSharedBytes / 16; at += kAllThreads) memory[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  if constexpr (kParts > 1) meet_cluster();
  Chain chain(reinterpret_cast<char*>(memory));
  if (chain.thread >= kThreads) {
    if (chain.program() > 0) return;
    const int lane = chain.thread % 32;
    poll<kXWords + 1, kPollers>((chain.thread - kThreads) / 32, lane, request, control, chain.poll_words(), idle_looks,
                                [&](unsigned sequence, const auto& payload, unsigned why) {
                                  const unsigned header = taken<kXWords>(lane, payload, why, chain.x_at(sequence & 1));
                                  if (lane == kXWords % 32) {
                                    if (header & kRenew) fence_system();
                                    chain.headers()[sequence & 1] = header;
                                  }
                                  if constexpr (kParts > 1) chain.pass_on(lane, header, sequence);
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
    else if (chain.thread == 0 && chain.program() == 0)
      store_system(control + 1, kRunning);
    ++sequence;
    if (chain.program() == 0) {
      if (chain.thread == 0) static_cast<volatile unsigned*>(chain.poll_words())[kWanted] = sequence;
      meet<2, kThreads + 32>();
    } else {
      chain.receive(sequence);
    }
    header = chain.headers()[sequence & 1];
    if (header & kEnd) break;
  }
  if constexpr (kParts > 1) meet_cluster();
  if (chain.thread == 0 && chain.program() == 0)
    store_system(control + 1, static_cast<volatile unsigned*>(chain.poll_words())[kWhyEnded]);
}
