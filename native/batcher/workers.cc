// Threads that batchers share: making them, ending them, and what they do all day.
#include "workers.h"

#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "batcher.h"
#include "realtime/latest_memory.h"
#include "realtime/loop.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_serve;

namespace {

bool settings_fit(const rta_workers_config& c) {
  if (c.threads < 1 || c.threads > RTA_MOST_WORKERS)
    return batcher_error("workers of 1 to %d threads", RTA_MOST_WORKERS), false;
  if (c.manual && c.threads != 1) return batcher_error("manual workers of one thread"), false;
  if (c.priority < 0 || c.priority > 99) return batcher_error("a priority of 0 to 99"), false;
  for (int i = 0; c.cores && i < c.threads; ++i)
    if (c.cores[i] < -1 || c.cores[i] > 4095) return batcher_error("core %d", c.cores[i]), false;
  return true;
}

void* body(void* given) {
  Worker& self = *static_cast<Worker*>(given);
  self.workers->work(self);
  return nullptr;
}

}  // namespace

void rta_workers::refuse(const std::string& what, int error) {
  const std::lock_guard<std::mutex> one(refusing);
  refused += (refused.empty() ? "" : "; ") + what + ": " + std::strerror(error);
}

void rta_workers::settle(Worker& self) {
  rta::os::name_thread("rtaccel-batch");
  rta::os::sleep_exactly();
  if (self.core >= 0)
    if (const int error = rta::os::pin(self.core)) refuse("core " + std::to_string(self.core), error);
  if (priority > 0)
    if (const int error = rta::os::run_first(priority)) refuse("SCHED_FIFO " + std::to_string(priority), error);
}

bool rta_workers::start() {
  born = rta_realtime::generation.load(std::memory_order_relaxed);
  if (manual) return true;
  sigset_t all, before;  // signals are the other threads' business
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int code = 0;
  for (Worker& worker : workers) {
    code = pthread_create(&worker.thread, nullptr, body, &worker);
    if (code != 0) break;
    worker.threaded = true;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (code != 0) return batcher_error("no thread: %s", std::strerror(code)), false;
  for (uint32_t n = settled.load(); n < static_cast<uint32_t>(threads); n = settled.load())
    rta::os::wait_at(settled, n, INT64_MAX);
  return true;
}

void rta_workers::end() {
  ending.store(true);
  wake();
  const bool here = born == rta_realtime::generation.load(std::memory_order_relaxed);  // fork() leaves threads behind
  for (Worker& worker : workers) {
    if (worker.threaded && here) pthread_join(worker.thread, nullptr);
    worker.threaded = false;
  }
}

rta_workers::~rta_workers() { end(); }

void rta_workers::join(rta_batcher* batcher) {
  served.fetch_add(1);
  batcher->next_joining = joining.load(std::memory_order_relaxed);
  while (!joining.compare_exchange_weak(batcher->next_joining, batcher)) {
  }
  wake();
}

void rta_workers::forget(const rta_batcher* batcher) {
  welcome();
  const auto gone = std::remove(batchers.begin(), batchers.end(), batcher);
  served.fetch_sub(batchers.end() - gone);
  batchers.erase(gone, batchers.end());
}

void rta_workers::wake() {
  if (asleep.exchange(0) != 0) rta::os::wake_all(asleep);
}

void rta_workers::run(Worker& self, rta_batcher* batcher, int64_t began, int64_t took, int64_t planned) {
  batcher->leave(began, took, planned, self.before);
  const int64_t ended = batcher->now();
  self.before = {batcher, began, ended};
  batches.fetch_add(1, std::memory_order_relaxed);
  busy_ns.fetch_add(ended - began, std::memory_order_relaxed);
}

void rta_workers::work(Worker& self) {
  settle(self);
  settled.fetch_add(1);
  rta::os::wake_all(settled);
  for (;;) {
    rta_batcher* batcher;
    int64_t planned = INT64_MAX;
    {
      const std::lock_guard<std::mutex> lead(leading);
      batcher = next();
      if (planned_for == batcher) planned = planned_at;
    }
    if (!batcher) return wake();
    run(self, batcher, rta_latest_now_ns(), 0, planned);
    batcher->busy.store(false, std::memory_order_release);
    finished.fetch_add(1);
    wake();
  }
}

RTA_API rta_workers* rta_workers_create(const rta_workers_config* config) {
  if (!config) return batcher_error("the config is NULL"), nullptr;
  if (!settings_fit(*config)) return nullptr;
  try {
    auto made = std::make_unique<rta_workers>();
    made->threads = config->threads;
    made->priority = config->priority;
    made->manual = config->manual != 0;
    made->workers.resize(static_cast<size_t>(config->threads));
    for (int i = 0; i < config->threads; ++i) {
      made->workers[static_cast<size_t>(i)].workers = made.get();
      made->workers[static_cast<size_t>(i)].core = config->cores ? config->cores[i] : -1;
    }
    return made->start() ? made.release() : nullptr;
  } catch (const std::bad_alloc&) {
    return batcher_error("no memory for workers"), nullptr;
  }
}

RTA_API const char* rta_workers_refused(const rta_workers* w) { return w ? w->refused.c_str() : ""; }

RTA_API int rta_workers_stop(rta_workers* w) {
  if (!w) return batcher_error("the workers are NULL; rta_workers_create said why when they were not made");
  if (w->served.load() != 0 && w->born == rta_realtime::generation.load(std::memory_order_relaxed))
    return batcher_error("%lld batchers use these workers", static_cast<long long>(w->served.load()));
  w->end();
  return 0;
}

RTA_API void rta_workers_destroy(rta_workers* w) { delete w; }

RTA_API void rta_workers_statistics(const rta_workers* w, rta_workers_stats* s) {
  *s = {};
  if (w) *s = {w->served.load(), w->batches.load(), w->busy_ns.load()};
}

RTA_API rta_batcher* rta_workers_turn(rta_workers* w, int64_t now_ns, int64_t took_ns, int64_t* until) {
  if (until) *until = INT64_MAX;
  if (!w || !w->manual || now_ns < w->clock) return nullptr;
  w->clock = now_ns;
  w->welcome();
  for (rta_batcher* b : w->batchers) b->manual_now.store(now_ns);
  const Choice choice = w->choose(now_ns);
  if (until) *until = choice.start;
  if (!choice.batcher) return nullptr;
  if (!choice.batcher->place()) {
    choice.batcher->blocked.store(true);
    return nullptr;
  }
  Worker& self = w->workers[0];
  w->run(self, choice.batcher, now_ns, took_ns, INT64_MAX);
  w->clock = now_ns + took_ns;
  for (rta_batcher* b : w->batchers) b->manual_now.store(w->clock);
  return choice.batcher;
}
