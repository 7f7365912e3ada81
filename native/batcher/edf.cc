// Which batch is next, and when: by the workers' leader alone.
#include <algorithm>

#include "batcher.h"
#include "workers.h"

using namespace rta_serve;

namespace {

constexpr int64_t kFewest = 16;       // arrivals of a batcher that a sleep allows for
constexpr int64_t kFullNs = 200'000;  // between two looks whether a place for results is free
constexpr double kUneven = 0.85;      // of arrivals that are likely: so many may come, as they come in bunches
constexpr int64_t kNapNs =
    100'000;  // a sleep that is no longer ends later than it should, and costs more than it is worth
constexpr int64_t kNapShare = 12;  // and is no more than this part of the deadline

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Whether a batch goes rather than that its worker sleeps for so long.
bool short_of(const rta_batcher& b, int64_t left) {
  return b.config.spin_ns == 0 && left < std::min(kNapNs, b.config.deadline_ns / kNapShare);
}

bool any_left(const rta_batcher& b) { return b.arrived.load(std::memory_order_relaxed) != b.seen; }

}  // namespace

// Batchers that start, in the order in which they came.
void rta_workers::welcome() {
  rta_batcher* first = joining.exchange(nullptr, std::memory_order_acquire);
  const size_t before = batchers.size();
  for (; first; first = first->next_joining) batchers.push_back(first);
  std::reverse(batchers.begin() + static_cast<int64_t>(before), batchers.end());
  if (candidates.capacity() < batchers.size()) candidates.reserve(2 * batchers.size());
}

// Takes in what has arrived, lets go of what has stopped, and lists the batches that wait. False: a place for results
// is missing somewhere.
bool rta_workers::look(Choice& choice, int64_t now) {
  candidates.clear();
  bool places = true;
  size_t kept = 0;
  for (rta_batcher* b : batchers) {
    batchers[kept++] = b;
    if (b->busy.load(std::memory_order_acquire)) continue;
    const bool stopping = b->stopping.load(), last = stopping && b->inside.load() == 0;
    b->look();
    if (b->abandoned.load() || (last && b->waiting == 0)) {
      --kept;
      served.fetch_sub(1);
      b->end();  // and it may be gone
      continue;
    }
    if (b->waiting == 0) {
      choice.restless |= stopping;  // a put is under way
      continue;
    }
    if (b->blocked.load(std::memory_order_relaxed)) {
      if (!b->place()) {
        places = false;
        continue;
      }
      b->blocked.store(false);
    }
    const int64_t missing = b->missing();
    candidates.push_back({b, b->earliest, b->waiting, std::max(kFewest, missing), 0, stopping || missing <= 0});
    const double left = static_cast<double>(b->earliest - now) * b->rate;
    if (b->rate > 0 && left < static_cast<double>(missing) * kUneven)
      candidates.back().more = kFewest + static_cast<int64_t>(std::max(left, 0.0) / kUneven);
  }
  batchers.resize(kept);
  return places;
}

// The latest start of each batch, so that it and all behind it are in time: the first of them. Workers are taken from
// behind: a batch goes to the one whose next batch starts last.
int64_t rta_workers::plan(bool with_more) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.due > b.due; });
  int64_t next[RTA_MOST_WORKERS], first = INT64_MAX;
  std::fill(next, next + threads, INT64_MAX);
  for (Candidate& c : candidates) {
    int64_t* to = std::max_element(next, next + threads);
    c.start = std::min(c.due, *to) - c.batcher->allowed_ns(c.waiting + (with_more ? c.more : 0));
    *to = c.start;
    first = std::min(first, c.start);
  }
  return first;
}

Choice rta_workers::choose(int64_t now) {
  Choice choice;
  const bool places = look(choice, now);
  if (!places) choice.sleep_until = now + kFullNs;
  if (candidates.empty()) return choice;
  choice.start = plan(false);
  const Candidate* whole = nullptr;
  for (const Candidate& c : candidates) {
    if (c.start == choice.start) choice.next = c.batcher;
    if (c.whole && (!whole || c.start <= whole->start)) whole = &c;
  }
  if (now >= choice.start) {
    choice.batcher = choice.next;
  } else if (whole &&
             (whole->batcher == choice.next || now + whole->batcher->allowed_ns(whole->waiting) <= choice.start)) {
    choice.batcher = whole->batcher;
  }
  if (choice.batcher) return choice;
  // A sleep allows for arrivals, each of which makes its batch dearer: for those that are likely, but not for so many
  // that less than half of the time is left, unless they are the fewest. A batch then wakes its worker once or twice.
  const int64_t last = choice.start - choice.next->config.spin_ns, half = now + (last - now) / 2;
  int64_t until = plan(true) - (choice.start - last);
  for (bool fewer = true; fewer && until < half; until = plan(true) - (choice.start - last)) {
    fewer = false;
    for (Candidate& c : candidates) {
      fewer |= c.more > kFewest;
      c.more = std::max(kFewest, c.more / 2);
    }
  }
  choice.sleep_until = std::min(choice.sleep_until, until);
  return choice;
}

bool rta_workers::news() const {
  if (joining.load(std::memory_order_relaxed) || ending.load(std::memory_order_relaxed)) return true;
  if (finished.load(std::memory_order_relaxed) != seen_finished) return true;
  for (const rta_batcher* b : batchers)
    if (!b->busy.load(std::memory_order_acquire) && (any_left(*b) || (b->stopping.load() && !b->blocked.load())))
      return true;
  return false;
}

// Until a time; or until as many have arrived as the sleep allows for, or one that is due before the others of its
// batcher, or a batch is whole.
void rta_workers::sleep(const Choice& choice) {
  for (rta_batcher* b : batchers) {
    const bool counts = !b->busy.load(std::memory_order_acquire);  // else its worker wakes this one at the end
    b->wake_arrived.store(counts ? b->seen + 1 : INT64_MAX);
    b->wake_due.store(counts ? b->earliest : INT64_MIN);
  }
  for (const Candidate& c : candidates)
    c.batcher->wake_arrived.store(c.batcher->seen + std::max<int64_t>(std::min(c.more, c.batcher->missing()), 1));
  asleep.store(1);
  bool quiet = !news();
  for (const Candidate& c : candidates)
    quiet &= c.whole || c.batcher->missing() > 0;  // a stream may have been removed meanwhile
  for (rta_batcher* b : batchers) quiet &= !b->blocked.load() || !b->place();
  if (quiet) rta::os::wait_at(asleep, 1, choice.sleep_until);
  asleep.store(0);
}

rta_batcher* rta_workers::next() {
  planned_for = nullptr;
  for (;;) {
    seen_finished = finished.load(std::memory_order_acquire);
    welcome();
    const int64_t now = rta_latest_now_ns();
    Choice choice = choose(now);
    if (!choice.batcher && choice.next && short_of(*choice.next, choice.start - now)) choice.batcher = choice.next;
    if (choice.batcher) {
      if (choice.batcher->place()) {
        choice.batcher->busy.store(true, std::memory_order_relaxed);
        return choice.batcher;
      }
      choice.batcher->blocked.store(true);  // the wait is the caller's doing, and no part of the cost
      planned_for = nullptr;
      continue;
    }
    if (ending.load() && batchers.empty() && !joining.load()) return nullptr;
    if (choice.restless) {
      relax();
      continue;
    }
    // What a worker wakes up after the start is a part of the batch's cost.
    planned_for = choice.next;
    planned_at = choice.start;
    if (now < choice.sleep_until)
      sleep(choice);
    else
      while (rta_latest_now_ns() < choice.start && !news()) relax();
  }
}
