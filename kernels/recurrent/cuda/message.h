// How a message comes into the blocks of recurrent.cu: from the mailbox to the first, by its threads or by warps that
// poll for them, and from there to the others; or into each, where the host writes into the card's memory.
#pragma once

#include "recurrent/cuda/stack.h"

constexpr unsigned kDone = 1u << 17;  // in the place of a header: the message is answered

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
      if (stack.program == 0 && stack.thread == 0) store_system(control + 2, looks);
      if (kMapped) continue;  // all blocks end with the same message, or one would wait for another
      const bool aborted = load_system(control) != 0;
      if (aborted || (idle_looks > 0 && looks >= static_cast<unsigned>(idle_looks))) {
        stack.flags()[kEnded] = static_cast<unsigned>(aborted ? kAborted : kIdle);
        return false;
      }
    }
  }
}

// Warp `warp` of those that look at the mailbox for the first block. The one that takes a message has all of it: it
// puts x as int8 and the header where the block finds them, and passes them on to the others.
static __device__ __forceinline__ void poll_for(const Stack& stack, int warp, const Word* request, Word* control,
                                                Word* exchange, float inverse, int zero_point, int idle_looks) {
  const int lane = stack.thread % 32;
  unsigned* shared = reinterpret_cast<unsigned*>(stack.shared + kAtPoll);
  poll<kInputs + 1, kPollers ? kPollers : 1>(
      warp, lane, request, control, shared, idle_looks, [&](unsigned sequence, const auto& payload, unsigned why) {
        constexpr int of_command = kInputs % 32;  // the lane that has it
        volatile unsigned* flags = stack.flags();
        signed char* x = stack.x_at(sequence & 1);
        Word* slot = exchange + kExchangeX + (sequence & 1) * kSlotX;
        const unsigned header = quantized<kInputs>(lane, payload, why, inverse, zero_point, x);
        if (lane == of_command) {
          if (header & kRenew) fence_system();  // for this block, and for whoever reads the header
          if (why) flags[kEnded] = why;
          flags[kHeaderAt + (sequence & 1)] = header;
          if (kPrograms > 1) Stack::pass_on(slot + kWordsX, word_of(header, sequence));
        }
        if (kPrograms > 1) {
          __syncwarp();
          for (int at = lane; at < kWordsX; at += 32)
            Stack::pass_on(slot + at, word_of(reinterpret_cast<const unsigned*>(x)[at], sequence));
        }
        fence_block();
        arrive<2, kThreads + 32>();
      });
}

// x of message `sequence` as int8, in every block, and what to do with it.
static __device__ __forceinline__ unsigned take(const Stack& stack, const Word* request, Word* control, Word* exchange,
                                                unsigned sequence, float inverse, int zero_point, int idle_looks) {
  volatile unsigned* flags = stack.flags();
  unsigned* words = reinterpret_cast<unsigned*>(stack.x());
  Word* slot = exchange + kExchangeX + (sequence & 1) * kSlotX;
  if (kPollers > 0 && stack.program == 0) {
    if (stack.thread == 0) reinterpret_cast<volatile unsigned*>(stack.shared + kAtPoll)[kWanted] = sequence;
    meet<2, kThreads + 32>();
    return flags[kHeaderAt + (sequence & 1)];
  }
  if (kMapped || stack.program == 0) {
    const Word* from = request + (sequence & 1) * (kInputs + 1);
    unsigned looks = 0, payload[kAtOnce];
    for (int first = stack.thread; first <= kInputs; first += kTogether * kThreads) {
      if (!await_words<kTogether>(stack, from, first, control, sequence, idle_looks, looks, payload)) break;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const int at = first + i * kThreads;
        if (at < kInputs) {
          if (!finite(payload[i])) flags[kNonfiniteAt + (sequence & 1)] = 1;
          stack.x()[at] = static_cast<signed char>(to_int8(mul_rn(float_of(payload[i]), inverse), zero_point));
        } else if (at == kInputs) {
          flags[kCommand] = payload[i];
          if (payload[i] & kRenew) fence_system();  // the barrier below hands it on to the block
        }
      }
    }
    meet<1, kThreads>();
    const unsigned nonfinite = flags[kNonfiniteAt + (sequence & 1)] ? kNonfinite : 0;
    const unsigned header = flags[kEnded] ? kEnd : flags[kCommand] | nonfinite;
    if (kPrograms > 1 && !kMapped) {
      if (header & kRenew) fence_system();  // whoever reads the header sees what this block saw
      for (int at = stack.thread; at < kSlotX; at += kThreads)
        Stack::pass_on(slot + at, word_of(at < kWordsX ? words[at] : header, sequence));
    }
    return header;
  }
  if constexpr (kPrograms > 1 && !kMapped)
    for (int at = stack.thread; at < kSlotX; at += kThreads) {  // however long that takes: the header says when to end
      Word word = Stack::look(slot + at);
      while (number_of(word) != sequence) word = Stack::look(slot + at);
      if (at < kWordsX) {
        words[at] = static_cast<unsigned>(word);
      } else {
        flags[kCommand] = static_cast<unsigned>(word);
        if (word & kRenew) fence_system();
      }
    }
  meet<1, kThreads>();
  return flags[kCommand];
}
