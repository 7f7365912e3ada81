// A stack of LSTM or GRU that stays on the GPU: an answer for every message, with all weights on the chip.
//
// Why this is CUDA C++. Triton decides by itself what lies in shared memory: a program has no way to put its weights
// there, so those that its registers do not hold are read again, from the L2 cache, in every moment. Here each block
// has the first of its weights in registers, the next in shared memory, which it fills once and by its own order, and
// only what fits neither is read again. The form (cuda_recurrent_form.h) says how many of each. Triton also computes
// W_h h(t - 1) of the first layer after x(t) has come; here all of those sums are made once the answer of t - 1 is out.
//
// Thread (unit, lane) has the unit's rows of all gates, every kLanes-th line of 16 bytes: a line of the operand serves
// all gates, and sums never leave a warp. Blocks are kPrograms parts of every layer's units; after each layer they
// exchange its int8 h by words that say themselves that they are there (docs/decisions/0013). Block 0 alone reads the
// mailbox and passes x on. Nobody polls for another: each thread waits for words of its own and then for the block.
//
// A message's last word is a command. kReset: states are zero before the moment. kSave: no moment; the states go to
// `past`, words of the host's memory, h of all layers and then c. kLoad: no moment; they come from there. kSpoiled with
// kLoad: they hold what is no number.
#ifdef __CUDACC__
#include "cuda_words.h"
#else
#include "cuda_on_host.h"
#endif
#include "cuda_cells.h"
#include "cuda_recurrent_form.h"

constexpr Word kRunning = 1, kAborted = 2, kIdle = 3;
constexpr unsigned kReset = 1, kSave = 2, kLoad = 4, kSpoiled = 8, kEnd = 1u << 16;

// Flags of a block, in shared memory. Two for what a message holds, in turn: while some threads still read that of one
// message, others already take the next.
constexpr int kCommand = 0, kSpoilt = 1, kLost = 3, kEnded = 4;

constexpr int kMostLooks = RTA_LOOKS;  // for a word of another block, before it is given up

static __device__ __forceinline__ unsigned number_of(Word word) { return static_cast<unsigned>(word >> 32); }
static __device__ __forceinline__ Word word_of(unsigned payload, unsigned sequence) {
  return static_cast<Word>(sequence) << 32 | payload;
}
static __device__ __forceinline__ int to_int8(float v, int zero_point) {
  const int q = rounded(v < -512.0f ? -512.0f : v > 512.0f ? 512.0f : v) + zero_point;
  return q < -128 ? -128 : q > 127 ? 127 : q;
}
static __device__ __forceinline__ bool finite(unsigned bits) { return (bits & 0x7f800000u) != 0x7f800000u; }

// Sum over the neighbouring `lanes` of a warp, which each of them has.
template <int lanes>
static __device__ __forceinline__ int sum_over(int v) {
  if constexpr (lanes == 32) {
    return __reduce_add_sync(0xffffffffu, v);
  } else {
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    return v;
  }
}

// The products of a line: int8 numbers, or int4 ones in the high halves of bytes, the low halves first, times 16.
template <int group>
static __device__ __forceinline__ int dot(const uint4& w, const uint4* in, int acc) {
  const uint4 x = in[0];
  if constexpr (group == 0) {
    acc = __dp4a(static_cast<int>(w.x), static_cast<int>(x.x), acc);
    acc = __dp4a(static_cast<int>(w.y), static_cast<int>(x.y), acc);
    acc = __dp4a(static_cast<int>(w.z), static_cast<int>(x.z), acc);
    return __dp4a(static_cast<int>(w.w), static_cast<int>(x.w), acc);
  } else {
    const uint4 y = in[1];
    constexpr unsigned high = 0xf0f0f0f0u;
    const unsigned p = opaque(w.x), q = opaque(w.y), r = opaque(w.z), s = opaque(w.w);
    acc = __dp4a(static_cast<int>(p << 4 & high), static_cast<int>(x.x), acc);
    acc = __dp4a(static_cast<int>(q << 4 & high), static_cast<int>(x.y), acc);
    acc = __dp4a(static_cast<int>(r << 4 & high), static_cast<int>(x.z), acc);
    acc = __dp4a(static_cast<int>(s << 4 & high), static_cast<int>(x.w), acc);
    acc = __dp4a(static_cast<int>(p & high), static_cast<int>(y.x), acc);
    acc = __dp4a(static_cast<int>(q & high), static_cast<int>(y.y), acc);
    acc = __dp4a(static_cast<int>(r & high), static_cast<int>(y.z), acc);
    return __dp4a(static_cast<int>(s & high), static_cast<int>(y.w), acc);
  }
}

// int4: the sums of `lines` lines, times 16, by groups and in their order; the scales are those of whole groups.
template <int group>
static __device__ __forceinline__ float fold(const int* sums, const float* scales, int lines) {
  constexpr int each = group ? group / 32 : 1;
  float acc = 0.0f;
  for (int first = 0; first < lines; first += each) {
    int sum = 0;
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (first + i < lines) sum += sums[first + i];
    acc = fma_rn(static_cast<float>(sum >> 4), scales[first / each], acc);
  }
  return acc;
}

struct Stack {
  char* const shared;
  const uint4* const words;  // of this block
  const int program, thread, unit, lane;
  uint4 kept[kKept ? kKept : 1];

  __device__ __forceinline__ Stack(char* memory, const uint4* all)
      : shared(memory),
        words(all + static_cast<long long>(blockIdx.x) * kSteps * kThreads + threadIdx.x),
        program(blockIdx.x),
        thread(threadIdx.x),
        unit(threadIdx.x / kLanes),
        lane(threadIdx.x % kLanes) {
    uint4* held = reinterpret_cast<uint4*>(shared) + thread;
#pragma unroll
    for (int step = 0; step < kKept; ++step) kept[step] = load_weights(words + step * kThreads);
    for (int step = 0; step < kHeld; ++step) held[step * kThreads] = load_weights(words + (kKept + step) * kThreads);
  }

  // -- what lies in shared memory --------------------------------------------------------------------------------
  __device__ __forceinline__ signed char* x() const { return reinterpret_cast<signed char*>(shared + kAtX); }
  __device__ __forceinline__ signed char* h(int layer) const {
    return reinterpret_cast<signed char*>(shared + kAtH + layer * kBytesH);
  }
  __device__ __forceinline__ signed char* y() const { return reinterpret_cast<signed char*>(shared + kAtY); }
  __device__ __forceinline__ float* row(int layer, int index) const {
    return reinterpret_cast<float*>(shared + kAtNumbers) + (layer * kRows + index) * kUnits;
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
    constexpr int count = of_x && layer == 0 ? kStepsX : kStepsH, wide = kLineNumbers / 16;
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

  // W_h h of a layer, for the next moment.
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

  // A layer's part of a moment: its h, in the first thread of each unit.
  template <int layer>
  __device__ __forceinline__ float moment() const {
    float t[kGates];
    sums<true, layer>(t);
    if (lane != 0 || unit >= kUnits) return 0.0f;
    float from_h[kGates], bias[kGates];
#pragma unroll
    for (int g = 0; g < kGates; ++g) {
      t[g] = mul_rn(t[g], row(layer, g)[unit]);
      from_h[g] = before(layer, g);
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
  __device__ __forceinline__ void publish(Word* slot, const signed char* bytes, unsigned sequence) const {
    const int at = program * kWordsOwn + thread;
    if (thread < kWordsOwn) store_card(slot + at, word_of(reinterpret_cast<const unsigned*>(bytes)[at], sequence));
  }
  // Fills in the words of the others; the caller waits for the block.
  __device__ __forceinline__ void receive(const Word* slot, signed char* bytes, unsigned sequence) const {
    for (int at = thread; at < kWordsH; at += kThreads) {
      if (at / kWordsOwn == program) continue;
      int looks = 0;
      Word word = load_card(slot + at);
      while (number_of(word) != sequence && ++looks < kMostLooks) word = load_card(slot + at);
      if (number_of(word) != sequence) flags()[kLost] = 1;
      reinterpret_cast<unsigned*>(bytes)[at] = static_cast<unsigned>(word);
    }
  }
  __device__ __forceinline__ Word* slot_h(Word* exchange, int layer, unsigned sequence) const {
    return exchange + (2 * layer + (sequence & 1)) * kSlotH;
  }
};

// What a thread waits for in the mailbox, up to kAtOnce words together so that they cross the link side by side; false
// where the kernel is to end, and a flag then says why.
constexpr int kAtOnce = 4, kWordsEach = ceil_div(kInputs + 1, kThreads);
constexpr int kTogether = kWordsEach < kAtOnce ? kWordsEach : kAtOnce;
template <int count>
static __device__ __forceinline__ bool await_words(const Stack& stack, const Word* from, int first, Word* control,
                                                   unsigned sequence, int idle_looks, unsigned& looks,
                                                   unsigned (&payload)[kAtOnce]) {
  for (int spins = 0;;) {
    bool missing = false;
#pragma unroll
    for (int i = 0; i < count; ++i)
      if (first + i * kThreads <= kInputs) {
        const Word word = load_system(from + first + i * kThreads);
        missing |= number_of(word) != sequence;
        payload[i] = static_cast<unsigned>(word);
      }
    if (!missing) return true;
    if (++spins == RTA_SPINS) {
      spins = 0;
      ++looks;
      if (stack.thread == 0) store_system(control + 2, looks);
      const bool aborted = load_system(control) != 0;
      if (aborted || (idle_looks > 0 && looks >= static_cast<unsigned>(idle_looks))) {
        stack.flags()[kEnded] = static_cast<unsigned>(aborted ? kAborted : kIdle);
        return false;
      }
    }
  }
}

// x of message `sequence` as int8, in every block, and what to do with it.
static __device__ __forceinline__ unsigned take(const Stack& stack, const Word* request, Word* control, Word* exchange,
                                                unsigned sequence, float inverse, int zero_point, int idle_looks) {
  volatile unsigned* flags = stack.flags();
  unsigned* words = reinterpret_cast<unsigned*>(stack.x());
  Word* slot = exchange + kExchangeX + (sequence & 1) * kSlotX;
  if (stack.program == 0) {
    const Word* from = request + (sequence & 1) * (kInputs + 1);
    unsigned looks = 0, payload[kAtOnce];
    for (int first = stack.thread; first <= kInputs; first += kTogether * kThreads) {
      if (!await_words<kTogether>(stack, from, first, control, sequence, idle_looks, looks, payload)) break;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int at = first + i * kThreads;
        if (at < kInputs) {
          if (!finite(payload[i])) flags[kSpoilt + (sequence & 1)] = 1;
          stack.x()[at] = static_cast<signed char>(to_int8(mul_rn(float_of(payload[i]), inverse), zero_point));
        } else if (at == kInputs) {
          flags[kCommand] = payload[i];
        }
      }
    }
    __syncthreads();
    const unsigned spoilt = flags[kSpoilt + (sequence & 1)] ? kSpoiled : 0;
    const unsigned header = flags[kEnded] ? kEnd : flags[kCommand] | spoilt;
    if (kPrograms > 1)
      for (int at = stack.thread; at < kSlotX; at += kThreads)
        store_card(slot + at, word_of(at < kWordsX ? words[at] : header, sequence));
    return header;
  }
  if constexpr (kPrograms > 1)
    for (int at = stack.thread; at < kSlotX; at += kThreads) {  // however long that takes: the header says when to end
      Word word = load_card(slot + at);
      while (number_of(word) != sequence) word = load_card(slot + at);
      if (at < kWordsX)
        words[at] = static_cast<unsigned>(word);
      else
        flags[kCommand] = static_cast<unsigned>(word);
    }
  __syncthreads();
  return flags[kCommand];
}

// The linear layer behind the stack, from its int8 input: by block 0, a warp for an output.
static __device__ __forceinline__ void head(const Stack& stack, const uint4* lines, const float* numbers,
                                            const int* compensation, Word* reply, unsigned sequence, bool alive) {
  const int warp = stack.thread / 32, lane = stack.thread % 32;
  constexpr int wide = kHeadLineNumbers / 16;
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
      total = fold<kHeadGroup>(own, numbers + 2 * kOutputs + 1 + n * kGroupsY, most);
      __syncwarp();
    }
    const float t = add_rn(mul_rn(total, numbers[n]), numbers[kOutputs + n]);
    const float out = activate<RTA_ACTIVATION>(t, numbers[2 * kOutputs]);
    if (lane == 0)
      store_system(reply + (sequence & 1) * kOutputs + n, word_of(alive ? bits_of(out) : 0x7fc00000u, sequence));
  }
}

struct Answer {
  Word* reply;
  const uint4* head_words;
  const float* head_numbers;
  const int* head_compensation;
  float h_inverse, y_inverse;
  int y_zero_point;
};

// The layers of a moment from `layer` on; the answer goes out on the way. alive ends with a word that never came.
template <int layer>
static __device__ __forceinline__ void layers(const Stack& stack, Word* exchange, const Answer& to, unsigned sequence,
                                              bool& alive) {
  constexpr bool last = layer == kLayers - 1;
  const float h = stack.template moment<layer>();
  const int at = stack.program * kUnits + stack.unit;
  if (stack.lane == 0 && stack.unit < kUnits) {
    stack.h(layer)[at] = static_cast<signed char>(to_int8(mul_rn(h, to.h_inverse), 0));
    if (last && kHead) stack.y()[at] = static_cast<signed char>(to_int8(mul_rn(h, to.y_inverse), to.y_zero_point));
    if (last && !kHead && at < kHidden)
      store_system(to.reply + (sequence & 1) * kHidden + at, word_of(alive ? bits_of(h) : 0x7fc00000u, sequence));
  }
  __syncthreads();
  if constexpr (kPrograms > 1) {
    if constexpr (last && kHead) {  // first of all what the host waits for
      Word* slot = exchange + kExchangeY + (sequence & 1) * kSlotH;
      stack.publish(slot, stack.y(), sequence);
      if (stack.program == 0) {
        stack.receive(slot, stack.y(), sequence);
        __syncthreads();
        alive = alive && !stack.flags()[kLost];
      }
    }
    Word* slot = stack.slot_h(exchange, layer, sequence);
    stack.publish(slot, stack.h(layer), sequence);
    if constexpr (!last) {
      stack.receive(slot, stack.h(layer), sequence);
      __syncthreads();
      alive = alive && !stack.flags()[kLost];
    }
  }
  if constexpr (last && kHead) {
    if (stack.program == 0)
      head(stack, to.head_words, to.head_numbers, to.head_compensation, to.reply, sequence, alive);
  }
  if constexpr (!last) layers<layer + 1>(stack, exchange, to, sequence, alive);
}

static __device__ __forceinline__ unsigned await_past(const Stack& stack, const Word* from, unsigned sequence) {
  Word word = load_system(from);
  for (int looks = 1; number_of(word) != sequence && looks < kMostLooks; ++looks) word = load_system(from);
  if (number_of(word) != sequence) stack.flags()[kLost] = 1;
  return static_cast<unsigned>(word);
}

// A message that is no moment: the states to the host or from it. All blocks go in step as in a moment.
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
  __syncthreads();
  if (kPrograms > 1)
    for (int layer = 0; layer < kLayers; ++layer)
      stack.publish(stack.slot_h(exchange, layer, sequence), stack.h(layer), sequence);
  if (kHead ? stack.program == 0 : true)
    for (int n = stack.thread; n < (kHead ? kOutputs : kUnits); n += kThreads) {
      const int place = kHead ? n : stack.program * kUnits + n;
      if (place < kOutputs) store_system(to.reply + (sequence & 1) * kOutputs + place, word_of(0, sequence));
    }
  if (kPrograms > 1)
    // The last layer's are awaited with those of a moment, and then the block.
    for (int layer = 0; layer < kLayers - 1; ++layer)
      stack.receive(stack.slot_h(exchange, layer, sequence), stack.h(layer), sequence);
}

// The last two parameters are scratch memory, which every stored kernel is passed and this one has no use for.
extern "C" __global__ void __launch_bounds__(kThreads, 1)
    rtaccel_recurrent(const Word* request, Word* reply, Word* control, Word* past, const uint4* words,
                      const float* numbers, const int* compensation, const float* scales, const uint4* head_words,
                      const float* head_numbers, const int* head_compensation, Word* exchange, float x_inverse,
                      int x_zero_point, float h_inverse, float y_inverse, int y_zero_point, int idle_looks, void*,
                      void*) {
  uint4* const memory = shared_memory();
  char* const shared = reinterpret_cast<char*>(memory);
  // Zeros, then what never changes.
  for (int at = kAtX / 16 + threadIdx.x; at < kSharedBytes / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
  __syncthreads();
  Stack stack(shared, words);
  const auto fill = [&](int at, const void* from, int count) {
    for (int i = stack.thread; i < count; i += kThreads)
      reinterpret_cast<unsigned*>(shared + at)[i] = static_cast<const unsigned*>(from)[i];
  };
  fill(kAtNumbers, numbers + stack.program * kLayers * kRows * kUnits, kLayers * kRows * kUnits);
  fill(kAtCompensation, compensation + stack.program * kGates * kUnits, kGates * kUnits);
  if (kGroup) fill(kAtScales, scales + static_cast<long long>(stack.program) * kScales, kScales);
  if (kHead && kHeadHeld) fill(kAtHead, head_words, 4 * kHeadLines * kOutputs);
  const Answer to{reply,        kHead && kHeadHeld ? reinterpret_cast<const uint4*>(shared + kAtHead) : head_words,
                  head_numbers, head_compensation,
                  h_inverse,    y_inverse,
                  y_zero_point};
  if (stack.program == 0 && stack.thread == 0) store_system(control + 1, kRunning);

  bool alive = true;
  for (unsigned sequence = 1;; ++sequence) {
    const unsigned header = take(stack, request, control, exchange, sequence, x_inverse, x_zero_point, idle_looks);
    if (header & kEnd) break;
    if (stack.thread == 0) {  // between the barrier in `take` and the next: nobody reads these, nobody writes them
      stack.flags()[kSpoilt + ((sequence - 1) & 1)] = 0;
      stack.flags()[kLost] = 0;
    }
    if (header & (kReset | kLoad)) {
      for (int at = kAtH / 16 + stack.thread; at < kAtY / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
      for (int at = kAtBefore / 16 + stack.thread; at < kAtScales / 16; at += kThreads) memory[at] = uint4{0, 0, 0, 0};
      alive = true;
      __syncthreads();
    }
    if (header & (kSave | kLoad)) {
      alive = alive && !(header & kSpoiled && header & kLoad);
      exchange_states(stack, past, exchange, to, sequence, header & kLoad, alive);
      alive = alive && !stack.flags()[kLost];
    } else {
      alive = alive && !(header & kSpoiled);
      layers<0>(stack, exchange, to, sequence, alive);
    }
    // The answer is out. What the next moment needs of this one is made while nobody waits.
    if constexpr (kPrograms > 1) {
      stack.receive(stack.slot_h(exchange, kLayers - 1, sequence), stack.h(kLayers - 1), sequence);
      __syncthreads();
      alive = alive && !stack.flags()[kLost];
    }
    stack.prepare_all();
  }
  if (stack.program == 0 && stack.thread == 0) store_system(control + 1, stack.flags()[kEnded]);
}
