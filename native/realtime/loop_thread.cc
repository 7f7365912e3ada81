// The thread of a loop: what it asks of the system, its start and its end.
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include <cstring>

#include "_system/os.h"
#include "realtime/latest_memory.h"
#include "realtime/loop.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

namespace {

constexpr size_t kStackTouched = 256 * 1024;

// Pages of the stack that a plan will need are there from the beginning.
__attribute__((noinline)) void touch_stack() {
  volatile char stack[kStackTouched];
  for (size_t i = 0; i < kStackTouched; i += 4096) stack[i] = 0;
  (void)stack[0];
}

}  // namespace

void rta_loop::settle() {
  const auto note = [&](const std::string& what) { refused += (refused.empty() ? "" : "; ") + what; };
  const auto note_all = [&](const std::string& what) {
    if (!what.empty()) note(what);
  };
  rta::os::name_thread("rtaccel-loop");
  rta::os::sleep_exactly();
  if (config.cpu >= 0)
    if (const int code = rta::os::pin(config.cpu))
      note("core " + std::to_string(config.cpu) + ": " + std::strerror(code));
  if (config.priority > 0) {
    const int code = rta::os::run_first(config.priority);
    if (code != 0) note("SCHED_FIFO " + std::to_string(config.priority) + ": " + std::strerror(code));
    put(stats->fifo, code == 0 ? config.priority : 0);
  }
  touch_stack();
  for (const Chain* chain : {&main, &fallback, &forecast}) note_all(chain->prepare());
  for (const auto& other : slower) note_all(other->chain.prepare());
  if (config.lock_memory) {
    bool all = mlock(stats, sizeof *stats) == 0;
    for (const auto& [slot, role] : borrowed) all &= rta_latest_lock_memory(slot) == 0;
    for (const Chain* chain : {&main, &fallback, &forecast})
      if (!chain->empty()) chain->lock_memory(all);
    for (const auto& other : slower) other->chain.lock_memory(all);
    all &= last_out.lock();
    put(stats->locked, all);
    if (!all) note(std::string("mlock: ") + std::strerror(errno));
  }
}

namespace {

thread_local const rta_loop* own = nullptr;  // the loop whose thread this is

void* body(void* self) {
  auto* loop = static_cast<rta_loop*>(self);
  own = loop;
  loop->settle();
  if (loop->config.strict && !loop->refused.empty()) {
    loop->ready.store(-1, std::memory_order_release);
    return nullptr;
  }
  loop->ready.store(1, std::memory_order_release);
  loop->start_ns = loop->clock.now(loop->clock.self) + loop->config.period_ns;
  loop->due = loop->start_ns;
  put(loop->stats->started_ns, loop->start_ns);
  while (!loop->stopping.load(std::memory_order_relaxed) && loop->cycle()) {
  }
  put(loop->stats->state, loop->failed ? RTA_LOOP_FAILED : RTA_LOOP_STOPPED);
  loop->ended.store(1, std::memory_order_release);
  return nullptr;
}

void nap() {
  const timespec t = {0, 200'000};
  nanosleep(&t, nullptr);
}

void collect(rta_loop* loop) {
  if (!loop->threaded) return;
  if (loop->born == generation.load(std::memory_order_relaxed)) pthread_join(loop->thread, nullptr);
  loop->threaded = false;
  loop->end();
}

}  // namespace

RTA_API int rta_loop_start(rta_loop* loop) {
  if (!loop) return loop_error("the %s is NULL", kNoLoop);
  if (!loop->begin()) return -1;
  put(loop->stats->state, RTA_LOOP_RUNNING);
  // Signals are the other threads' business.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int code = pthread_create(&loop->thread, nullptr, body, loop);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (code != 0) {
    put(loop->stats->state, RTA_LOOP_FAILED);
    loop->end();
    return loop_error("no thread: %s", std::strerror(code));
  }
  loop->threaded = true;
  loop->born = generation.load(std::memory_order_relaxed);
  while (loop->ready.load(std::memory_order_acquire) == 0) nap();
  if (loop->ready.load(std::memory_order_acquire) > 0) return 0;
  put(loop->stats->state, RTA_LOOP_FAILED);
  collect(loop);
  return loop_error("the system does not allow: %s", loop->refused.c_str());
}

RTA_API const char* rta_loop_refused(const rta_loop* loop) { return loop ? loop->refused.c_str() : ""; }

RTA_API int rta_loop_run(rta_loop* loop, int64_t cycles) {
  if (!loop) return loop_error("the %s is NULL", kNoLoop);
  if (loop->threaded) return loop_error("the loop has a thread already");
  if (!loop->begun) {
    if (!loop->begin()) return -1;
    loop->start_ns = loop->due = loop->clock.now(loop->clock.self) + loop->config.period_ns;
    put(loop->stats->started_ns, loop->start_ns);
    put(loop->stats->state, RTA_LOOP_RUNNING);
  }
  const int64_t until = loop->stats->cycles + loop->stats->skipped + cycles;
  while (!loop->stopping.load(std::memory_order_relaxed) && loop->stats->cycles + loop->stats->skipped < until)
    if (!loop->cycle()) {
      put(loop->stats->state, RTA_LOOP_FAILED);
      loop->end();
      return loop_error("%s", loop->failure.c_str());
    }
  return 0;
}

RTA_API void rta_loop_stop(rta_loop* loop) {
  if (loop) loop->stopping.store(1, std::memory_order_relaxed);
}

RTA_API int rta_loop_wait(rta_loop* loop, int64_t timeout_ns) {
  if (!loop) return loop_error("the %s is NULL", kNoLoop);
  if (own == loop) return -1;
  const int64_t until = rta_latest_now_ns() + timeout_ns;
  while (loop->threaded && !loop->ended.load(std::memory_order_acquire) &&
         loop->born == generation.load(std::memory_order_relaxed)) {
    if (rta_latest_now_ns() >= until) return 0;
    nap();
  }
  collect(loop);
  return 1;
}

RTA_API void rta_loop_destroy(rta_loop* loop) {
  if (!loop) return;
  rta_loop_stop(loop);
  while (!rta_loop_wait(loop, 1'000'000'000)) {
  }
  loop->end();
  if (loop->stats->state == RTA_LOOP_RUNNING || loop->stats->state == RTA_LOOP_MADE)
    put(loop->stats->state, RTA_LOOP_STOPPED);
  munmap(loop->stats, sizeof *loop->stats);
  delete loop;
}

RTA_API const char* rta_loop_failure(const rta_loop* loop) {
  return loop && loop->failed ? loop->failure.c_str() : nullptr;
}

RTA_API const rta_loop_stats* rta_loop_statistics(const rta_loop* loop) { return loop ? loop->stats : nullptr; }
