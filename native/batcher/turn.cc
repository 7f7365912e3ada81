// The worker's side of a batcher: when a batch leaves, who is in it, and what becomes of them.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "batcher.h"
#include "realtime/loop.h"

using namespace rta_serve;
using rta_realtime::add;

namespace {

constexpr double kForget = 0.05;      // of a batch's cost
constexpr double kOutlier = 4;        // a batch that took this many times what was expected counts as that many
constexpr double kMostMargin = 0.25;  // of the deadline
constexpr int64_t kFewest = 16;       // arrivals that a sleep allows for
constexpr int kTries = 2000;          // at a slot that a put is in
constexpr int64_t kFullNs = 200'000;  // between two looks whether a place for results is free

constexpr int64_t kAhead = 8;  // slots that are on their way into the cache

void fetch(const void* from, size_t bytes) {
  const char* at = static_cast<const char*>(from);
  for (size_t b = 0; b < bytes && b < 512; b += 64) __builtin_prefetch(at + b);
}

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Counts into a histogram, where neighbors mostly fall into one bucket.
class Tally {
 public:
  explicit Tally(rta_loop_histogram& to) : to_(to) {}
  ~Tally() {
    flush();
    add(to_.sum_ns, sum_);
    if (max_ > to_.max_ns) rta_realtime::put(to_.max_ns, max_);
  }
  void count(int64_t ns) {
    ns = std::max(ns, int64_t{0});
    sum_ += ns;
    max_ = std::max(max_, ns);
    const int bucket = rta_loop_bucket(ns);
    if (bucket != bucket_) flush();
    bucket_ = bucket;
    ++many_;
  }

 private:
  void flush() {
    if (many_) add(to_.counts[bucket_], many_);
    many_ = 0;
  }
  rta_loop_histogram& to_;
  int bucket_ = 0;
  int64_t many_ = 0, sum_ = 0, max_ = 0;
};

}  // namespace

void Cost::learn(double n, double ns) {
  if (!known_) {
    known_ = true;
    n_ = n;
    t_ = ns;
    nn_ = n * n;
    nt_ = n * ns;
    b_.store(n > 0 ? ns / n : 0, std::memory_order_relaxed);
    return;
  }
  const double expected = a() + b() * n;
  ns = std::min(ns, kOutlier * std::max(expected, 1e3));
  deviation_.store(deviation_ + kForget * (std::fabs(ns - expected) - deviation_), std::memory_order_relaxed);
  n_ += kForget * (n - n_);
  t_ += kForget * (ns - t_);
  nn_ += kForget * (n * n - nn_);
  nt_ += kForget * (n * ns - nt_);
  // Batches that are all of about one size say nothing about the slope: it stays as it was.
  const double spread = nn_ - n_ * n_;
  double slope = spread > 1e-3 * n_ * n_ + 1e-9 ? (nt_ - n_ * t_) / spread : b();
  slope = std::min(std::max(slope, 0.0), t_ / std::max(n_, 1.0));  // neither part is below 0
  b_.store(slope, std::memory_order_relaxed);
  a_.store(t_ - slope * n_, std::memory_order_relaxed);
}

void rta_batcher::look() {
  const int64_t count = arrived.load();
  if (count == seen) return;
  seen = count;
  for (int64_t w = 0; w < words; ++w) {
    if (marked[w].load(std::memory_order_relaxed) == 0) continue;
    uint64_t bits = marked[w].exchange(0) & ~ours[w];
    ours[w] |= bits;
    for (; bits; bits &= bits - 1) {
      const int64_t stream = w * 64 + __builtin_ctzll(bits);
      due[stream] = slot(stream).first.load(std::memory_order_relaxed) + config.deadline_ns;
      earliest = std::min(earliest, due[stream]);
      ++waiting;
    }
  }
  __atomic_store_n(&stats.waiting, waiting, __ATOMIC_RELAXED);
}

// A machine that was busy makes the margin large. It is at most a share of the deadline, or batches would leave before
// anyone could join them, and many small batches are what a busy machine does worst.
int64_t rta_batcher::leaves_at(int64_t n) const {
  if (earliest == INT64_MAX) return INT64_MAX;
  const double margin = std::min(cost.margin(), kMostMargin * static_cast<double>(config.deadline_ns));
  return earliest - static_cast<int64_t>(cost.line(std::min(n, config.max_batch)) + margin);
}

// Those that leave, in `order`: all that wait in the order of their numbers, which is how their states lie; or of too
// many the ones that are due first.
void rta_batcher::choose() {
  order.clear();
  for (int64_t w = 0; w < words; ++w)
    for (uint64_t bits = ours[w]; bits; bits &= bits - 1) order.push_back(w * 64 + __builtin_ctzll(bits));
  if (static_cast<int64_t>(order.size()) <= config.max_batch) return;
  const auto end = order.begin() + config.max_batch;
  std::nth_element(order.begin(), end, order.end(),
                   [this](int64_t a, int64_t b) { return due[a] != due[b] ? due[a] < due[b] : a < b; });
  order.erase(end, order.end());
  std::sort(order.begin(), order.end());
}

// Where the next results go; nullptr where the caller has not taken the last ones.
Results* rta_batcher::place() {
  const uint32_t at = made.load(std::memory_order_relaxed);
  if (config.tickets) return &results[0];
  return at - taken.load(std::memory_order_acquire) < kResults ? &results[at % kResults] : nullptr;
}

// A model refuses a whole call for the numbers of one stream, before any has moved: then they go one by one.
void rta_batcher::step(const void* x, void* y, int64_t count, uint8_t* status) {
  std::memset(status, RTA_ANSWER_OK, static_cast<size_t>(count));
  if (count == 0 || rta_plan_run_some(config.plan, &x, &y, count, list.data()) == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    const void* one = static_cast<const char*>(x) + static_cast<size_t>(i) * config.in_bytes;
    void* to = static_cast<char*>(y) + static_cast<size_t>(i) * config.out_bytes;
    if (rta_plan_run_some(config.plan, &one, &to, 1, list.data() + i) == 0) continue;
    status[i] = RTA_ANSWER_REFUSED;
    std::memset(to, 0xff, config.out_bytes);
  }
}

int64_t rta_batcher::leave(int64_t began, int64_t took) {
  Results* r = place();
  if (!r) return 0;
  choose();
  list.clear();
  stamps.clear();
  put_at.clear();
  ticket_of.clear();
  int64_t dropped = 0;  // these come last: written from the end of the results
  const int64_t most = config.max_batch;
  const auto chosen = static_cast<int64_t>(order.size());
  for (int64_t i = 0; i < chosen; ++i) {
    const int64_t stream = order[i];
    if (i + kAhead < chosen) fetch(&slot(order[i + kAhead]), sizeof(Slot) + config.in_bytes);
    Slot& s = slot(stream);
    uint32_t word = kWaiting;
    for (int tries = 0; !s.word.compare_exchange_strong(word, kBusy, std::memory_order_acquire) && word == kBusy;
         word = kWaiting)
      if (++tries > kTries)
        break;
      else
        relax();
    if (word == kBusy) continue;  // its put was taken off its core: with the next batch
    ours[stream / 64] &= ~(uint64_t{1} << (stream % 64));
    --waiting;
    if (word == kEmpty) {  // a mark of a sample that is answered already
      if (s.word.compare_exchange_strong(word, kBusy, std::memory_order_acquire)) {
        if (s.emptied) emptied.fetch_sub(1);
        s.emptied = false;
        s.word.store(kEmpty, std::memory_order_release);
      }
      continue;
    }
    // Started anew with a sample that is stepped, and not before: the worker alone has the plan.
    const bool drop = config.late == RTA_LATE_DROP && began > s.stamp + config.deadline_ns;
    const auto n = static_cast<int64_t>(list.size());
    if (!drop) std::memcpy(rows.data() + static_cast<size_t>(n) * config.in_bytes, s.x(), config.in_bytes);
    const int64_t stamp = s.stamp, at = s.put_at;
    const int32_t ticket = s.ticket;
    const bool anew = s.anew && !drop;
    if (anew) s.anew = false;
    s.word.store(kEmpty, std::memory_order_release);
    if (anew) rta_plan_reset(config.plan, stream, 1);
    if (!drop) {
      list.push_back(stream);
      stamps.push_back(stamp);
      put_at.push_back(at);
      ticket_of.push_back(ticket);
      continue;
    }
    ++dropped;
    if (ticket >= 0) {
      answer(ticket, RTA_ANSWER_DROPPED, began);
    } else {
      r->streams[most - dropped] = stream;
      r->stamps[most - dropped] = stamp;
    }
  }
  earliest = INT64_MAX;
  if (waiting)
    for (int64_t w = 0; w < words; ++w)
      for (uint64_t bits = ours[w]; bits; bits &= bits - 1)
        earliest = std::min(earliest, due[w * 64 + __builtin_ctzll(bits)]);
  __atomic_store_n(&stats.waiting, waiting, __ATOMIC_RELAXED);

  const auto n = static_cast<int64_t>(list.size());
  if (n + dropped == 0) return 0;
  step(rows.data(), r->y.data(), n, r->status.data());
  if (config.manual) manual_now.store(began + took);

  const int64_t width = static_cast<int64_t>(config.out_bytes);
  int64_t counts[RTA_ANSWER_REFUSED + 1] = {};
  if (config.tickets) {
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(answers.get() + ticket_of[i] * width, r->y.data() + i * width, config.out_bytes);
    int64_t done = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (i % kClear == 0) done = now();
      if (r->status[i] == RTA_ANSWER_OK && done > stamps[i] + config.deadline_ns) r->status[i] = RTA_ANSWER_LATE;
      ++counts[r->status[i]];
      answer(ticket_of[i], r->status[i], done);
    }
  } else {
    std::memcpy(r->streams.data(), list.data(), static_cast<size_t>(n) * sizeof(int64_t));
    std::memcpy(r->stamps.data(), stamps.data(), static_cast<size_t>(n) * sizeof(int64_t));
    // The gap between those that were stepped and those that were dropped is closed.
    std::memmove(r->streams.data() + n, r->streams.data() + most - dropped,
                 static_cast<size_t>(dropped) * sizeof(int64_t));
    std::memmove(r->stamps.data() + n, r->stamps.data() + most - dropped,
                 static_cast<size_t>(dropped) * sizeof(int64_t));
    std::memset(r->status.data() + n, RTA_ANSWER_DROPPED, static_cast<size_t>(dropped));
    std::memset(r->y.data() + n * width, 0xff, static_cast<size_t>(dropped * width));
    r->count = n + dropped;
    const int64_t done = now();
    for (int64_t i = 0; i < n; ++i) {
      if (r->status[i] == RTA_ANSWER_OK && done > stamps[i] + config.deadline_ns) r->status[i] = RTA_ANSWER_LATE;
      ++counts[r->status[i]];
    }
    made.fetch_add(1);
    futex_wake(made);
  }
  const int64_t done = now();
  if (n) cost.learn(static_cast<double>(n), static_cast<double>(done - std::min(began, planned)));
  planned = INT64_MAX;
  add(stats.ok, counts[RTA_ANSWER_OK]);
  add(stats.late, counts[RTA_ANSWER_LATE]);
  add(stats.failed, counts[RTA_ANSWER_REFUSED]);
  add(stats.dropped, dropped);
  add(stats.batches);
  rta_realtime::count(stats.batch, n);
  rta_realtime::count(stats.batch_took_ns, done - began);
  Tally queued(stats.queue_ns), late(stats.lateness_ns);
  for (int64_t i = 0; i < n; ++i) {
    queued.count(began - put_at[i]);
    late.count(done - stamps[i] - config.deadline_ns);
  }
  return n + dropped;
}

// Until a time, or until so many more have arrived, or one that is due before the others.
void rta_batcher::sleep(int64_t until, int64_t arrivals) {
  wake_arrived.store(seen + arrivals);
  wake_due.store(earliest);
  asleep.store(1);
  const bool leaves = waiting > 0 && missing() <= 0;  // a stream may have been removed meanwhile
  if (arrived.load() == seen && !stopping.load() && !leaves) futex_wait(asleep, 1, until);
  asleep.store(0);
}

void rta_batcher::work() {
  for (;;) {
    const bool last = stopping.load() && inside.load() == 0;
    look();
    if (waiting == 0) {
      if (last) return;
      if (stopping.load())
        relax();
      else
        sleep(INT64_MAX, 1);
      continue;
    }
    if (abandoned.load()) return;
    int64_t at = now();
    if (stopping.load() || missing() <= 0 || at >= leaves_at(waiting)) {
      if (leave(at, 0) == 0 && !place()) {
        blocked.store(true);
        planned = INT64_MAX;  // the wait is the caller's doing, and no part of the cost
        const uint32_t had = taken.load();
        if (!place()) futex_wait(taken, had, at + kFullNs);
        blocked.store(place() == nullptr);
      }
      continue;
    }
    // A sleep allows for arrivals, each of which makes the batch dearer: for many at first, then for ever fewer.
    int64_t more = std::max(kFewest, waiting / 4);
    while (more > kFewest && at >= leaves_at(waiting + more) - config.spin_ns) more = std::max(kFewest, more / 2);
    planned = leaves_at(waiting);  // what the worker wakes up after it is a part of the cost
    const int64_t until = leaves_at(waiting + more) - config.spin_ns;
    if (at < until) {
      sleep(until, std::max<int64_t>(std::min(more, missing()), 1));  // a whole batch leaves at once
      continue;
    }
    while (now() < leaves_at(waiting) && arrived.load(std::memory_order_relaxed) == seen && !stopping.load()) relax();
  }
}

extern "C" __attribute__((visibility("default"))) int64_t rta_batcher_turn(rta_batcher* b, int64_t now_ns,
                                                                           int64_t took_ns) {
  if (!b->config.manual || now_ns < b->manual_now.load()) return 0;
  b->manual_now.store(now_ns);
  b->look();
  if (b->waiting == 0) return 0;
  if (b->missing() > 0 && !b->stopping.load() && now_ns < b->leaves_at(b->waiting)) return 0;
  const int64_t left = b->leave(now_ns, took_ns);
  b->blocked.store(left == 0 && !b->place());
  return left;
}
