// One form of chain.cu: what config.py decided, and where everything lies in shared memory. The numbers come as
// definitions when a form is compiled; what stands here is 256-384-384-128 in int8.
#pragma once

#ifndef RTA_WIDTHS
#define RTA_WIDTHS 256, 384, 384, 128
#define RTA_LAYER_LANES 2, 2, 2  // threads that share an output of each layer; powers of two
#define RTA_LAYER_KEPT 8, 8, 4   // steps of each layer whose weights are in registers; the others are in shared memory
#define RTA_ACTIVATIONS 1, 1, 0  // rows of table.def
#define RTA_THREADS 256          // that compute, whole warps
#define RTA_POLLERS 4            // warps beside them that poll the mailbox
#define RTA_GROUP 0              // 0: int8 weights; else int4 ones, so many with one scale, a multiple of 32
#define RTA_PARTS 1              // blocks, each with its part of every layer's outputs; more than one are a cluster
#define RTA_SHARED_BYTES 0       // 0: whatever it comes to
#define RTA_SPINS 1024           // looks at the mailbox between two at the word that ends the kernel
#define RTA_LOOKS 4194304        // looks for a word of another block before it is given up
#endif

// For constants alone: a device has no such arrays, and nvcc refuses to read one at run time.
constexpr int kWidths[] = {RTA_WIDTHS}, kLanes[] = {RTA_LAYER_LANES}, kKept[] = {RTA_LAYER_KEPT};
constexpr int kActivations[] = {RTA_ACTIVATIONS};
constexpr int kLayers = sizeof kLanes / sizeof *kLanes, kThreads = RTA_THREADS, kPollers = RTA_POLLERS;
constexpr int kAllThreads = kThreads + 32 * kPollers, kGroup = RTA_GROUP, kParts = RTA_PARTS;
constexpr int kInputs = kWidths[0], kOutputs = kWidths[kLayers];

constexpr __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr __host__ __device__ int up16(int bytes) { return (bytes + 15) / 16 * 16; }

// A line is 16 bytes of weights of one output. A step is one line of every thread: thread (row, lane) has line
// j * lanes + lane of output pass * rows + row. The lines of an output fill whole steps, with zeros, and so do outputs.
constexpr int kLineParams = kGroup ? 32 : 16;  // int8 numbers that a line is multiplied with
constexpr __host__ __device__ int rows_of(int layer) { return kThreads / kLanes[layer]; }
// Outputs of a block; in words of four where blocks exchange them. The last block may have fewer, or none.
constexpr __host__ __device__ int own_of(int layer) {
  return kParts == 1 ? kWidths[layer + 1] : 4 * ceil_div(kWidths[layer + 1], 4 * kParts);
}
constexpr __host__ __device__ int passes_of(int layer) { return ceil_div(own_of(layer), rows_of(layer)); }
constexpr __host__ __device__ int lines_of(int layer) { return ceil_div(kWidths[layer], kLineParams); }
constexpr __host__ __device__ int each_of(int layer) { return ceil_div(lines_of(layer), kLanes[layer]); }
constexpr __host__ __device__ int steps_of(int layer) { return passes_of(layer) * each_of(layer); }
constexpr __host__ __device__ int input_bytes(int layer) { return each_of(layer) * kLanes[layer] * kLineParams; }
constexpr __host__ __device__ int groups_of(int layer) {
  return kGroup ? ceil_div(kWidths[layer], kGroup ? kGroup : 1) : 0;
}

// Numbers of a layer, 32 bits each: multipliers, offsets, what zero points add to its sums, group scales of int4
// weights output by output, then the activation's parameter and the zero point of its int8 outputs.
constexpr __host__ __device__ int params_of(int layer) { return own_of(layer) * (3 + groups_of(layer)) + 2; }

// Int4: ints of a layer while its sums are folded; one more a row, so that rows begin in other banks.
constexpr __host__ __device__ int pitch_of(int layer) { return each_of(layer) * kLanes[layer] + 1; }
constexpr __host__ __device__ int fold_ints(int layer) {
  return kGroup ? passes_of(layer) * rows_of(layer) * pitch_of(layer) : 0;
}

// What layers before one have together.
constexpr __host__ __device__ int steps_before(int layer) {
  int sum = 0;
  for (int i = 0; i < layer; ++i) sum += steps_of(i);
  return sum;
}
constexpr __host__ __device__ int kept_before(int layer) {
  int sum = 0;
  for (int i = 0; i < layer; ++i) sum += kKept[i];
  return sum;
}
constexpr __host__ __device__ int params_before(int layer) {
  int sum = 0;
  for (int i = 0; i < layer; ++i) sum += params_of(i);
  return sum;
}
constexpr __host__ __device__ int inputs_before(int layer) {  // bytes, without those of x
  int sum = 0;
  for (int i = 1; i < layer; ++i) sum += input_bytes(i);
  return sum;
}
constexpr __host__ __device__ int most_fold_ints() {
  int most = 0;
  for (int i = 0; i < kLayers; ++i) most = fold_ints(i) > most ? fold_ints(i) : most;
  return most;
}

constexpr int kSteps = steps_before(kLayers), kAllKept = kept_before(kLayers), kParams = params_before(kLayers);
constexpr long long kBlockWords = 1ll * kSteps * kThreads, kSetWords = kParts * kBlockWords;
constexpr int kSetParams = kParts * kParams;  // of one set; a second set lies behind it

// Of a cluster: words of four int8 numbers of a layer's input, as each block has them from the others, two slots of
// each.
constexpr __host__ __device__ int words_of(int layer) { return ceil_div(kWidths[layer], 4); }
constexpr int kXWords = words_of(0);                         // of a message, before its command
constexpr __host__ __device__ int slots_before(int layer) {  // in words; x has one more, its header
  int sum = 0;
  for (int i = 0; i < layer; ++i) sum += 2 * (words_of(i) + (i == 0));
  return sum;
}

// Shared memory, in bytes from its beginning. x has two places: one for each of two messages.
constexpr int kAtX = (kSteps - kAllKept) * kThreads * 16;
constexpr int kAtInputs = kAtX + 2 * input_bytes(0);
constexpr int kAtParams = kAtInputs + inputs_before(kLayers);
constexpr int kAtFold = kAtParams + up16(4 * kParams);
constexpr int kAtPoll = kAtFold + up16(4 * most_fold_ints());
constexpr int kAtHeaders = kAtPoll + 16;
constexpr int kAtExchange = kAtHeaders + 16;
constexpr int kSharedBytes = kAtExchange + (kParts > 1 ? up16(8 * slots_before(kLayers)) : 0);

static_assert(RTA_SHARED_BYTES == 0 || RTA_SHARED_BYTES == kSharedBytes, "config.py counts otherwise");
static_assert(kThreads % 32 == 0 && kPollers > 0, "whole warps, and some that poll");
static_assert((kParts - 1) * own_of(0) < kWidths[1], "a block that nobody waits for may not see the next message");
