// Scan on the CPU. The contract is in contract.py.
//
// An element waits for the one before it, four to five cycles, so lines that lie beside one another go together, a lane
// each. Lines that do not are turned in squares; a line alone is as slow as its additions. Sums are in float64, as
// torch has them: the lanes are arrays of doubles, which the compiler makes vectors of. Floor: that of lanes, the bytes
// over the bandwidth of the cache they are in.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

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
          step_of<int64_t>(run, s, x, y);
        else
          step_of<float>(run, s, x, y);
        continue;
      }
      if (whole_)
        of_type<int64_t>(x, y);
      else
        of_type<float>(x, y);
    }
  }

 private:
  enum class Kind { kSum, kProd, kMax, kMin, kLogSum };  // in the order of their words
  static constexpr int64_t kBeside = LineSquare<S>::kBeside, kManyBeside = 128, kFew = 4, kFewRows = 8;
  static constexpr int64_t kSets = 2048;  // bytes after which the sets of a cache come again, or half of them

  // Sums and products of whole numbers wrap around.
  template <class T, Kind kind>
  using Wide = std::conditional_t<sizeof(T) == 4, double,
                                  std::conditional_t<kind == Kind::kSum || kind == Kind::kProd, uint64_t, int64_t>>;

  template <class T>
  void of_type(const char* x, char* y) const {
    switch (kind_) {
      case Kind::kSum: return all<T, Kind::kSum>(x, y);
      case Kind::kProd: return all<T, Kind::kProd>(x, y);
      case Kind::kMax: return all<T, Kind::kMax>(x, y);
      case Kind::kMin: return all<T, Kind::kMin>(x, y);
      case Kind::kLogSum:
        if constexpr (sizeof(T) == 4) return all<T, Kind::kLogSum>(x, y);
    }
  }

  template <class T>
  void step_of(const Run& run, int64_t s, const char* x, char* y) const {
    switch (kind_) {
      case Kind::kSum: return step<T, Kind::kSum>(run, s, x, y);
      case Kind::kProd: return step<T, Kind::kProd>(run, s, x, y);
      case Kind::kMax: return step<T, Kind::kMax>(run, s, x, y);
      case Kind::kMin: return step<T, Kind::kMin>(run, s, x, y);
      case Kind::kLogSum: return;
    }
  }

  // A line's state: what was joined so far, and 1 once there was a step.
  template <class T, Kind kind>
  void step(const Run& run, int64_t s, const char* x, char* y) const {
    static_assert(sizeof(Wide<T, kind>) == sizeof(int64_t));
    for (int64_t line = 0; line < count_; ++line) {
      Wide<T, kind> now = static_cast<Wide<T, kind>>(*reinterpret_cast<const T*>(x + from_.at(line, 0)));
      int64_t state[2];
      __builtin_memcpy(state, past_.row(run, s * count_ + line), sizeof state);
      if (state[1]) {
        Wide<T, kind> before;
        __builtin_memcpy(&before, state, sizeof before);
        join<kind>(before, now);
        now = before;
      }
      __builtin_memcpy(state, &now, sizeof now);
      state[1] = 1;
      __builtin_memcpy(kept_.row(run, s * count_ + line), state, sizeof state);
      *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(now);
    }
  }

  // Of numbers, or of vectors of them. A NaN stays, wherever it came from.
  template <Kind kind, class Wide>
  static __attribute__((always_inline)) void join(Wide& a, const Wide& b) {
    if constexpr (kind == Kind::kSum) a = a + b;
    if constexpr (kind == Kind::kProd) a = a * b;
    if constexpr (kind == Kind::kMax) a = (a != a) | (a >= b) ? a : b;
    if constexpr (kind == Kind::kMin) a = (a != a) | (a <= b) ? a : b;
    if constexpr (kind == Kind::kLogSum) a = log_sum(a, b);
  }

  static double log_sum(double a, double b) {
    if (a != a || b != b) return a + b;
    const double high = a > b ? a : b, low = a > b ? b : a;
    return high == low && std::isinf(high) ? high : high + std::log1p(std::exp(low - high));
  }

  template <class T, Kind kind>
  void all(const char* x, char* y) const {
    const int64_t widest = shares_sets_ ? kManyBeside : kBeside;
    const bool turns = sizeof(T) == 4 && n_ >= kFew && from_.contiguous && (last_ || to_.contiguous);
    for (int64_t line = 0; line < count_;) {
      const int64_t left = count_ - line, most = left < widest ? left : widest;
      const int64_t a = from_.beside(line, most, sizeof(T)), b = to_.beside(line, most, sizeof(T));
      const int64_t beside = a < b ? a : b;
      if (beside >= kBeside)
        line += together<T, kind>(x, y, line, beside);
      else if (turns && left >= kFew)
        line += turned<T, kind>(x, y, line, left < kBeside ? left : kBeside);
      else
        alone<T, kind>(x, y, line++);
    }
  }

  // What was joined so far of kBeside lines, side by side: in vectors, eight of them in one.
  template <class Number>
  struct Joined {
    typedef Number Eight __attribute__((vector_size(8 * sizeof(Number))));
    Eight at[kBeside / 8];
  };
  template <class T>
  struct Given {
    typedef T Eight __attribute__((vector_size(8 * sizeof(T))));
  };

  // n rows of them, the first of which begins the lines or not. written: how many of these go to y, the last ones.
  template <class T, Kind kind>
  static __attribute__((noinline)) void rows(Joined<Wide<T, kind>>& before, bool begins, int64_t n, const char* x,
                                             const int64_t* x_along, char* y, const int64_t* y_along, int64_t written) {
    using Eight = typename Given<T>::Eight;
    using Sums = typename Joined<Wide<T, kind>>::Eight;
    Joined<Wide<T, kind>> joined = before;  // in registers
    for (int64_t i = 0; i < n; ++i)
#pragma GCC unroll 2
      for (int k = 0; k < kBeside / 8; ++k) {
        Eight given;
        std::memcpy(&given, x + x_along[i] + k * sizeof given, sizeof given);
        const Sums next = __builtin_convertvector(given, Sums);
        Sums& sum = joined.at[k];
        if (i == 0 && begins) {
          sum = next;
        } else if constexpr (kind == Kind::kLogSum) {
          for (int e = 0; e < 8; ++e) sum[e] = log_sum(sum[e], next[e]);
        } else {
          join<kind>(sum, next);
        }
        if (n - i > written) continue;
        given = __builtin_convertvector(sum, Eight);
        std::memcpy(y + y_along[i + written - n] + k * sizeof given, &given, sizeof given);
      }
    before = joined;
  }

  // Rows that share the sets of a cache push one another out before they are written, but for a few of them and long
  // stretches of each.
  template <class T, Kind kind>
  int64_t together(const char* x, char* y, int64_t line, int64_t beside) const {
    const int groups = beside == kManyBeside ? kManyBeside / kBeside : 1;
    const int64_t step = groups > 1 ? kFewRows : n_;
    Joined<Wide<T, kind>> joined[kManyBeside / kBeside] = {};
    for (int64_t i = 0; i < n_; i += step) {
      const int64_t n = n_ - i < step ? n_ - i : step;
      for (int g = 0; g < groups; ++g) {
        const int64_t own = line + g * kBeside;
        rows<T, kind>(joined[g], i == 0, n, x + from_.lines[own], from_.along + i, y + to_.lines[own],
                      to_.along + (last_ ? 0 : i), !last_ ? n : i + n == n_);
      }
    }
    return groups * kBeside;
  }

  // Up to kBeside lines. Where there are fewer, the last is taken again for those that are missing.
  template <class T, Kind kind>
  int64_t turned(const char* x, char* y, int64_t line, int64_t count) const {
    const char* from[kBeside];
    char* to[kBeside];
    for (int64_t k = 0; k < kBeside; ++k) {
      const int64_t own = line + (k < count ? k : count - 1);
      from[k] = x + from_.at(own, 0), to[k] = y + to_.at(own, 0);
    }
    LineSquare<S> square;
    char* at = reinterpret_cast<char*>(square.at);
    Joined<Wide<T, kind>> joined = {};
    for (int64_t i = 0; i < n_; i += kBeside) {
      const int64_t wide = n_ - i < kBeside ? n_ - i : kBeside;
      square.read(from, i * 4, static_cast<int>(wide));
      rows<T, kind>(joined, i == 0, wide, at, square.kRows, at, square.kRows, wide);
      if (!last_) square.write(to, static_cast<int>(count), i * 4, static_cast<int>(wide));
    }
    for (int64_t k = 0; last_ && k < count; ++k) *reinterpret_cast<float*>(to[k]) = square.at[(n_ - 1) % kBeside][k];
    return count;
  }

  template <class T, Kind kind>
  void alone(const char* x, char* y, int64_t line) const {
    Wide<T, kind> sum = static_cast<Wide<T, kind>>(*reinterpret_cast<const T*>(x + from_.at(line, 0)));
    if (!last_) *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(sum);
    for (int64_t i = 1; i < n_; ++i) {
      join<kind>(sum, static_cast<Wide<T, kind>>(*reinterpret_cast<const T*>(x + from_.at(line, i))));
      if (!last_) *reinterpret_cast<T*>(y + to_.at(line, i)) = static_cast<T>(sum);
    }
    if (last_) *reinterpret_cast<T*>(y + to_.at(line, 0)) = static_cast<T>(sum);
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
