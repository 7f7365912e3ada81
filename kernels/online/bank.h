// Streaming features over channels of many streams: a short program that every cell (a channel of a stream) runs at
// each step, sixteen cells side by side.
//
// Cells are numbered stream by stream, so the samples of a step lie in memory as cells. Sixteen of them are a block,
// whose state is one piece of memory: counts of samples and of steps, then 16 numbers for each slot.
#pragma once

#include <cstddef>
#include <cstdint>

#include "_core/isa.h"

namespace rta::online {

constexpr int kCells = 16;

enum class BankKind : int32_t {
  kValue,  // x
  kEwma,   // m += max(rate, 1 / (t + 1)) (of - m), t samples before: the mean of all until there are 1 / rate
  kMin,    // of all so far
  kMax,
  kMean,
  kFirst,   // the mean of the first `length` samples
  kLag,     // `length` samples ago; the first one until there are as many
  kSlope,   // of the line through all samples, by least squares with weights (1 - rate)^age; a sample
  kSeason,  // mean at this step modulo `length`, with the rate of an EWMA over its periods
  kMinus,   // of - other
};

struct BankNode {
  BankKind kind;
  int32_t of, other;  // nodes before this one
  float rate;
  int32_t length;
  int32_t slot;  // where its state begins
};

// Of one block. Slots hold kCells numbers each.
struct BankBlock {
  int32_t* samples;  // that were there, of each cell; they end at the largest number
  uint32_t* steps;
  float* slots;
  float* held;  // of each node, as it was last
};

constexpr int kMaxNodes = 128;

// One step of a block. x: [kCells], NaN where a sample is missing; its cell then keeps state and results. Results are
// left in block.held.
struct BankKernel {
  Isa isa;
  void (*step)(const BankNode* nodes, int count, const BankBlock& block, const float* x);
};

void add_bank_kernel(Isa isa, decltype(BankKernel::step) step);  // called before main

int bank_kernel_count();
const BankKernel& bank_kernel(int index);
const BankKernel& best_bank_kernel();

// Slots that a node's state takes.
static constexpr int32_t bank_slots(BankKind kind, int32_t length) {
  switch (kind) {
    case BankKind::kMin:
    case BankKind::kMax: return 1;
    case BankKind::kEwma:
    case BankKind::kMean:
    case BankKind::kFirst: return 2;
    case BankKind::kLag: return length;
    case BankKind::kSlope: return 6;
    case BankKind::kSeason: return 3 * length;
    default: return 0;
  }
}

}  // namespace rta::online
