// How long before its time a cycle wakes, learned from how late sleeps end.
#pragma once

#include <algorithm>
#include <cstdint>

namespace rta_realtime {

// Follows the 99th percentile of what it is told: a quarter up for each value above it, 1/99 of that down (as a factor)
// for each below. No memory of values, a few operations each.
class Late99 {
 public:
  void add(int64_t ns) {
    if (ns > value_)
      value_ += value_ / 4;
    else
      value_ -= value_ / 439;  // ln(5/4) / 99 = 1/443; the division rounds towards zero
    value_ = std::clamp(value_, kLeast, kMost);
  }
  int64_t value() const { return value_; }

 private:
  static constexpr int64_t kLeast = 2'000, kMost = 5'000'000;
  int64_t value_ = 80'000;
};

// What a cycle has before its time: for sleeps that end late, for warm runs, and for the loop's own steps between them.
class SpinTime {
 public:
  static constexpr int64_t kOwn = 2'000;

  void set(int64_t spin_ns, int64_t period_ns) {
    learns_ = spin_ns < 0;
    most_ = period_ns / 2;
    ns_ = learns_ ? std::min(late_.value(), most_) : spin_ns;
  }
  int64_t ns() const { return ns_; }
  // After a sleep: how late it ended, and how long warm runs take.
  void learn(int64_t late_ns, int64_t warm_ns) {
    if (!learns_) return;
    late_.add(late_ns);
    ns_ = std::min(late_.value() + warm_ns + kOwn, most_);
  }

 private:
  Late99 late_;
  bool learns_ = false;
  int64_t ns_ = 0, most_ = 0;
};

}  // namespace rta_realtime
