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
constexpr double kNewest = 0.25;      // of the rate
constexpr double kOutlier = 4;        // a batch that took this many times what was expected counts as that many
constexpr double kMostMargin = 0.25;  // of the deadline
constexpr double kFall = 2e-4;        // of a margin for rare batches, with each that does not go beyond it
constexpr double kBeyond = 1.25;      // of what a batch took too long: the next one that does may take a little more
constexpr int kTries = 2000;          // at a slot that a put is in

constexpr int64_t kAhead = 20;  // slots that are on their way into the cache

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
    if (ns < least_ || ns > most_) {
      flush();
      bucket_ = rta_loop_bucket(ns);
      least_ = bucket_ ? rta_loop_bucket_end(bucket_ - 1) + 1 : 0;
      most_ = rta_loop_bucket_end(bucket_);
    }
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
  int64_t least_ = 0, most_ = -1;  // of the bucket
};

}  // namespace

void Cost::learn(double n, double ns, double most) {
  if (!known_) {
    known_ = true;
    n_ = n;
    t_ = ns;
    nn_ = n * n;
    nt_ = n * ns;
    b_.store(n > 0 ? ns / n : 0, std::memory_order_relaxed);
    return;
  }
  const double expected = a() + b() * n, over = ns - expected;
  tail_.store(over > margin() ? std::min(kBeyond * over, most) : tail_ * (1 - kFall), std::memory_order_relaxed);
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
      due[stream] = first[stream].load(std::memory_order_relaxed) + config.deadline_ns;
      earliest = std::min(earliest, due[stream]);
      ++waiting;
    }
  }
  __atomic_store_n(&stats.waiting, waiting, __ATOMIC_RELAXED);
}

// A machine that was busy makes the margin large. It is at most a share of the deadline, or batches would leave before
// anyone could join them, and many small batches are what a busy machine does worst.
double rta_batcher::most_margin() const { return kMostMargin * static_cast<double>(config.deadline_ns); }

int64_t rta_batcher::allowed_ns(int64_t n) const {
  return static_cast<int64_t>(cost.line(std::min(n, config.max_batch)) + std::min(cost.margin(), most_margin()));
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
  const bool room = at - taken.load(std::memory_order_acquire) < static_cast<uint32_t>(config.results);
  return room ? &results[at % results.size()] : nullptr;
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

// latest: of its start; oldest: when its first sample was put.
void rta_batcher::count_hold_up(int64_t latest, int64_t oldest, const Before& before) {
  if (before.batcher == nullptr || before.batcher == this) return;
  const int64_t held = before.ended - std::max({latest, oldest, before.began});
  if (held <= 0) return;
  add(stats.held_up);
  add(stats.held_up_ns, held);
}

int64_t rta_batcher::leave(int64_t began, int64_t took, int64_t planned, const Before& before) {
  Results* r = place();
  if (!r) return 0;
  const int64_t latest = leaves_at(waiting);
  int64_t oldest = INT64_MAX;
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
    oldest = std::min(oldest, at);
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
  count_hold_up(latest, oldest, before);
  const int64_t allowed = allowed_ns(n);
  step(rows.data(), r->y.get(), n, r->status.data());
  if (config.manual) manual_now.store(began + took);

  const int64_t width = static_cast<int64_t>(config.out_bytes);
  int64_t counts[RTA_ANSWER_REFUSED + 1] = {};
  if (config.tickets) {
    for (int64_t i = 0; i < n; ++i)
      std::memcpy(answers.get() + ticket_of[i] * width, r->y.get() + i * width, config.out_bytes);
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
    std::memset(r->y.get() + n * width, 0xff, static_cast<size_t>(dropped * width));
    r->count = n + dropped;
    const int64_t done = now();
    for (int64_t i = 0; i < n; ++i) {
      if (r->status[i] == RTA_ANSWER_OK && done > stamps[i] + config.deadline_ns) r->status[i] = RTA_ANSWER_LATE;
      ++counts[r->status[i]];
    }
    made.fetch_add(1);
    rta::os::wake_all(made);
  }
  const int64_t done = now();
  if (n && done - began > allowed) {
    add(stats.overran);
    add(stats.overran_ns, done - began - allowed);
  }
  if (left_at) {
    const double now_rate = static_cast<double>(n) / static_cast<double>(std::max(began - left_at, int64_t{1}));
    rate = rate > 0 ? rate + kNewest * (now_rate - rate) : now_rate;
  }
  left_at = began;
  if (n) cost.learn(static_cast<double>(n), static_cast<double>(done - std::min(began, planned)), most_margin());
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

extern "C" __attribute__((visibility("default"))) int64_t rta_batcher_turn(rta_batcher* b, int64_t now_ns,
                                                                           int64_t took_ns) {
  if (!b || !b->config.manual || now_ns < b->manual_now.load()) return 0;
  b->manual_now.store(now_ns);
  b->look();
  if (b->waiting == 0) return 0;
  if (b->missing() > 0 && !b->stopping.load() && now_ns < b->leaves_at(b->waiting)) return 0;
  const int64_t left = b->leave(now_ns, took_ns, INT64_MAX, Before{});
  b->blocked.store(left == 0 && !b->place());
  return left;
}
