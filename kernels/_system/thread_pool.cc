#include "_system/thread_pool.h"

#include <signal.h>
#include <time.h>

#include <cerrno>
#include <cstring>

#include "_core/stage.h"
#include "_system/os.h"

namespace rta {
namespace {

constexpr size_t kStackBytes = size_t{1} << 20;
constexpr int kLooksPerClock = 32;

std::atomic<uint32_t> forks{0};  // of the line of processes that led to this one

void count_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  if (registered != 0) fail("pthread_atfork: %s", std::strerror(registered));
}

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

int64_t now_ns() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * int64_t{1'000'000'000} + t.tv_nsec;
}

// The number of the run stays above; a run that is over has no parts.
uint32_t parts_of(uint64_t open) { return static_cast<uint32_t>(open); }

}  // namespace

std::vector<int> allowed_cores() {
  std::vector<int> cores = os::allowed_cores();
  if (cores.empty()) fail("the cores that this thread may run on: %s", std::strerror(errno));
  return cores;
}

Pool::Pool(int workers, const std::vector<int>& cores) {
  count_forks();
  forks_ = forks.load(std::memory_order_relaxed);
  size_t here = 0;
  while (here + 1 < cores.size() && cores[here] != os::current_core()) ++here;
  spare_core_ = cores[here];

  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  sigset_t all, before;  // signals are for the threads of the program
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  workers_.reserve(static_cast<size_t>(workers));
  int failed = 0;
  for (int i = 0; i < workers && !failed; ++i) {
    workers_.push_back({this, i, cores[(here + 1 + static_cast<size_t>(i)) % cores.size()], {}});
    os::begin_on(attributes, workers_.back().home);
    failed = pthread_create(&workers_.back().thread, &attributes, enter, &workers_.back());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (!failed) return;
  stop(workers_.size() - 1);
  fail("a thread could not be made: %s", std::strerror(failed));
}

Pool::~Pool() {
  if (!forked()) stop(workers_.size());
}

void Pool::stop(size_t started) {
  stopping_.store(true);
  bell_.fetch_add(1);
  os::wake_all(bell_);
  for (size_t i = 0; i < started; ++i) pthread_join(workers_[i].thread, nullptr);
}

bool Pool::forked() const { return forks_ != forks.load(std::memory_order_relaxed); }

int Pool::take_schedule() {
  int policy;
  sched_param wanted;
  int result = pthread_getschedparam(pthread_self(), &policy, &wanted);
  for (size_t i = 0; i < workers_.size() && result == 0; ++i)
    result = pthread_setschedparam(workers_[i].thread, policy, &wanted);
  return result;
}

void* Pool::enter(void* worker) {
  const Worker& self = *static_cast<const Worker*>(worker);
  os::name_thread("rtaccel");
  self.pool->work(self);
  return nullptr;
}

void Pool::work(const Worker& self) {
  int core = self.home, looks = 0;
  int64_t idle_since = now_ns();
  for (;;) {
    uint64_t seen = open_.load(std::memory_order_acquire);
    if (const uint32_t parts = parts_of(seen)) {
      // The caller may have come to this worker's core: they change places.
      const int wanted = caller_core_.load(std::memory_order_relaxed) == self.home ? spare_core_ : self.home;
      if (wanted != core && os::pin(wanted) == 0) core = wanted;
      // The same part in every run where it can be: its weights are in this core's cache.
      const uint32_t own = 1u << (self.index + 1), mine = parts & own ? own : parts & (~parts + 1);
      if (!open_.compare_exchange_strong(seen, seen & ~uint64_t{mine}, std::memory_order_acq_rel)) continue;
      job_(context_, __builtin_ctz(mine));
      finished_.fetch_add(1);
      if (joining_.load()) os::wake_all(finished_);
      looks = 0;
      idle_since = now_ns();
      continue;
    }
    pause();
    if (++looks % kLooksPerClock) continue;
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (now_ns() - idle_since < kSpinNs) continue;
    sleep();
    idle_since = now_ns();
  }
}

// Says that it sleeps, then looks once more; the caller publishes work, then looks for sleepers. One of them sees the
// other, as these are sequentially consistent.
void Pool::sleep() {
  const uint32_t rung = bell_.load();
  asleep_.store(1);
  if (parts_of(open_.load()) == 0 && !stopping_.load()) os::wait_at(bell_, rung);
}

void Pool::ring() {
  if (asleep_.load() == 0 || asleep_.exchange(0) == 0) return;
  bell_.fetch_add(1);
  os::wake_all(bell_);
}

bool Pool::ready(int64_t saved_ns) {
  if (asleep_.load(std::memory_order_relaxed) == 0) return true;
  if (saved_ns < kAnswerNs && now_ns() - last_done_ns_ > kSpinNs) return false;
  ring();
  return true;
}

void Pool::done() { last_done_ns_ = now_ns(); }

void Pool::run(Job job, const void* context, int parts) {
  job_ = job;
  context_ = context;
  finished_.store(0, std::memory_order_relaxed);
  caller_core_.store(os::current_core(), std::memory_order_relaxed);
  const uint32_t others = static_cast<uint32_t>((uint64_t{1} << parts) - 2);  // all but part 0
  open_.store(uint64_t{++number_} << 32 | others);
  ring();
  job(context, 0);

  uint32_t left = static_cast<uint32_t>(parts) - 1;
  uint64_t seen = open_.load(std::memory_order_relaxed);
  while (const uint32_t open = parts_of(seen)) {
    const uint32_t last = 1u << (31 - __builtin_clz(open));
    if (!open_.compare_exchange_weak(seen, seen & ~uint64_t{last}, std::memory_order_relaxed)) continue;
    job(context, __builtin_ctz(last));
    --left;
    seen = open_.load(std::memory_order_relaxed);
  }
  int64_t since = 0;
  for (int looks = 1; finished_.load(std::memory_order_acquire) != left; ++looks) {
    pause();
    if (looks % kLooksPerClock) continue;
    const int64_t now = now_ns();
    if (since == 0) since = now;
    if (now - since < kSpinNs) continue;
    // A worker has lost its core, maybe to this very thread: give way.
    const uint32_t finished = finished_.load();
    joining_.store(1);
    if (finished != left && finished_.load() == finished) os::wait_at(finished_, finished);
    joining_.store(0);
  }
}

}  // namespace rta
