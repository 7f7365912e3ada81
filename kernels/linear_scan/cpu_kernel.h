// Linear scan on the CPU. The contract is in contract.py.
//
// A step waits for the one before it, four cycles. Lines that lie beside one another go together, a lane each, and four
// groups of them at once. Floor: that of lanes and of latency, steps x lines / (4 x lanes) x 4 cycles; else the bytes
// over the bandwidth of the cache they are in.
#pragma once

#include "_common/checks.h"
#include "_common/lines.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class LinearScanStage final : public Stage {
 public:
  explicit LinearScanStage(const StageSpec& spec);

  bool updates(int in, int out) const override { return streams_ && in == state_ && out == 1; }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* a = constant_ ? constant_ : a_.row(run, s * a_.steps);
      const char* b = b_.row(run, s * b_.steps);
      char* y = y_.row(run, s * y_.steps);
      const char* h = streams_ ? h_.row(run, s * h_.steps) : nullptr;
      if (wide_) {
        char* kept = streams_ ? h_out_.row(run, s * h_out_.steps) : nullptr;
        for (int64_t g = 0; g < group_count_; ++g) in_double(a, b, h, y, kept, groups_[g]);
        continue;
      }
      for (int64_t g = 0; g < group_count_; ++g) {
        const Group& group = groups_[g];
        switch (group.lines) {
          case 16: of_width<16>(a, b, h, y, group); break;
          case 8: of_width<8>(a, b, h, y, group); break;
          case 4: of_width<4>(a, b, h, y, group); break;
          default: alone(a, b, h, y, group.first);
        }
      }
      if (streams_) {
        for (int64_t r = 0; r < y_.steps; ++r)
          __builtin_memcpy(h_out_.row(run, s * y_.steps + r), y_.row(run, s * y_.steps + r),
                           static_cast<size_t>(y_.width) * sizeof(float));
      }
    }
  }

 private:
  using F = typename S::F;

  // Lines from this one on that lie side by side in b and y, and in a side by side or as one: 16, 8, 4 or 1.
  int64_t beside(int64_t line) const {
    for (int64_t n = 16; n >= 4; n /= 2) {
      if (line + n > count_) continue;
      if (of_b_.beside(line, n, 4) == n && of_y_.beside(line, n, 4) == n && (!streams_ || states_beside(line, n)) &&
          (of_a_.beside(line, n, 4) == n || same(line, n)))
        return n;
    }
    return 1;
  }

  bool states_beside(int64_t line, int64_t n) const {
    const int size = wide_ ? 8 : 4;
    return of_h_.beside(line, n, size) == n && (!wide_ || of_kept_.beside(line, n, size) == n);
  }

  bool same(int64_t line, int64_t n) const {
    if (of_a_.table) return false;
    for (int64_t k = 1; k < n; ++k)
      if (of_a_.lines[line + k] != of_a_.lines[line]) return false;
    return true;
  }

  // `times` times so many lines, which lie side by side.
  struct Group {
    int64_t first;
    int32_t lines, times;
    bool repeated;  // a has one number for all of them
  };

  void group_lines(Arena& arena) {
    Group* made = static_cast<Group*>(arena.take(static_cast<size_t>(count_) * sizeof(Group)));
    for (int64_t line = 0; line < count_;) {
      const int64_t n = beside(line);
      Group group{line, static_cast<int32_t>(n), 1, n > 1 && same(line, n)};
      int32_t alike = 1;
      while (n > 1 && alike < 4 && line + (alike + 1) * n <= count_ && beside(line + alike * n) == n &&
             same(line + alike * n, n) == group.repeated)
        ++alike;
      if (alike == 4) group.times = 4;
      made[group_count_++] = group;
      line += n * group.times;
    }
    groups_ = made;
  }

  template <int N>
  void of_width(const char* a, const char* b, const char* h, char* y, const Group& group) const {
    if (group.times == 4)
      together<N, 4>(a, b, h, y, group);
    else
      together<N, 1>(a, b, h, y, group);
  }

  // G times N lines that lie side by side: none of their operands has a table.
  template <int N, int G>
  void together(const char* a, const char* b, const char* h, char* y, const Group& group) const {
    constexpr int part = N < S::kLanes ? N : S::kLanes, vectors = N / part;
    const char *factors[G], *added[G];
    char* to[G];
    F state[G][vectors];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const int64_t line = group.first + g * N;
      factors[g] = a + of_a_.lines[line];
      added[g] = b + of_b_.lines[line];
      to[g] = y + of_y_.lines[line];
      const float* past = h ? reinterpret_cast<const float*>(h + of_h_.lines[line] + of_h_.along[0]) : nullptr;
#pragma GCC unroll 4
      for (int v = 0; v < vectors; ++v) state[g][v] = past ? load_part<S>(past + v * S::kLanes, part) : S::set(0.0f);
    }
    for (int64_t i = 0; i < n_; ++i) {
      const int64_t at_a = of_a_.along[i], at_b = of_b_.along[i], at_y = of_y_.along[i];
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) {
        const float* factor = reinterpret_cast<const float*>(factors[g] + at_a);
        const float* add = reinterpret_cast<const float*>(added[g] + at_b);
        float* made = reinterpret_cast<float*>(to[g] + at_y);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
          const F one = group.repeated ? S::set(*factor) : load_part<S>(factor + v * S::kLanes, part);
          state[g][v] = S::mul_add(one, state[g][v], load_part<S>(add + v * S::kLanes, part));
          store_part<S>(made + v * S::kLanes, state[g][v], part);
        }
      }
    }
  }

  void alone(const char* a, const char* b, const char* h, char* y, int64_t line) const {
    float state = h ? *reinterpret_cast<const float*>(h + of_h_.at(line, 0)) : 0.0f;
    for (int64_t i = 0; i < n_; ++i) {
      const float factor = *reinterpret_cast<const float*>(a + of_a_.at(line, i));
      state = factor * state + *reinterpret_cast<const float*>(b + of_b_.at(line, i));
      *reinterpret_cast<float*>(y + of_y_.at(line, i)) = state;
    }
  }

  // h in float64: the lanes are arrays of doubles, which the compiler makes vectors of.
  void in_double(const char* a, const char* b, const char* h, char* y, char* kept, const Group& group) const {
    for (int64_t line = group.first; line < group.first + group.lines * group.times; line += group.lines) {
      switch (group.lines) {
        case 16: lanes_of_double<16>(a, b, h, y, kept, line, group.repeated); break;
        case 8: lanes_of_double<8>(a, b, h, y, kept, line, group.repeated); break;
        case 4: lanes_of_double<4>(a, b, h, y, kept, line, group.repeated); break;
        default: lanes_of_double<1>(a, b, h, y, kept, line, true);
      }
    }
  }

  template <int N>
  void lanes_of_double(const char* a, const char* b, const char* h, char* y, char* kept, int64_t line,
                       bool repeated) const {
    double state[N] = {};
    if (h) __builtin_memcpy(state, h + of_h_.at(line, 0), sizeof state);
    for (int64_t i = 0; i < n_; ++i) {
      const float* factor = reinterpret_cast<const float*>(a + of_a_.at(line, i));
      const float* add = reinterpret_cast<const float*>(b + of_b_.at(line, i));
      float* made = reinterpret_cast<float*>(y + of_y_.at(line, i));
      for (int k = 0; k < N; ++k) {
        const double one = static_cast<double>(factor[repeated ? 0 : k]);
        state[k] = one * state[k] + static_cast<double>(add[k]);
      }
      for (int k = 0; k < N; ++k) made[k] = static_cast<float>(state[k]);
    }
    if (kept) __builtin_memcpy(kept + of_kept_.at(line, 0), state, sizeof state);
  }

  GraphIO a_, b_, y_, h_, h_out_;
  const char* constant_;
  int state_;
  bool streams_, wide_;
  int64_t count_, n_;
  LineOperand of_a_, of_b_, of_y_, of_h_, of_kept_;  // h's rows may lie further apart than those of y
  const Group* groups_;
  int64_t group_count_;
};

template <class S>
LinearScanStage<S>::LinearScanStage(const StageSpec& spec) : y_(spec.out(0)), constant_(nullptr) {
  const Attrs& attrs = spec.attrs;
  const bool constant = attrs.has("a");
  streams_ = flag(attrs, "stream");
  state_ = constant ? 1 : 2;
  expect_ports(spec, state_ + streams_, 1 + streams_);
  wide_ = attrs.has("wide") && flag(attrs, "wide");  // files of before have none
  const auto of_state = wide_ ? RTA_INT64 : RTA_FLOAT32;
  for (int i = 0; i < state_; ++i) expect_dtype(spec.input(i), RTA_FLOAT32, "its inputs");
  expect_value(spec.output(0), RTA_FLOAT32, y_.steps, y_.width, "y");
  if (streams_) expect_value(spec.input(state_), of_state, y_.steps, y_.width, "h");
  if (streams_) expect_value(spec.output(1), of_state, y_.steps, y_.width, "h");
  a_ = spec.in(constant ? 9 : 0);
  b_ = spec.in(constant ? 0 : 1);
  h_ = spec.in(streams_ ? state_ : 9);
  h_out_ = spec.out(streams_ ? 1 : 9);
  count_ = between(attrs, "count", 1, kMaxElements);
  n_ = between(attrs, "along", 1, kMaxElements);
  expect(!streams_ || n_ == 1, "%lld time steps", static_cast<long long>(n_));
  const int64_t size = constant ? attrs.count("a") : 0;
  of_a_ = read_lines(spec, "0", count_, n_, a_, 4, size);
  of_b_ = read_lines(spec, "1", count_, n_, b_, 4);
  of_y_ = read_lines(spec, "2", count_, n_, y_, 4);
  if (streams_) of_h_ = read_lines(spec, "2", count_, n_, h_, wide_ ? 8 : 4);
  if (streams_) of_kept_ = read_lines(spec, "2", count_, n_, h_out_, wide_ ? 8 : 4);
  if (constant) {
    float* to = static_cast<float*>(spec.arena->take(static_cast<size_t>(size) * sizeof(float)));
    __builtin_memcpy(to, attrs.floats("a", size), static_cast<size_t>(size) * sizeof(float));
    constant_ = reinterpret_cast<const char*>(to);
  }
  group_count_ = 0;
  group_lines(*spec.arena);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear_scan", "cpu", nullptr, create_stage<LinearScanStage<S>>);
}

}  // namespace rta
