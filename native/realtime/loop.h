// A loop inside: chains of steps with the memory between them, and what a cycle needs.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "rta_loop.h"

namespace rta_realtime {

int loop_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Steps in order. Memory between them, for a scrap result, and for their past is there from the beginning.
class Chain {
 public:
  // False with loop_error where one does not take what the one before gives. what: of messages.
  bool set(const char* what, const rta_step* steps, int count);
  bool empty() const { return steps_.empty(); }
  size_t in_bytes() const { return steps_.front().in_bytes; }
  size_t out_bytes() const { return steps_.back().out_bytes; }
  bool warms() const;
  bool has_past() const;

  int run(const void* in, void* out);
  // For nothing: the result goes into scrap, and the past is as before.
  void run_for_nothing(const void* in);
  void reset();
  const char* error() const;  // of the step that failed
  const std::vector<rta_step>& steps() const { return steps_; }
  void lock_memory(bool& all) const;

 private:
  std::vector<rta_step> steps_;
  std::vector<std::unique_ptr<char, void (*)(void*)>> between_, past_;
  std::unique_ptr<char, void (*)(void*)> scrap_{nullptr, nullptr};
  size_t failed_ = 0;
};

std::unique_ptr<char, void (*)(void*)> buffer(size_t bytes);  // 64-byte lines, zeros

struct Slower {  // a chain of another rate
  int64_t n, next;
  Chain chain;
  rta_latest *read, *write;
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
  int64_t start_ns = 0, due = 0, last_seq = 0;
  rta_latest_sample sample = {};
  rta_realtime::Chain* used = nullptr;  // by the last cycle: what is to be kept warm
  std::unique_ptr<char, void (*)(void*)> last_out{nullptr, nullptr}, ahead{nullptr, nullptr}, behind{nullptr, nullptr},
      nothing{nullptr, nullptr};
  bool has_out = false, was_stale = false, has_ahead = false;
  int64_t out_stamp = 0;
  int64_t first_warm_ns = 0, next_warm_ns = 0;

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
  void warm_up(int64_t until);
  bool compute(int64_t t0, int64_t& stamp, int64_t& origin, void*& result);
  bool run_slower();
  void foresee();
};
