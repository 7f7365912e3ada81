// Scan on the CPU. The contract is in contract.py.
//
// An element waits for the one before it, four to five cycles, so lines that lie beside one another go together, a lane
// each. Lines that do not are turned in squares; a line alone is as slow as its additions. Sums are in float64, as
// torch has them: the lanes are arrays of doubles, which the compiler makes vectors of. Floor: that of lanes, the bytes
// over the bandwidth of the cache they are in.
#pragma once

#include <cmath>

#include "_common/checks.h"
#include "_common/lines.h"
#include "scan/squares.h"

namespace rta {

template <class S>
class ScanStage final : public Stage {
 public:
  explicit ScanStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)), past_(spec.in(1)), kept_(spec.out(1)) {
    whole_ = spec.input(0).dtype == RTA_INT64;
    if (spec.input(0).dtype != spec.output(0).dtype || (!whole_ && spec.input(0).dtype != RTA_FLOAT32))
      fail("scan: takes float32 or int64");
    streams_ = spec.attrs.has("stream") && flag(spec.attrs, "stream");  // files of before have none
    expect_ports(spec, 1 + streams_, 1 + streams_);
    kind_ = static_cast<Kind>(word(spec.attrs, "kind", "sum|prod|max|min|logsumexp"));
    expect(!whole_ || kind_ != Kind::kLogSum, "a logsumexp of int64");
    last_ = flag(spec.attrs, "last");
    count_ = between(spec.attrs, "count", 0, kMaxElements);
    n_ = between(spec.attrs, "along", 1, kMaxElements);
    if (streams_) {
      expect(n_ == 1 && !last_ && kind_ != Kind::kLogSum, "a stream of %lld steps", static_cast<long long>(n_));
      expect_value(spec.input(1), RTA_INT64, count_, 2, "its past");
      expect_value(spec.output(1), RTA_INT64, count_, 2, "its past");
    }
    from_ = read_lines(spec, "0", count_, n_, x_, whole_ ? 8 : 4);
    to_ = read_lines(spec, "1", count_, last_ ? 1 : n_, y_, whole_ ? 8 : 4);
    shares_sets_ = !last_ && n_ > kFew && !to_.table && (to_.along[1] - to_.along[0]) % kSets == 0;
  }

  bool updates(int in, int out) const override { return streams_ && in == 1 && out == 1; }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      char* y = y_.row(run, s * y_.steps);
      if (streams_) {
        if (whole_)
          step_of<int64_t, int64_t>(run, s, x, y);
        else
          step_of<float, double>(run, s, x, y);
        continue;
      }
      if (whole_)
        of_type<int64_t, int64_t>(x, y);
      else
        of_type<float, double>(x, y);
    }
  }

 private:
  enum class Kind { kSum, kProd, kMax, kMin, kLogSum };  // in the order of their words
  static constexpr int64_t kBeside = LineSquare<S>::kBeside, kManyBeside = 128, kFew = 4;
  static constexpr int64_t kSets = 2048;  // bytes after which the sets of a cache come again, or half of them

  template <class T, class Wide>
  void of_type(const char* x, char* y) const {
    switch (kind_) {
      case Kind::kSum: return all<T, Wide, Kind::kSum>(x, y);
      case Kind::kProd: return all<T, Wide, Kind::kProd>(x, y);
      case Kind::kMax: return all<T, Wide, Kind::kMax>(x, y);
      case Kind::kMin: return all<T, Wide, Kind::kMin>(x, y);
      case Kind::kLogSum:
        if constexpr (sizeof(T) == 4) return all<T, Wide, Kind::kLogSum>(x, y);
    }
  }

  template <class T, class Wide>
  void step_of(const Run& run, int64_t s, const char* x, char* y) const {
    switch (kind_) {
      case Kind::kSum: return step<T, Wide, Kind::kSum>(run, s, x, y);
      case Kind::kProd: return step<T, Wide, Kind::kProd>(run, s, x, y);
      case Kind::kMax: return step<T, Wide, Kind::kMax>(run, s, x, y);
      case Kind::kMin: return step<T, Wide, Kind::kMin>(run, s, x, y);
      case Kind::kLogSum: return;
    }
  }

  // A line's state: what was joined so far, and 1 once there was a step.
  template <class T, class Wide, Kind kind>
  void step(const Run& run, int64_t s, const char* x, char* y) const {
    static_assert(sizeof(Wide) == sizeof(int64_t));
    for (int64_t line = 0; line < count_; ++line) {
      Wide now = static_cast<Wide>(*reinterpret_cast<const T*>(x + from_.at(line, 0)));
      int64_t state[2];
      __builtin_memcpy(state, past_.row(run, s * count_ + line), sizeof state);
      if (state[1]) {
        Wide before;
        __builtin_memcpy(&before, state, sizeof before);
        now = join<Wide, kind>(before, now);
      }
      __builtin_memcpy(state, &now, sizeof now);
      state[1] = 1;
      __builtin_memcpy(kept_.row(run, s * count_ + line), state, sizeof state);
      *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(now);
    }
  }

  template <class Wide, Kind kind>
  static Wide join(Wide a, Wide b) {
    if constexpr (sizeof(Wide) == 8 && Wide(1) / Wide(2) == Wide(0)) {  // whole numbers wrap around
      const uint64_t p = static_cast<uint64_t>(a), q = static_cast<uint64_t>(b);
      if constexpr (kind == Kind::kSum) return static_cast<Wide>(p + q);
      if constexpr (kind == Kind::kProd) return static_cast<Wide>(p * q);
      if constexpr (kind == Kind::kMax) return a > b ? a : b;
      return a < b ? a : b;
    } else {
      if constexpr (kind == Kind::kSum) return a + b;
      if constexpr (kind == Kind::kProd) return a * b;
      if constexpr (kind == Kind::kLogSum) return log_sum(a, b);
      // A NaN stays, wherever it came from.
      if constexpr (kind == Kind::kMax) return a != a || a >= b ? a : b;
      return a != a || a <= b ? a : b;
    }
  }

  static double log_sum(double a, double b) {
    if (a != a || b != b) return a + b;
    const double high = a > b ? a : b, low = a > b ? b : a;
    return high == low && std::isinf(high) ? high : high + std::log1p(std::exp(low - high));
  }

  // Rows that share the sets of a cache push one another out before they are written, but for long stretches of each.
  template <class T, class Wide, Kind kind>
  void all(const char* x, char* y) const {
    const int64_t widest = shares_sets_ ? kManyBeside : kBeside;
    for (int64_t line = 0; line < count_;) {
      const int64_t left = count_ - line, most = left < widest ? left : widest;
      const int64_t a = from_.beside(line, most, sizeof(T)), b = to_.beside(line, most, sizeof(T));
      const int64_t beside = a < b ? a : b;
      if (beside == kManyBeside) {
        together<T, Wide, kind, kManyBeside>(x, y, line);
        line += kManyBeside;
      } else if (beside >= kBeside) {
        together<T, Wide, kind, kBeside>(x, y, line);
        line += kBeside;
      } else if (sizeof(T) == 4 && left >= kFew && n_ >= kFew && from_.contiguous && (last_ || to_.contiguous)) {
        line += turned<Wide, kind>(x, y, line, static_cast<int>(left < kBeside ? left : kBeside));
      } else {
        alone<T, Wide, kind>(x, y, line++);
      }
    }
  }

  // Up to kBeside lines. Where there are fewer, the last is taken again for those that are missing.
  template <class Wide, Kind kind>
  int64_t turned(const char* x, char* y, int64_t line, int count) const {
    const char* from[kBeside];
    char* to[kBeside];
    for (int k = 0; k < kBeside; ++k) {
      const int64_t own = line + (k < count ? k : count - 1);
      from[k] = x + from_.at(own, 0), to[k] = y + to_.at(own, 0);
    }
    LineSquare<S> square;
    Wide sum[kBeside];
    for (int64_t i = 0; i < n_; i += kBeside) {
      const int wide = static_cast<int>(n_ - i < kBeside ? n_ - i : kBeside);
      square.read(from, i * 4, wide);
      for (int e = 0; e < wide; ++e) {
        if (i + e)
          for (int k = 0; k < kBeside; ++k) sum[k] = join<Wide, kind>(sum[k], static_cast<Wide>(square.at[e][k]));
        else
          for (int k = 0; k < kBeside; ++k) sum[k] = static_cast<Wide>(square.at[0][k]);
        for (int k = 0; k < kBeside; ++k) square.at[e][k] = static_cast<float>(sum[k]);
      }
      if (!last_) square.write(to, count, i * 4, wide);
    }
    if (last_)
      for (int k = 0; k < count; ++k) *reinterpret_cast<float*>(to[k]) = static_cast<float>(sum[k]);
    return count;
  }

  template <class T, class Wide, Kind kind>
  void alone(const char* x, char* y, int64_t line) const {
    Wide sum = static_cast<Wide>(*reinterpret_cast<const T*>(x + from_.at(line, 0)));
    if (!last_) *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(sum);
    for (int64_t i = 1; i < n_; ++i) {
      sum = join<Wide, kind>(sum, static_cast<Wide>(*reinterpret_cast<const T*>(x + from_.at(line, i))));
      if (!last_) *reinterpret_cast<T*>(y + to_.at(line, i)) = static_cast<T>(sum);
    }
    if (last_) *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(sum);
  }

  template <class T, class Wide, Kind kind, int64_t kCount>
  void together(const char* x, char* y, int64_t line) const {
    Wide sum[kCount];
    const T* first = reinterpret_cast<const T*>(x + from_.at(line, 0));
    for (int64_t k = 0; k < kCount; ++k) sum[k] = static_cast<Wide>(first[k]);
    for (int64_t i = 0; i < n_; ++i) {
      const T* from = reinterpret_cast<const T*>(x + from_.at(line, i));
      if (i)
        for (int64_t k = 0; k < kCount; ++k) sum[k] = join<Wide, kind>(sum[k], static_cast<Wide>(from[k]));
      if (last_ && i + 1 < n_) continue;
      T* to = reinterpret_cast<T*>(y + to_.at(line, last_ ? 0 : i));
      for (int64_t k = 0; k < kCount; ++k) to[k] = static_cast<T>(sum[k]);
    }
  }

  GraphIO x_, y_, past_, kept_;
  bool whole_, last_, streams_, shares_sets_ = false;
  Kind kind_;
  int64_t count_, n_;
  LineOperand from_, to_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "scan", "cpu", nullptr, create_stage<ScanStage<S>>);
}

}  // namespace rta
