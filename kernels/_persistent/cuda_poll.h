// Warps that do nothing but look at the mailbox: each has all of a message in its look, they begin their looks one
// after another, a part of a round trip apart, and the first to see a message hands it on.
//
// Why warps. A warp cannot have several looks on their way: all loads of a loop have one scoreboard, and a test of the
// first waits for the last (tests/cuda_checks/looks_in_flight.py). So each look has a warp of its own. They are in none
// of the other threads' barriers. What they hand on has two places in turn: a thread that is late with one message
// finds it untouched while the next is put beside it. Of those that see the same message one compare-and-swap lets a
// single one hand it on: another would write over what a later message brings.
#pragma once

#include "_persistent/cuda_numbered.h"
#include "_persistent/cuda_products.h"

constexpr Word kRunning = 1, kAborted = 2, kIdle = 3;  // control[1], what a kernel says of itself

// Commands of a message, its last word; and what a header says beside them. recurrent/cuda/recurrent.cu has what they
// mean.
constexpr unsigned kReset = 1, kSave = 2, kLoad = 4, kNonfinite = 8, kRenew = 16, kSecond = 32, kEnd = 1u << 16;

// Words of shared memory that polling warps have among themselves: the newest message that one of them took, when the
// newest look began, and why the kernel ends. The block writes the last: the message that it waits for. An end is
// handed on only then: of two that are counted at one barrier the second would stand for a warp that has not come.
constexpr int kTaken = 0, kBegan = 1, kWhyEnded = 2, kWanted = 3;

// No look begins sooner than `apart` cycles behind the one before, whichever warp's that is. When this one begins.
static __device__ __forceinline__ unsigned await_turn(unsigned* shared, int lane, unsigned apart) {
  unsigned now = 0;
  if (lane == 0)
    for (;;) {
      const unsigned before = static_cast<volatile unsigned*>(shared)[kBegan];
      now = cycles();
      if (now - before >= apart && compare_and_swap(shared + kBegan, before, now) == before) break;
    }
  return of_lane(now, 0);
}

// Of `warps` warps one, until the kernel ends. A message has `words` words, two slots of which are at `request`.
// hand_on(sequence, payload, why): all lanes of the warp that took it; lane l has the words l + 32 i. why: not 0 where
// the kernel is to end, and there is no message then.
template <int words, int warps, class HandOn>
static __device__ __forceinline__ void poll(int warp, int lane, const Word* request, Word* control, unsigned* shared,
                                            int idle_looks, const HandOn& hand_on) {
  constexpr int each = (words + 31) / 32;
  int spins = 0, looks = 0;
  for (unsigned sequence = 1, span = 0;;) {
    if (of_lane(static_cast<volatile unsigned*>(shared)[kWhyEnded], 0)) return;
    const unsigned taken = of_lane(static_cast<volatile unsigned*>(shared)[kTaken], 0);
    if (static_cast<int>(taken - sequence) >= 0) {
      sequence = taken + 1;
      spins = looks = 0;
    }
    const unsigned began = await_turn(shared, lane, span / warps);
    const Word* from = request + (sequence & 1) * words + lane;
    Word look[each];
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (lane + 32 * i < words) look[i] = load_system(from + 32 * i);
    unsigned payload[each], why = 0;
    bool there = true;
#pragma unroll
    for (int i = 0; i < each; ++i)
      if (lane + 32 * i < words) {
        there = there && number_of(look[i]) == sequence;
        payload[i] = static_cast<unsigned>(look[i]);
      }
    there = all_lanes(there);
    span = cycles() - began;
    if (!there) {
      if (++spins < RTA_SPINS) continue;
      spins = 0;
      ++looks;
      if (warp == 0 && lane == 0) store_system(control + 2, static_cast<unsigned>(looks));
      why = of_lane(static_cast<unsigned>(load_system(control) != 0 ? kAborted : 0), 0);
      if (!why && idle_looks > 0 && looks >= idle_looks) why = static_cast<unsigned>(kIdle);
      if (!why || of_lane(static_cast<volatile unsigned*>(shared)[kWanted], 0) != sequence) continue;
    }
    spins = looks = 0;
    if (of_lane(lane ? 0u : compare_and_swap(shared + kTaken, sequence - 1, sequence), 0) != sequence - 1) continue;
    if (why && lane == 0) static_cast<volatile unsigned*>(shared)[kWhyEnded] = why;
    hand_on(sequence, payload, why);
  }
}

// x of a message as int8, where a block finds it. The header, in lane `inputs % 32`: the command and what x is; that
// the kernel is to end, where `why` says so.
template <int inputs>
static __device__ __forceinline__ unsigned quantized(int lane, const unsigned (&payload)[inputs / 32 + 1], unsigned why,
                                                     float inverse, int zero_point, signed char* x) {
  bool fine = true;
#pragma unroll
  for (int i = 0; i <= inputs / 32; ++i)
    if (lane + 32 * i < inputs) fine = fine && finite(payload[i]);
  fine = all_lanes(fine);
#pragma unroll
  for (int i = 0; i <= inputs / 32; ++i)
    if (!why && lane + 32 * i < inputs)
      x[lane + 32 * i] = static_cast<signed char>(to_int8(mul_rn(float_of(payload[i]), inverse), zero_point));
  return why ? kEnd : payload[inputs / 32] | (fine ? 0 : kNonfinite);
}

// x of a message that the host has rounded, `words` of four int8 numbers, where a block finds it. The header, in lane
// `words % 32`, as above.
template <int words>
static __device__ __forceinline__ unsigned taken(int lane, const unsigned (&payload)[words / 32 + 1], unsigned why,
                                                 signed char* x) {
  unsigned* to = reinterpret_cast<unsigned*>(x);
#pragma unroll
  for (int i = 0; i <= words / 32; ++i)
    if (!why && lane + 32 * i < words) to[lane + 32 * i] = payload[i];
  return why ? kEnd : payload[words / 32];
}
