// Threads that stand by for one plan: fork and join in about a microsecond, and no core kept busy by an idle plan.
//
// A worker looks out for work for kSpinNs after its last, then sleeps until it is called. Parts that no worker has
// begun are done by the caller, so a worker that is late or held up costs no more than its own part. Nothing here
// allocates or takes a lock after construction; the one system call of a run is the one that wakes a sleeper.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace rta {

// Cores that this thread may run on.
std::vector<int> allowed_cores();

class Pool {
 public:
  using Job = void (*)(const void* context, int part);

  static constexpr int kMostThreads = 32;
  static constexpr int64_t kSpinNs = 100'000;
  // Measured (Xeon Sapphire Rapids under KVM, 2026-11): an awake worker takes a part and hands it back in 0.33 us more
  // than the part takes. A sleeping one answers after 25 to 60 us, of which the caller spends 10 to 20 on waking it.
  static constexpr int64_t kHandOverNs = 350;
  static constexpr int64_t kAnswerNs = 50'000;
  static constexpr int64_t kPartNs = 4 * kHandOverNs;  // a part is worth handing over from here on

  // Workers beside the caller, each pinned to a core of its own out of `cores`, none of them the caller's.
  Pool(int workers, const std::vector<int>& cores);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Calls job(context, part) for every part below `parts` (at most as many as threads), part 0 here; returns when all
  // are done.
  void run(Job job, const void* context, int parts);
  // Whether workers should take part in a call that they make so much shorter; called at its start, it wakes them where
  // they should. Sleepers are woken where that pays within this call, or where calls follow one another so closely that
  // they would still be awake: never for a lone short call, which would only get slower.
  bool ready(int64_t saved_ns);
  void done();  // after a call that asked
  // After fork() the child has no workers: run() must not be called there.
  bool forked() const;
  // Workers take the scheduling policy and priority of this thread. 0, or an errno.
  int take_schedule();

 private:
  struct Worker {
    Pool* pool;
    int index, home;
    pthread_t thread;
  };

  static void* enter(void* worker);
  void work(const Worker& worker);
  void sleep();
  void ring();
  void stop(size_t started);

  // Parts not begun yet, one bit each, below the number of the run. A part is claimed by clearing its bit, which
  // fails once the run is over.
  alignas(64) std::atomic<uint64_t> open_{0};
  Job job_ = nullptr;
  const void* context_ = nullptr;
  std::atomic<int> caller_core_{-1};
  uint32_t number_ = 0;
  int64_t last_done_ns_ = 0;
  alignas(64) std::atomic<uint32_t> finished_{0};  // parts of this run that workers finished
  std::atomic<uint32_t> joining_{0};               // the caller sleeps until there are more
  alignas(64) std::atomic<uint32_t> bell_{0};      // counts the calls that sleepers wait for
  std::atomic<uint32_t> asleep_{0};
  std::atomic<bool> stopping_{false};
  int spare_core_ = 0;
  uint32_t forks_;
  std::vector<Worker> workers_;
};

}  // namespace rta
