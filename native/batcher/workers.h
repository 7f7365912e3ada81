// What workers are inside. workers.cc has their threads, edf.cc the choice of the next batch.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "rta_workers.h"

struct rta_batcher;

namespace rta_serve {

// The batch before, of the same worker: what may have held up the next one.
struct Before {
  const rta_batcher* batcher = nullptr;
  int64_t began = INT64_MIN, ended = INT64_MIN;
};

// A batch that may leave.
struct Candidate {
  rta_batcher* batcher;
  int64_t due, waiting, more;  // more: arrivals that a sleep allows for
  int64_t start;               // the latest
  bool whole;
};

// What is to be done next: a batch to run, or when to look again.
struct Choice {
  rta_batcher* batcher = nullptr;  // goes now
  rta_batcher* next = nullptr;     // the one whose latest start is first
  int64_t start = INT64_MAX;       // that start
  int64_t sleep_until = INT64_MAX;
  bool restless = false;  // something ends in a moment: no sleep
};

struct Worker {
  rta_workers* workers;
  int core = -1;
  pthread_t thread = {};
  bool threaded = false;
  Before before;
};

}  // namespace rta_serve

struct rta_workers {
  ~rta_workers();

  int threads = 1, priority = 0;
  bool manual = false;
  std::vector<rta_serve::Worker> workers;
  std::string refused;
  std::mutex refusing;
  uint32_t born = 0;
  std::atomic<uint32_t> settled{0};

  // Whoever holds this chooses the next batch, and waits for its time.
  std::mutex leading;
  alignas(64) std::atomic<uint32_t> asleep{0};             // the one that leads
  alignas(64) std::atomic<rta_batcher*> joining{nullptr};  // a list, by rta_batcher::next_joining
  std::atomic<int64_t> served{0};
  std::atomic<bool> ending{false};
  alignas(64) std::atomic<uint32_t> finished{0};  // batches
  std::atomic<int64_t> batches{0}, busy_ns{0};

  // The leader's own.
  std::vector<rta_batcher*> batchers;
  std::vector<rta_serve::Candidate> candidates;
  uint32_t seen_finished = 0;
  const rta_batcher* planned_for = nullptr;  // whose start the last sleep was for
  int64_t planned_at = INT64_MAX;
  int64_t clock = 0;  // manual

  // workers.cc
  bool start();
  void end();
  void join(rta_batcher* batcher);
  void forget(const rta_batcher* batcher);  // manual
  void wake();
  void work(rta_serve::Worker& self);
  void run(rta_serve::Worker& self, rta_batcher* batcher, int64_t began, int64_t took, int64_t planned);

  // edf.cc
  void welcome();
  rta_serve::Choice choose(int64_t now);
  rta_batcher* next();  // waits for it; nullptr: they end

 private:
  void settle(rta_serve::Worker& self);
  void refuse(const std::string& what, int error);
  bool look(rta_serve::Choice& choice, int64_t now);
  int64_t plan(bool with_more);
  bool news() const;
  void sleep(const rta_serve::Choice& choice);
};
