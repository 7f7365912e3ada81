// A grid of cooperating blocks on one CPU thread, as far as kernels/recurrent/cuda/recurrent.cu needs it: every CUDA
// thread is a fiber, and they run in an order that a seed decides, each until it waits (at a barrier, in a warp) or
// looks at a word that others write. What is read before its barrier is read too early here as well, in some order.
//
// It shows whether the algorithm is right. It shows nothing of a GPU's memory or of its speed.
#pragma once

#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint4 {
  unsigned x, y, z, w;
};
using Word = unsigned long long;

namespace host {

constexpr int kStack = 64 << 10, kLateRounds = 1000, kStillRounds = 2000;
struct Index {
  unsigned x, y;
};

// Where threads meet: those that came, and how often it was complete.
struct Meeting {
  int expected, arrived = 0;
  long generation = 0;
};

struct Warp {
  Meeting meeting{32};
  int slots[2][32];
};

struct Block {
  Meeting meeting;
  std::map<int, Meeting> barriers;  // those of a part of the threads
  std::unique_ptr<char[]> shared;
  std::vector<Warp> warps;
  std::unordered_map<const uint4*, uint4> cache;  // lines that were read: what they were stays, until a fence
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Block* block;
  Index thread, index;
  const Meeting* waits_for = nullptr;
  long generation = 0;
  bool ended = false;
};

struct Grid {
  std::vector<Block> blocks;
  std::vector<Fiber> fibers;
  ucontext_t scheduler;
  Fiber* running = nullptr;
  std::function<void()> kernel;
  int skipped = 0;                // a line whose barrier nobody waits at, or whose fence does nothing
  const Word* dropped = nullptr;  // a word of the exchange that does not arrive, of message 3
  int dropped_at = -1;            // the same in every block's shared memory: its place there, in bytes
  Meeting cluster;
  bool stored = false;  // whether a block has stored into another's shared memory
  bool moved = false;
  unsigned cycles = 0;
};

inline thread_local Grid* grid = nullptr;

inline void yield() {
  Fiber* self = grid->running;
  swapcontext(&self->context, &grid->scheduler);
}

inline void meet(Meeting& at) {
  if (++at.arrived == at.expected) {
    at.arrived = 0;
    ++at.generation;
    grid->moved = true;
    return;
  }
  Fiber* self = grid->running;
  self->waits_for = &at;
  self->generation = at.generation;
  yield();
  self->waits_for = nullptr;
}

inline void meet_block(int line) {
  if (line != grid->skipped) meet(grid->running->block->meeting);
}

inline void meet_some(int barrier, int threads, int line) {
  Meeting& at = grid->running->block->barriers[barrier];
  at.expected = threads;
  if (line != grid->skipped) meet(at);
}
inline void arrive_some(int barrier, int threads, int line) {
  Meeting& at = grid->running->block->barriers[barrier];
  at.expected = threads;
  if (line == grid->skipped || ++at.arrived != at.expected) return;
  at.arrived = 0;
  ++at.generation;
  grid->moved = true;
}

inline Warp& warp() { return grid->running->block->warps[grid->running->thread.x / 32]; }
inline void meet_warp(int line) {
  if (line != grid->skipped) meet(warp().meeting);
}

// The caches of a GPU are not those of its neighbors: a block reads again what it has read, whatever was written since.
constexpr size_t kCacheLines = 4096;
inline uint4 cached(const uint4* from) {
  auto& cache = grid->running->block->cache;
  const auto found = cache.find(from);
  if (found != cache.end()) return found->second;
  if (cache.size() < kCacheLines) cache.emplace(from, *from);
  return *from;
}
inline void fence(int line) {
  if (line != grid->skipped) grid->running->block->cache.clear();
}

// Every lane's value, seen by all of them.
inline const int* exchange(int value) {
  Warp& own = warp();
  int* slots = own.slots[own.meeting.generation & 1];
  slots[grid->running->thread.x % 32] = value;
  meet(own.meeting);
  return slots;
}

// A barrier of all blocks that does not wait for threads that have ended.
inline void pass_cluster(Meeting& at) {
  if (at.arrived == 0 || at.arrived < at.expected) return;
  at.arrived = 0;
  ++at.generation;
  grid->moved = true;
}
inline void meet_cluster(int line) {
  if (line == grid->skipped) return;
  Meeting& at = grid->cluster;
  Fiber* self = grid->running;
  self->waits_for = &at;
  self->generation = at.generation;
  ++at.arrived;
  pass_cluster(at);
  if (self->generation == at.generation) yield();
  self->waits_for = nullptr;
}

inline void enter() {
  grid->kernel();
  grid->running->ended = grid->moved = true;
  --grid->cluster.expected;
  pass_cluster(grid->cluster);
  yield();
}

// Runs `kernel` in every thread of a row of the grid; returns when all have ended, or wait for each other for good
// after `abort`.
inline void launch(int blocks, int threads, int shared_bytes, unsigned seed, int skipped, const Word* dropped,
                   const Word* abort, std::function<void()> kernel, bool cluster = false, int dropped_at = -1,
                   int row = 0) {
  Grid made;
  grid = &made;
  made.kernel = std::move(kernel);
  made.skipped = skipped;
  made.dropped = dropped;
  made.dropped_at = dropped_at;
  made.cluster.expected = blocks * threads;
  made.blocks.resize(blocks);
  made.fibers.resize(blocks * threads);
  for (int b = 0; b < blocks; ++b) {
    Block& block = made.blocks[b];
    block.meeting.expected = threads;
    block.shared.reset(new char[shared_bytes]);
    std::memset(block.shared.get(), 0x7f, shared_bytes);
    block.warps.resize(threads / 32);
    for (int t = 0; t < threads; ++t) {
      Fiber& fiber = made.fibers[b * threads + t];
      fiber.block = &block;
      fiber.thread = {static_cast<unsigned>(t), 0};
      fiber.index = {static_cast<unsigned>(b), static_cast<unsigned>(row)};
      fiber.stack.reset(new char[kStack]);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get();
      fiber.context.uc_stack.ss_size = kStack;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, enter, 0);
    }
  }
  const bool lagging = seed % 3 == 2;  // every other warp is far behind the rest
  // Every other block starts long after the rest, as it may where none waits for it: when one stores into its memory.
  const bool late = cluster && seed % 7 == 6;
  std::vector<Fiber*> order;
  for (Fiber& fiber : made.fibers) order.push_back(&fiber);
  int still = 0, rounds = 0;  // rounds in which nothing moved; and all, as far as blocks are late
  while (!order.empty() && (still < kStillRounds || __atomic_load_n(abort, __ATOMIC_ACQUIRE) == 0)) {
    made.moved = false;
    rounds += rounds < kLateRounds;
    for (size_t i = order.size(); i > 1; --i) {
      seed = seed * 1664525u + 1013904223u;
      std::swap(order[i - 1], order[(seed >> 8) % i]);
    }
    for (Fiber* fiber : order) {
      seed = seed * 1664525u + 1013904223u;
      if (lagging && fiber->thread.x / 32 % 2 == 0 && seed >> 30 != 0) continue;
      if (late && fiber->index.x % 2 && rounds < kLateRounds && !made.stored) continue;
      if (fiber->waits_for && fiber->waits_for->generation == fiber->generation) continue;
      made.running = fiber;
      swapcontext(&made.scheduler, &fiber->context);
    }
    order.erase(std::remove_if(order.begin(), order.end(), [](Fiber* f) { return f->ended; }), order.end());
    still = made.moved ? 0 : still + 1;
    if (still) usleep(20);  // all of them look for a message
  }
  grid = nullptr;
}

inline int dp4a(int a, int b, int acc) {
  for (int i = 0; i < 4; ++i) acc += static_cast<int8_t>(a >> (8 * i)) * static_cast<int8_t>(b >> (8 * i));
  return acc;
}

inline int sum_of_warp(int value) {
  const int* slots = exchange(value);
  int sum = 0;
  for (int i = 0; i < 32; ++i) sum += slots[i];
  return sum;
}

}  // namespace host

#define threadIdx (host::grid->running->thread)
#define blockIdx (host::grid->running->index)
#define __syncthreads() host::meet_block(__LINE__)
#define __syncwarp() host::meet_warp(__LINE__)
#define fence_system() host::fence(__LINE__)
#define __dp4a(a, b, acc) host::dp4a(a, b, acc)
#define __reduce_add_sync(mask, value) host::sum_of_warp(value)
#define __shfl_xor_sync(mask, value, step) host::exchange(value)[(host::grid->running->thread.x % 32) ^ (step)]

static inline Word load_system(const Word* from) {
  host::yield();
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
static inline void store_system(Word* to, Word word) {
  host::grid->moved = true;
  __atomic_store_n(to, word, __ATOMIC_RELEASE);
}
static inline Word load_card(const Word* from) { return load_system(from); }
static inline void store_card(Word* to, Word word) {
  if (to != host::grid->dropped || word >> 32 != 3) store_system(to, word);
}
// `own` in another block's shared memory. One whose threads have all ended has none any more.
static inline void store_cluster(const Word* own, int block, Word word) {
  host::Block& self = *host::grid->running->block;
  host::grid->stored = true;
  const long at = reinterpret_cast<const char*>(own) - self.shared.get();
  if (at == host::grid->dropped_at && word >> 32 == 3) return;
  store_system(reinterpret_cast<Word*>(host::grid->blocks[block].shared.get() + at), word);
}
static inline Word load_cluster(const Word* own) { return load_system(own); }
static inline void meet_cluster(int line = __builtin_LINE()) { host::meet_cluster(line); }
static inline uint4 load_weights(const uint4* from) { return host::cached(from); }
static inline uint4* shared_memory() { return reinterpret_cast<uint4*>(host::grid->running->block->shared.get()); }

template <int barrier, int threads>
static inline void meet(int line = __builtin_LINE()) {
  host::meet_some(barrier, threads, line);
}
template <int barrier, int threads>
static inline void arrive(int line = __builtin_LINE()) {
  host::arrive_some(barrier, threads, line);
}
static inline void fence_block() {}
static inline unsigned compare_and_swap(unsigned* at, unsigned expected, unsigned made) {
  host::yield();
  const unsigned found = *at;
  if (found == expected) *at = made;
  return found;
}
static inline unsigned cycles() { return ++host::grid->cycles; }
static inline unsigned of_lane(unsigned v, int lane) {
  return static_cast<unsigned>(host::exchange(static_cast<int>(v))[lane]);
}
static inline bool all_lanes(bool v) { return host::sum_of_warp(v) == 32; }

static inline unsigned opaque(unsigned v) { return v; }

static inline float add_rn(float a, float b) { return a + b; }
static inline float mul_rn(float a, float b) { return a * b; }
static inline float fma_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float div_rn(float a, float b) { return a / b; }
static inline float exp_near(float v) { return std::exp(v); }
static inline float quotient_near(float a, float b) { return a / b; }
static inline int rounded(float v) { return static_cast<int>(std::nearbyint(v)); }
static inline unsigned bits_of(float v) {
  unsigned bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}
static inline float float_of(unsigned bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}
