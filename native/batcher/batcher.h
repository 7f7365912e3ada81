// What a batcher is inside. put.cc is the side of the callers, turn.cc that of whichever worker runs its batches
// (workers.h), one at a time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "_system/os.h"
#include "rta_batcher.h"
#include "workers.h"

namespace rta_serve {

int batcher_error(const char* format, ...) __attribute__((format(printf, 1, 2)));
int no_batcher();  // the error of a batcher that is NULL

// One stream's place for a sample; the sample's bytes follow it. Whoever brings `word` to kBusy has it. Slots share
// lines of the cache: every line of a batch comes from the core of whoever put it, which is most of what a sample costs
// here.
enum : uint32_t { kEmpty = 0, kBusy = 1, kWaiting = 2 };
struct Slot {
  std::atomic<uint32_t> word{kEmpty};
  int32_t ticket = -1;
  int64_t stamp = INT64_MIN;  // of its sample, or of the newest one that there was
  int64_t put_at = 0;
  bool removed = false;
  bool emptied = false;  // its sample was taken out, and the worker has its mark yet
  bool anew = false;     // its past is put back before its next step
  char* x() { return reinterpret_cast<char*>(this + 1); }
};

// A ticket's word: its generation, and in the low bits where it stands. A put makes it pending, the worker answered;
// whoever takes it, or left it before, frees it with the next generation.
enum : uint32_t { kFree = 0, kPending = 1, kAnswered = 2, kPhase = 3, kWaited = 4, kLeft = 8, kGeneration = 16 };
struct Ticket {
  std::atomic<uint32_t> word{kFree};
  std::atomic<uint32_t> below{0};  // in the stack of free ones
  int32_t status = 0;
  int64_t deadline = 0, done = 0;
  int64_t tag = 0;         // 0, or what the door knows it by: it is then told of the answer
  uint32_t next_done = 0;  // in the door's list
};

constexpr double kFloorNs = 5000;  // of the margin: caches that went cold
constexpr double kColdNs = 5000;   // a deviation to begin with
constexpr double kWakeNs = 20000;  // where the worker does not spin: how late it wakes is not known before
constexpr int64_t kResults = 16;   // batches that may wait for the caller, where it does not say
constexpr int64_t kClear = 64;     // answers per look at the clock

// To be written soon, by this core. A line that is only read ahead comes shared, and is asked for again at the first
// store; compilers give the other instruction to newer processors alone, and the older 64-bit ones take it for a no-op.
inline void fetch(void* from, size_t bytes) {
  char* at = static_cast<char*>(from);
  for (size_t b = 0; b < bytes && b < 512; b += 64) {
#if defined(__x86_64__)
    asm volatile("prefetchw %0" : : "m"(at[b]));
#else
    __builtin_prefetch(at + b, 1);
#endif
  }
}

// Puts of one caller that nobody has been told of: their counts, and streams of one word of marks.
struct Bunch {
  int64_t put = 0, full = 0, replaced = 0;
  int64_t word = 0, arrived = 0, due = INT64_MAX;
  uint64_t bits = 0;
};

// Keeps a stop waiting for a put that has begun.
struct Inside {
  explicit Inside(std::atomic<int64_t>& puts) : count(puts) { count.fetch_add(1); }
  ~Inside() { count.fetch_sub(1); }
  std::atomic<int64_t>& count;
};

// A batch of results on its way to whoever takes them.
struct Results {
  std::vector<int64_t> streams, stamps;
  std::vector<uint8_t> status;
  std::unique_ptr<char[]> y;  // not touched before it is written: places that are never needed take no memory
  int64_t count = 0;
};

// What a batch of n costs: a line through what batches took, the older ones counting ever less. And a margin that few
// batches go beyond: four mean deviations, or what the rare ones took more than the line. The latter jumps beyond each
// batch that went beyond the margin, and falls slowly between them, so that fewer than one in a thousand does.
class Cost {
 public:
  // most: what the margin may be used for; a batch that took longer still says no more than that.
  void learn(double n, double ns, double most = 1e18);
  double line(int64_t n) const { return a() + b() * static_cast<double>(n); }
  double a() const { return a_.load(std::memory_order_relaxed); }
  double b() const { return b_.load(std::memory_order_relaxed); }
  // Before the first batch: the calls that it was measured by were warm.
  void widen(double ns) {
    deviation_.store(std::max(deviation_.load(), ns), std::memory_order_relaxed);
    tail_.store(margin(), std::memory_order_relaxed);
  }
  double margin() const {
    return std::max(kFloorNs + 4 * deviation_.load(std::memory_order_relaxed), tail_.load(std::memory_order_relaxed));
  }

 private:
  bool known_ = false;
  double n_ = 0, t_ = 0, nn_ = 0, nt_ = 0;  // means
  std::atomic<double> a_{0}, b_{0}, deviation_{0}, tail_{0};
};

}  // namespace rta_serve

struct rta_batcher {
  rta_batcher_config config;
  size_t stride = 0;  // bytes of a slot with its sample
  std::unique_ptr<char, void (*)(void*)> slots{nullptr, nullptr};
  int64_t words = 0;
  std::unique_ptr<std::atomic<uint64_t>[]> marked;  // bit: a stream with a sample that the worker has not seen
  // By stream: stamp of the first sample since the last batch, what the slack is counted from.
  std::unique_ptr<std::atomic<int64_t>[]> first;
  std::unique_ptr<rta_serve::Ticket[]> tickets;
  std::unique_ptr<char[]> answers;  // a row for each ticket

  // Shared between the callers and the worker.
  alignas(64) std::atomic<uint64_t> free_tickets{0};  // top of the stack + 1, and above a count of its changes
  alignas(64) std::atomic<int64_t> inside{0};         // puts under way
  alignas(64) std::atomic<int64_t> arrived{0};        // samples that came to an empty slot
  std::atomic<int64_t> wake_arrived{0}, wake_due{0};  // a put with this number, or due before that, wakes the workers
  alignas(64) std::atomic<bool> open{false}, stopping{false}, blocked{false};
  alignas(64) std::atomic<int64_t> put{0}, full{0}, replaced{0};
  std::atomic<int64_t> manual_now{0};
  std::atomic<int64_t> present{0};  // streams that were not removed
  std::atomic<int64_t> emptied{0};  // marks of samples that were taken out

  // Results of batches: `made` by the worker, `taken` by the caller.
  std::vector<rta_serve::Results> results;
  alignas(64) std::atomic<uint32_t> made{0};
  alignas(64) std::atomic<uint32_t> taken{0};
  std::atomic<bool> abandoned{false};

  // The worker's own.
  std::vector<uint64_t> ours;  // bit: a stream that waits
  std::vector<int64_t> due;    // by stream
  std::vector<int64_t> order;  // streams, to choose from
  std::vector<int64_t> list, stamps, put_at;
  std::vector<int32_t> ticket_of;
  std::vector<char> rows;  // inputs of a batch
  int64_t seen = 0, waiting = 0, earliest = INT64_MAX;
  double rate = 0;      // samples of the last batches for each nanosecond
  int64_t left_at = 0;  // the last one
  rta_serve::Cost cost;
  rta_batcher_stats stats{};  // its counts are written by the worker alone, the others are above
  bool started = false;
  uint32_t born = 0;
  std::atomic<uint32_t> ended{0};

  // A door for other processes (door.cc), and its tickets that are answered: number + 1 of the newest, and so on.
  std::atomic<std::atomic<uint32_t>*> door_bell{nullptr};
  alignas(64) std::atomic<uint32_t> door_done{0};

  rta_workers* workers = nullptr;  // nullptr: manual, and none were given
  std::unique_ptr<rta_workers> own;
  rta_batcher* next_joining = nullptr;
  alignas(64) std::atomic<bool> busy{false};  // a worker runs a batch; what is the worker's own is that one's

  rta_serve::Slot& slot(int64_t stream) {
    return *reinterpret_cast<rta_serve::Slot*>(slots.get() + static_cast<size_t>(stream) * stride);
  }
  int64_t now() const;

  // streams.cc
  enum class Change { kReset, kRemove, kAdd };
  int change(int64_t stream, Change what);
  void start_anew();  // after the worker: what it has not come to

  // put.cc
  uint32_t take_slot(rta_serve::Slot& s);  // and what its word was
  int64_t put_sample(int64_t stream, const void* x, int64_t stamp, int64_t tag = 0);
  void put_samples(int64_t count, const int64_t* streams, const char* x, const int64_t* stamps, int64_t stamp,
                   int64_t* codes);
  void tell_door(int32_t ticket);
  int32_t take_ticket();
  void free_ticket(int32_t index);
  void answer(int32_t ticket, int status, int64_t done);
  int64_t put_one(int64_t stream, const void* x, int64_t stamp, int64_t at, int64_t tag, rta_serve::Bunch& bunch);
  void announce(rta_serve::Bunch& bunch);
  void wake() {
    if (workers) workers->wake();
  }

  // turn.cc
  void look();                          // at what has arrived
  double most_margin() const;           // nanoseconds
  int64_t allowed_ns(int64_t n) const;  // what a batch of so many is given time for
  int64_t leaves_at(int64_t n) const { return earliest == INT64_MAX ? INT64_MAX : earliest - allowed_ns(n); }
  // planned: when it was to leave, as of the last sleep.
  int64_t leave(int64_t began, int64_t took, int64_t planned, const rta_serve::Before& before);
  bool measure();
  void end();  // nobody runs it any more
  rta_serve::Results* place();
  // How many more it takes until every stream that there is has a sample, or a batch is full: 0 or less, it leaves at
  // once.
  int64_t missing() const {
    return std::min(present.load(std::memory_order_relaxed), config.max_batch) -
           (waiting - emptied.load(std::memory_order_relaxed));
  }

 private:
  void choose();
  void count_hold_up(int64_t latest, int64_t oldest, const rta_serve::Before& before);
  void step(const void* x, void* y, int64_t count, uint8_t* status);
};
