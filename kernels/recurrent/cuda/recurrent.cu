// A stack of LSTM or GRU that stays on the GPU: an answer for every message, with all weights on the chip.
//
// Why this is CUDA C++. Triton decides by itself what lies in shared memory: a program has no way to put its weights
// there, so those that its registers do not hold are read again, from the L2 cache, in every time step. Here each block
// has the first of its weights in registers, the next in shared memory, which it fills once and by its own order, and
// only what fits neither is read again. The form (config.h) says how many of each. Triton also computes
// W_h h(t - 1) of the first layer after x(t) has come; here all of those sums are made once the answer of t - 1 is out.
//
// Thread (unit, lane) has the unit's rows of all gates, every kLanes-th line of 16 bytes: a line of the operand serves
// all gates, and sums never leave a warp. Blocks are kPrograms parts of every layer's units; after each layer they
// exchange its int8 h by words that say themselves that they are there (docs/decisions/0013): through L2, or, where the
// blocks are a cluster, by their shared memory. Block 0 alone reads the mailbox and passes x on. There each thread
// waits for words of its own and then for the block; or further warps look in turn (_persistent/cuda_poll.h).
//
// A message's last word is a command. kReset: states are zero before the time step. kSave: no time step; the states go
// to `past`, words of the host's memory, h of all layers and then c. kLoad: no time step; they come from there.
// kSpoiled with kLoad: they hold what is no number. kRenew, beside any of them: from here on the weights are those of
// the set that kSecond names; the host has written it before the message. Nobody reads the other set any more once all
// words of the answer are there.
#ifdef __CUDACC__
#include "_persistent/cuda_words.h"
#else
#include "cuda_on_host.h"
#endif
#include "recurrent/cuda/config.h"
#include "recurrent/cuda/message.h"
#include "recurrent/cuda/weights.h"

constexpr rta::Activation kActivation = static_cast<rta::Activation>(RTA_ACTIVATION);  // its row in table.def

// The linear layer behind the stack, from its int8 input: by block 0, a warp for an output.
static __device__ __forceinline__ void head(const Stack& stack, const Weights& from, Word* reply, unsigned sequence,
                                            bool alive) {
  const int set = stack.flags()[kSet];
  const uint4* lines =
      kHeadHeld ? reinterpret_cast<const uint4*>(stack.shared + kAtHead) : from.head_words + set * kSetHeadWords;
  const float* params = from.head_params + set * kSetHeadParams;
  const int* compensation = from.head_compensation + set * kOutputs;
  const int warp = stack.thread / 32, lane = stack.thread % 32;
  constexpr int wide = kHeadLineParams / 16;
  const uint4* in = reinterpret_cast<const uint4*>(stack.y());
  for (int n = warp; n < kOutputs; n += kWarps) {
    float total;
    if constexpr (kHeadGroup == 0) {
      int acc = 0;
      for (int at = lane; at < kHeadLines; at += 32)
        acc = dot<0>(kHeadHeld ? lines[n * kHeadLines + at] : load_weights(lines + n * kHeadLines + at), in + at, acc);
      total = static_cast<float>(sum_over<32>(acc) + compensation[n]);
    } else {
      int* own = reinterpret_cast<int*>(stack.shared + kAtHeadFold) + warp * kHeadLines;
      for (int at = lane; at < kHeadLines; at += 32)
        own[at] = dot<kHeadGroup>(kHeadHeld ? lines[n * kHeadLines + at] : load_weights(lines + n * kHeadLines + at),
                                  in + at * wide, 0);
      __syncwarp();
      constexpr int each = kHeadGroup / 32 ? kHeadGroup / 32 : 1;
      constexpr int most = kGroupsY * each < kHeadLines ? kGroupsY * each : kHeadLines;
      total = fold<kHeadGroup>(own, params + 2 * kOutputs + 1 + n * kGroupsY, most);
      __syncwarp();
    }
    const float t = add_rn(mul_rn(total, params[n]), params[kOutputs + n]);
    const float out = rta::activate<Lane>(kActivation, params[2 * kOutputs], t);
    if (lane == 0)
      store_system(reply + (sequence & 1) * kOutputs + n, word_of(alive ? bits_of(out) : 0x7fc00000u, sequence));
  }
}

struct Answer {
  Word* reply;
  float h_inverse, y_inverse;
  int y_zero_point;
};

// The layers of a time step from `layer` on; the answer goes out on the way. alive ends with a word that never came.
template <int layer>
static __device__ __forceinline__ void layers(const Stack& stack, Word* exchange, const Weights& weights,
                                              const Answer& to, unsigned sequence, bool& alive) {
  constexpr bool last = layer == kLayers - 1;
  const float h = stack.template time_step<layer>();
  const int at = stack.program * kUnits + stack.unit;
  if (stack.lane == 0 && stack.unit < kUnits) {
    stack.h(layer)[at] = static_cast<signed char>(to_int8(mul_rn(h, to.h_inverse), 0));
    if (last && kHead) stack.y()[at] = static_cast<signed char>(to_int8(mul_rn(h, to.y_inverse), to.y_zero_point));
    if (last && !kHead && at < kHidden)
      store_system(to.reply + (sequence & 1) * kHidden + at, word_of(alive ? bits_of(h) : 0x7fc00000u, sequence));
  }
  meet<1, kThreads>();
  if constexpr (kPrograms > 1) {
    if constexpr (last && kHead) {  // first of all what the host waits for
      Word* slot = exchange + kExchangeY + (sequence & 1) * kSlotH;
      stack.template publish<true>(slot, stack.y(), sequence);
      if (stack.program == 0) {
        stack.receive(slot, stack.y(), sequence);
        meet<1, kThreads>();
        alive = alive && !stack.flags()[kLost];
      }
    }
    Word* slot = stack.slot_h(exchange, layer, sequence);
    stack.publish(slot, stack.h(layer), sequence);
    if constexpr (!last) {
      stack.receive(slot, stack.h(layer), sequence);
      meet<1, kThreads>();
      alive = alive && !stack.flags()[kLost];
    }
  }
  if constexpr (last && kHead) {
    if (stack.program == 0) head(stack, weights, to.reply, sequence, alive);
  }
  if constexpr (!last) layers<layer + 1>(stack, exchange, weights, to, sequence, alive);
}

static __device__ __forceinline__ unsigned await_past(const Stack& stack, const Word* from, unsigned sequence) {
  Word word = load_system(from);
  for (int looks = 1; number_of(word) != sequence && looks < kMostLooks; ++looks) word = load_system(from);
  if (number_of(word) != sequence) stack.flags()[kLost] = 1;
  return static_cast<unsigned>(word);
}

// A message that is no time step: the states to the host or from it. All blocks go in step as in a time step.
static __device__ __forceinline__ void exchange_states(const Stack& stack, Word* past, Word* exchange, const Answer& to,
                                                       unsigned sequence, bool load, bool alive) {
  const int at = stack.program * kUnits + stack.unit;
  if (stack.lane == 0 && at < kHidden && stack.unit < kUnits)
    for (int layer = 0; layer < kLayers; ++layer) {
      Word *const of_h = past + layer * kHidden + at, *const of_c = of_h + kLayers * kHidden;
      if (load) {
        stack.state_h(layer) = float_of(await_past(stack, of_h, sequence));
        if (kGates == 4) stack.state_c(layer) = float_of(await_past(stack, of_c, sequence));
        stack.h(layer)[at] = static_cast<signed char>(to_int8(mul_rn(stack.state_h(layer), to.h_inverse), 0));
      } else {
        const unsigned nan = 0x7fc00000u;
        store_system(of_h, word_of(alive ? bits_of(stack.state_h(layer)) : nan, sequence));
        if (kGates == 4) store_system(of_c, word_of(alive ? bits_of(stack.state_c(layer)) : nan, sequence));
      }
    }
  meet<1, kThreads>();
  if (kPrograms > 1)
    for (int layer = 0; layer < kLayers; ++layer)
      stack.publish(stack.slot_h(exchange, layer, sequence), stack.h(layer), sequence);
  if (kHead ? stack.program == 0 : true)
    for (int n = stack.thread; n < (kHead ? kOutputs : kUnits); n += kThreads) {
      const int place = kHead ? n : stack.program * kUnits + n;
      if (place < kOutputs) store_system(to.reply + (sequence & 1) * kOutputs + place, word_of(0, sequence));
    }
  if (kPrograms > 1)
    // The last layer's are awaited with those of a time step, and then the block.
    for (int layer = 0; layer < kLayers - 1; ++layer)
      stack.receive(stack.slot_h(exchange, layer, sequence), stack.h(layer), sequence);
}

// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
#if RTA_CLUSTER && defined(__CUDACC__)
#define RTA_CLUSTER_DIMS __cluster_dims__(RTA_PROGRAMS, 1, 1)
#else
#define RTA_CLUSTER_DIMS
#endif
extern "C" __global__ void RTA_CLUSTER_DIMS __launch_bounds__(kAllThreads, 1)
    rtaccel_recurrent(const Word* request, Word* reply, Word* control, Word* past, const uint4* words,
                      const float* params, const int* compensation, const float* scales, const uint4* head_words,
                      const float* head_params, const int* head_compensation, Word* in_l2, float x_inverse,
                      int x_zero_point, float h_inverse, float y_inverse, int y_zero_point, int idle_looks, int second,
                      void*, void*) {
  uint4* const memory = shared_memory();
  char* const shared = reinterpret_cast<char*>(memory);
  clear(memory);
  Stack stack(shared);
  Word* const exchange = stack.exchange(in_l2);
  if (kPollers > 0 && stack.thread >= kThreads) {
    if (stack.program == 0)
      poll_for(stack, (stack.thread - kThreads) / 32, request, control, exchange, x_inverse, x_zero_point, idle_looks);
    return;
  }
  const Weights weights{words, params, compensation, scales, head_words, head_params, head_compensation};
  const Answer to{reply, h_inverse, y_inverse, y_zero_point};

  bool alive = true, started = false;
  unsigned sequence = 0, header = kRenew | (second ? kSecond : 0u);
  for (;;) {
    if (header & kRenew) {
      renew(stack, weights, header & kSecond ? 1 : 0);
      header &= ~(kRenew | kSecond);
      if (!started) {  // numbers come again
        started = true;
        header = kDone;
        if (stack.program == 0 && stack.thread == 0) store_system(control + 1, kRunning);
      }
    } else {
      if (header & (kSave | kLoad)) {
        alive = alive && !(header & kNonfinite && header & kLoad);
        exchange_states(stack, past, exchange, to, sequence, header & kLoad, alive);
        alive = alive && !stack.flags()[kLost];
      } else {
        alive = alive && !(header & kNonfinite);
        layers<0>(stack, exchange, weights, to, sequence, alive);
      }
      if constexpr (kPrograms > 1) {
        stack.receive(stack.slot_h(exchange, kLayers - 1, sequence), stack.h(kLayers - 1), sequence);
        meet<1, kThreads>();
        alive = alive && !stack.flags()[kLost];
      }
      header = kDone;  // what the next time step needs of this one is made while nobody waits
    }
    stack.prepare_all();
    if (header != kDone) {  // with new weights; a time step writes over the h that others still read
      meet<1, kThreads>();
      continue;
    }
    if (kPollers > 0) stack.turn = (sequence + 1) & 1;
    header = take(stack, request, control, exchange, ++sequence, x_inverse, x_zero_point, idle_looks);
    if (header & kEnd) break;
    if (stack.thread == 0) {  // between the barrier in `take` and the next: nobody reads these, nobody writes them
      stack.flags()[kNonfiniteAt + ((sequence - 1) & 1)] = 0;
      stack.flags()[kLost] = 0;
    }
    if (header & (kReset | kLoad)) {
      for (int at = kAtH / 16 + stack.thread; at < kAtY / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
      for (int at = kAtBefore / 16 + stack.thread; at < kAtScales / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
      alive = true;
      meet<1, kThreads>();
    }
  }
  if constexpr (kCluster) meet_cluster();
  if (stack.program == 0 && stack.thread == 0)
    store_system(control + 1, kMapped ? kAborted : static_cast<Word>(stack.flags()[kEnded]));
}
