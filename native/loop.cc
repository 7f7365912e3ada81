// Making, starting and ending a loop.
#include "loop.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "latest_memory.h"

#define RTA_API extern "C" __attribute__((visibility("default")))

using namespace rta_realtime;

namespace rta_realtime {
namespace {

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t host_now(void*) { return rta_latest_now_ns(); }

constexpr int64_t kSliceNs = 20'000'000;  // after which a sleeping loop looks whether it is to stop

// self: the flag that ends a sleep.
int64_t host_sleep(void* self, int64_t until) {
  const auto* stopping = static_cast<const std::atomic<int>*>(self);
  int64_t now = rta_latest_now_ns();
  while (now < until && !stopping->load(std::memory_order_relaxed)) {
    const int64_t to = until - now > 2 * kSliceNs ? now + kSliceNs : until;
    const timespec t = {static_cast<time_t>(to / 1'000'000'000), static_cast<long>(to % 1'000'000'000)};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, nullptr);
    now = rta_latest_now_ns();
  }
  return now;
}

int64_t host_spin(void*, int64_t until) {
  int64_t now = rta_latest_now_ns();
  while (now < until) {
    pause_core();
    now = rta_latest_now_ns();
  }
  return now;
}

constexpr size_t kStackTouched = 256 * 1024;

// Pages of the stack that a plan will need are there from the beginning.
__attribute__((noinline)) void touch_stack() {
  volatile char stack[kStackTouched];
  for (size_t i = 0; i < kStackTouched; i += 4096) stack[i] = 0;
  (void)stack[0];
}

bool sizes_fit(const rta_loop_config& c, const rta_loop& loop) {
  const size_t in = rta_latest_describe(c.read)->payload_bytes, out = rta_latest_describe(c.write)->payload_bytes;
  const auto takes = [&](const char* what, const Chain& chain, size_t gives) {
    if (chain.empty() || (chain.in_bytes() == in && chain.out_bytes() == gives)) return true;
    loop_error("%s takes %zu bytes and gives %zu; the slots have %zu and %zu", what, chain.in_bytes(),
               chain.out_bytes(), in, gives);
    return false;
  };
  return takes("the model", loop.main, out) && takes("the fallback", loop.fallback, out) &&
         takes("the forecast", loop.forecast, in);
}

bool settings_fit(const rta_loop_config& c) {
  if (!c.read || !c.write || c.step_count < 1) return loop_error("no slot to read or write, or no step"), false;
  if (c.read == c.write) return loop_error("one slot to read and to write"), false;
  if (c.period_ns < 1'000 || c.period_ns > 3'600'000'000'000) return loop_error("a period of 1 us to an hour"), false;
  if (c.spin_ns < 0 || c.spin_ns >= c.period_ns) return loop_error("spin_us has to be shorter than the period"), false;
  if (c.deadline_ns < 1 || c.deadline_ns > c.period_ns)
    return loop_error("a deadline of more than 0 and at most the period"), false;
  if (c.max_age_ns < 1) return loop_error("a max_age of more than 0"), false;
  if (c.on_miss < 0 || c.on_miss > 3 || c.on_stale < 0 || c.on_stale > 3 || c.on_old < 0 || c.on_old > 1 ||
      c.on_gap < 0 || c.on_gap > 1)
    return loop_error("an unknown on_miss, on_stale, on_old or on_gap"), false;
  if ((c.on_stale == RTA_STALE_FALLBACK) != (c.fallback_count > 0))
    return loop_error("a fallback and on_stale \"fallback\" go together"), false;
  if ((c.on_stale == RTA_STALE_FORECAST) != (c.forecast_count > 0))
    return loop_error("a forecast and on_stale \"forecast\" go together"), false;
  if (c.priority < 0 || c.priority > 99) return loop_error("a priority of 0 to 99"), false;
  return true;
}

}  // namespace

const rta_loop_clock kClock = {host_now, host_sleep, host_spin, nullptr};

}  // namespace rta_realtime

RTA_API rta_loop* rta_loop_create(const rta_loop_config* config) {
  if (!settings_fit(*config)) return nullptr;
  std::unique_ptr<rta_loop> loop(new (std::nothrow) rta_loop());
  if (!loop) return loop_error("no memory"), nullptr;
  loop->config = *config;
  loop->clock = config->clock ? *config->clock : kClock;
  if (!config->clock) loop->clock.self = &loop->stopping;
  if (config->name) loop->name = config->name;
  if (!loop->main.set("the model", config->steps, config->step_count) ||
      !loop->fallback.set("the fallback", config->fallback, config->fallback_count) ||
      !loop->forecast.set("the forecast", config->forecast, config->forecast_count) || !sizes_fit(*config, *loop))
    return nullptr;
  const size_t in = loop->main.in_bytes();
  loop->last_out = buffer(loop->main.out_bytes());
  loop->ahead = buffer(in);
  loop->behind = buffer(in);
  loop->nothing = buffer(in);
  loop->used = &loop->main;
  loop->stats = make_stats(config->name ? loop->name.c_str() : nullptr);
  if (!loop->stats) return nullptr;
  rta_loop_stats& s = *loop->stats;
  s.period_ns = config->period_ns;
  s.deadline_ns = config->deadline_ns;
  s.max_age_ns = config->max_age_ns;
  s.spin_ns = config->spin_ns;
  return loop.release();
}

RTA_API int rta_loop_every(rta_loop* loop, int64_t n, const rta_step* steps, int count, rta_latest* read,
                           rta_latest* write) {
  if (loop->begun) return loop_error("every() after the start");
  if (n < 1 || count < 1 || !write) return loop_error("every() takes n of 1 or more, a step and a slot to write");
  auto other = std::make_unique<Slower>();
  other->n = n;
  other->next = 0;
  other->read = read;
  other->write = write;
  if (!other->chain.set("every()", steps, count)) return -1;
  const size_t in = rta_latest_describe(read ? read : loop->config.read)->payload_bytes;
  const size_t out = rta_latest_describe(write)->payload_bytes;
  if (other->chain.in_bytes() != in || other->chain.out_bytes() != out)
    return loop_error("every(): takes %zu bytes and gives %zu; the slots have %zu and %zu", other->chain.in_bytes(),
                      other->chain.out_bytes(), in, out);
  loop->slower.push_back(std::move(other));
  return 0;
}

bool rta_loop::begin() {
  if (begun) return loop_error("a loop starts once; make another"), false;
  std::vector<const Chain*> chains = {&main, &fallback, &forecast};
  std::vector<std::pair<rta_latest*, rta_latest_role>> sides = {{config.read, RTA_LATEST_READER},
                                                                {config.write, RTA_LATEST_WRITER}};
  for (const auto& other : slower) {
    chains.push_back(&other->chain);
    sides.push_back({other->write, RTA_LATEST_WRITER});
    if (other->read) sides.push_back({other->read, RTA_LATEST_READER});
  }
  std::vector<const void*> wanted;
  for (const Chain* chain : chains)
    for (const rta_step& s : chain->steps())
      if (s.identity) wanted.push_back(s.identity);
  // A model may be in several chains of one loop: they take turns.
  std::sort(wanted.begin(), wanted.end());
  wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
  if (!take_identities(wanted)) return loop_error("a model of this loop is in another one that runs"), false;
  identities = wanted;
  for (const auto& [slot, role] : sides) {
    if (rta_latest_lend(slot, role) != 0) {
      end();
      return loop_error("a slot that something else %s already", role == RTA_LATEST_READER ? "reads" : "writes"), false;
    }
    borrowed.push_back({slot, role});
  }
  if (!measure()) {
    end();
    return false;
  }
  begun = true;
  return true;
}

void rta_loop::end() {
  for (const auto& [slot, role] : borrowed) rta_latest_take_back(slot, role);
  borrowed.clear();
  give_identities(identities);
  identities.clear();
}

// How long a warm run takes, and whether the fallback can be in time: the median of 31, after some that warm up.
bool rta_loop::measure() {
  constexpr int kRuns = 31, kBefore = 8;
  for (Chain* chain : {&main, &fallback}) {
    if (!chain->warms()) continue;
    int64_t took[kRuns];
    for (int i = -kBefore; i < kRuns; ++i) {
      const int64_t began = clock.now(clock.self);
      chain->run_for_nothing(nothing.get());
      if (i >= 0) took[i] = clock.now(clock.self) - began;
    }
    std::sort(took, took + kRuns);
    const int64_t median = took[kRuns / 2];
    if (chain == &fallback && median > config.deadline_ns) {
      loop_error("the fallback takes %.1f us; the deadline is %.1f us", static_cast<double>(median) * 1e-3,
                 static_cast<double>(config.deadline_ns) * 1e-3);
      return false;
    }
    if (chain == &main) first_warm_ns = next_warm_ns = median;
  }
  return true;
}

void rta_loop::settle() {
  const auto note = [&](const std::string& what) { refused += (refused.empty() ? "" : "; ") + what; };
  prctl(PR_SET_NAME, "rtaccel-loop", 0, 0, 0);
  prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
  if (config.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (config.cpu < CPU_SETSIZE) CPU_SET(config.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
      note("core " + std::to_string(config.cpu) + ": " + std::strerror(errno));
  }
  if (config.priority > 0) {
    sched_param param = {};
    param.sched_priority = config.priority;
    const int code = pthread_setschedparam(pthread_self(), SCHED_FIFO, &param);
    if (code != 0) note("SCHED_FIFO " + std::to_string(config.priority) + ": " + std::strerror(code));
    put(stats->fifo, code == 0 ? config.priority : 0);
  }
  touch_stack();
  if (config.lock_memory) {
    bool all = mlock(stats, sizeof *stats) == 0;
    for (const auto& [slot, role] : borrowed) all &= rta_latest_lock_memory(slot) == 0;
    for (const Chain* chain : {&main, &fallback, &forecast})
      if (!chain->empty()) chain->lock_memory(all);
    for (const auto& other : slower) other->chain.lock_memory(all);
    all &= mlock(last_out.get(), main.out_bytes()) == 0;
    put(stats->locked, all);
    if (!all) note(std::string("mlock: ") + std::strerror(errno));
  }
}

namespace {

void* body(void* self) {
  auto* loop = static_cast<rta_loop*>(self);
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

RTA_API const char* rta_loop_refused(const rta_loop* loop) { return loop->refused.c_str(); }

RTA_API int rta_loop_run(rta_loop* loop, int64_t cycles) {
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

RTA_API void rta_loop_stop(rta_loop* loop) { loop->stopping.store(1, std::memory_order_relaxed); }

RTA_API int rta_loop_wait(rta_loop* loop, int64_t timeout_ns) {
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

RTA_API const char* rta_loop_failure(const rta_loop* loop) { return loop->failed ? loop->failure.c_str() : nullptr; }

RTA_API const rta_loop_stats* rta_loop_statistics(const rta_loop* loop) { return loop->stats; }
