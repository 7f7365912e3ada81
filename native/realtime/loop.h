// A loop inside: chains of steps with the memory between them, and what a cycle needs.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "realtime/loop_spin.h"
#include "rta_loop.h"

namespace rta_realtime {

std::string listed(const std::vector<size_t>& bytes);  // of messages
int loop_error(const char* format, ...) __attribute__((format(printf, 1, 2)));
constexpr char kNoLoop[] = "loop, which was not made,";

std::unique_ptr<char, void (*)(void*)> buffer(size_t bytes);  // 64-byte lines, zeros

// Memory for some tensors.
class Buffers {
 public:
  void make(const std::vector<size_t>& bytes);
  void* const* data() const { return pointers_.data(); }
  const void* const* in() const { return pointers_.data(); }
  bool lock() const;
  void swap(Buffers& other) { std::swap(*this, other); }

 private:
  std::vector<std::unique_ptr<char, void (*)(void*)>> memory_;
  std::vector<void*> pointers_;
  std::vector<size_t> bytes_;
};

// Steps in order. Memory between them, for a scrap result, and for their past is there from the beginning.
class Chain {
 public:
  // False with loop_error where one does not take what the one before gives. what: of messages. ports: as in
  // rta_loop_ports.
  bool set(const char* what, const rta_step* steps, int count, const rta_step_ports* ports);
  bool empty() const { return steps_.empty(); }
  const std::vector<size_t>& in_bytes() const { return in_.front(); }
  const std::vector<size_t>& out_bytes() const { return out_.back(); }
  bool warms() const;
  bool has_past() const;

  int run(const void* const* in, void* const* out);
  // For nothing: the result goes into scrap, and the past is as before.
  void run_for_nothing(const void* const* in);
  void reset();
  const char* error() const;  // of the step that failed
  const std::vector<rta_step>& steps() const { return steps_; }
  void lock_memory(bool& all) const;
  std::string prepare() const;  // of each step; what one of them said

 private:
  std::vector<rta_step> steps_;
  std::vector<std::vector<size_t>> in_, out_;  // bytes of each tensor of a step
  std::vector<Buffers> between_;
  std::vector<std::unique_ptr<char, void (*)(void*)>> past_;
  Buffers scrap_;
  size_t failed_ = 0;
};

// Slots with the newest value of each, as of the last take.
class Inputs {
 public:
  void set(rta_latest* const* slots, int count, uint64_t any_age);
  bool empty() const { return slots_.empty(); }
  const std::vector<rta_latest*>& slots() const { return slots_; }
  // The newest values. Those that a look has seen are still new to the next take.
  void look();
  void take();
  bool none() const { return none_; }      // one of them was never put
  bool is_new() const { return is_new_; }  // one of them was not taken before
  int64_t stamp() const { return stamp_; }
  const void* const* data() const { return data_.data(); }
  // Of the last take: values that were replaced before it, and new ones with a stamp after a time.
  int64_t overwritten() const { return overwritten_; }
  int64_t after(int64_t ns) const;

 private:
  std::vector<rta_latest*> slots_;
  std::vector<rta_latest_sample> samples_;
  std::vector<int64_t> last_seq_, before_;  // of the values of the last take, and of the one before
  std::vector<const void*> data_;
  uint64_t any_age_ = 0;
  bool none_ = true, is_new_ = false;
  int64_t stamp_ = 0, overwritten_ = 0;
};

struct Slower {  // a chain of another rate
  int64_t n, next;
  Chain chain;
  Inputs inputs;  // empty: those of the loop
  std::vector<rta_latest*> write;
  std::vector<void*> results;
};

// Identities of steps in running loops.
bool take_identities(const std::vector<const void*>& wanted);
void give_identities(const std::vector<const void*>& held);

rta_loop_stats* make_stats(const char* name);
void count(rta_loop_histogram& histogram, int64_t ns);

extern const rta_loop_clock kClock;

inline void add(int64_t& counter, int64_t n = 1) { __atomic_store_n(&counter, counter + n, __ATOMIC_RELAXED); }
inline void put(int64_t& field, int64_t value) { __atomic_store_n(&field, value, __ATOMIC_RELAXED); }

}  // namespace rta_realtime

struct rta_loop {
  rta_loop_config config;
  rta_loop_clock clock;
  std::string name;
  rta_realtime::Chain main, fallback, forecast;
  std::vector<std::unique_ptr<rta_realtime::Slower>> slower;
  rta_loop_stats* stats = nullptr;

  // Of the cycles; only the thread that runs them.
  int64_t start_ns = 0, due = 0;
  rta_realtime::Inputs inputs;
  std::vector<rta_latest*> write;
  std::vector<void*> results;           // of this cycle, in the slots' next buffers
  rta_realtime::Chain* used = nullptr;  // by the last cycle: what is to be kept warm
  rta_realtime::Buffers last_out, ahead, behind, nothing;
  bool has_out = false, was_stale = false, has_ahead = false;
  int64_t out_stamp = 0;
  int64_t first_warm_ns = 0, next_warm_ns = 0;
  rta_realtime::SpinTime spin;

  std::vector<const void*> identities;
  std::vector<std::pair<rta_latest*, rta_latest_role>> borrowed;
  std::atomic<int> stopping{0}, ended{0}, ready{0};
  std::string failure, refused;
  bool failed = false, threaded = false, begun = false;
  pthread_t thread = {};
  uint32_t born = 0;  // the generation (latest_memory.h) of the thread: a forked child has none

  bool begin();  // borrows slots and identities, measures
  void end();
  bool cycle();  // false: the loop has ended by itself
  bool fail(rta_loop_failed_by by, const char* format, ...) __attribute__((format(printf, 3, 4)));
  bool measure();
  void settle();  // priority, core, memory, of the calling thread

 private:
  // What a cycle does, and what came of it.
  struct Decision {
    bool none = true, is_new = false, stale = false;
    int64_t stamp = 0, age = 0, origin = RTA_ORIGIN_PUT;
    bool computed = false, late = false, published = false, held = false;
  };

  void warm_up(int64_t until);
  void rehearse(int64_t now);
  Decision decide(int64_t t0) const;
  bool compute(Decision& d);
  void publish(Decision& d, int64_t t1);
  void count_inputs(const Decision& d, int64_t t0);
  void count_results(const Decision& d, int64_t t0, int64_t t1);
  bool run_slower();
  void foresee();
};
