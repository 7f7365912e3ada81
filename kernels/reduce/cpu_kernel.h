// Reduce on the CPU. The contract is in contract.py.
//
// Where kept elements follow one another, columns of them are reduced together, a vector each; where the others do, a
// vector takes every kLanes-th of them. The lanes of such vectors are joined for kLanes results at once, as columns of
// a square that is turned in registers: for rows of 16 or 32 elements that end alone was most of the time. Where short
// runs follow one another, as the channels of a group do, their rows are reduced as columns first. Floor: the bytes of
// x over the bandwidth of the cache it is in; four vectors at a time hide the latency of an addition.
#pragma once

#include "_common/checks.h"
#include "_common/long_sums.h"
#include "_common/strided.h"
#include "_simd/transpose.h"

namespace rta {

// Of squares: of what is off a number of the result's, or off 0.
enum class Reduction { kSum, kSquares, kProd, kMax, kMin };

constexpr bool is_sum(Reduction kind) { return kind == Reduction::kSum || kind == Reduction::kSquares; }

template <class S>
class ReduceStage final : public Stage {
 public:
  explicit ReduceStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    const Attrs& attrs = spec.attrs;
    const bool squares = attrs.text_is("of", "squares"), about = squares && spec.input_count == 2;
    expect_ports(spec, about ? 2 : 1, 1);
    for (int i = 0; i < spec.input_count; ++i)
      if (spec.input(i).dtype != RTA_FLOAT32) fail("reduce: takes float32");
    if (spec.output(0).dtype != RTA_FLOAT32) fail("reduce: takes float32");
    if (about) {
      about_ = spec.in(1);
      expect(about_.steps == y_.steps && about_.width == y_.width && (y_.steps == 1 || about_.pitch == y_.pitch),
             "numbers lie in %lld rows of %lld, expected as the results", static_cast<long long>(about_.steps),
             static_cast<long long>(about_.width));
    }
    constexpr Reduction kKinds[] = {Reduction::kSum, Reduction::kSum, Reduction::kProd, Reduction::kMax,
                                    Reduction::kMin};
    kind_ = kKinds[word(attrs, "kind", "sum|mean|prod|amax|amin")];
    if (squares) {
      expect(kind_ == Reduction::kSum, "squares have a sum or a mean");
      kind_ = Reduction::kSquares;
    }
    over_ = between(attrs, "over", 1, kMaxElements);
    divisor_ = attrs.text_is("kind", "mean") ? static_cast<float>(over_) : 1.0f;
    const GraphIO ports[] = {x_, y_};
    walk_ = read_strided(spec, "", ports, 2, static_cast<int>(between(attrs, "front", 0, kMaxDims)));
    int64_t joined = 1;
    for (int d = walk_.front; d < walk_.dims; ++d) joined *= walk_.size[d];
    expect(joined == over_ && walk_.elements / over_ == elements(spec.output(0)),
           "%lld elements are joined by %lld, expected by %lld to %lld", static_cast<long long>(walk_.elements),
           static_cast<long long>(joined), static_cast<long long>(over_),
           static_cast<long long>(elements(spec.output(0))));
    const int last = walk_.dims - 1;
    if (walk_.table[0] || walk_.front < 1 || last <= walk_.front) return;
    const int64_t run = walk_.size[last];
    if (walk_.stride[0][last] == 4 && walk_.stride[0][walk_.front - 1] == 4 * run && run <= kColumns / 4 &&
        over_ >= kFew * run)
      run_ = run;
  }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.row(run, s * x_.steps);
      char* y = y_.row(run, s * y_.steps);
      const Off off{about_.exists() ? about_.row(run, s * y_.steps) : nullptr, y};
      switch (kind_) {
        case Reduction::kSum: sample<Reduction::kSum>(x, y, off); break;
        case Reduction::kSquares: sample<Reduction::kSquares>(x, y, off); break;
        case Reduction::kProd: sample<Reduction::kProd>(x, y, off); break;
        case Reduction::kMax: sample<Reduction::kMax>(x, y, off); break;
        case Reduction::kMin: sample<Reduction::kMin>(x, y, off); break;
      }
    }
  }

 private:
  using F = typename S::F;
  static constexpr int64_t kFew = 8, kColumns = 1024;

  // The numbers that squares are taken about, which lie as the results do; 0 where there are none.
  struct Off {
    const char *numbers, *y;
    float at(const char* result) const {
      return numbers ? *reinterpret_cast<const float*>(numbers + (result - y)) : 0.0f;
    }
    // Of n results from `result` on, at most kLanes.
    F vector(const char* result, int64_t stride, int64_t n) const {
      alignas(64) float found[S::kLanes] = {};
      if (!numbers) return S::set(0.0f);
      for (int64_t i = 0; i < n; ++i) found[i] = at(result + i * stride);
      return S::load(found);
    }
  };

  // One more element, or its square about m.
  template <Reduction kind>
  static F with(F a, F v, F m) {
    if constexpr (kind == Reduction::kSquares) {
      const F off = S::sub(v, m);
      return S::fma(off, off, a);
    }
    return join<kind>(a, v);
  }
  template <Reduction kind>
  static float term(float v, float m) {
    return kind == Reduction::kSquares ? (v - m) * (v - m) : v;
  }

  template <Reduction kind>
  static F join(F a, F b) {
    if constexpr (is_sum(kind)) return S::add(a, b);
    if constexpr (kind == Reduction::kProd) return S::mul(a, b);
    if constexpr (kind == Reduction::kMax) return S::select(S::equal(a, a), S::max(a, b), a);
    return S::select(S::equal(a, a), S::min(a, b), a);
  }
  template <Reduction kind>
  static float join(float a, float b) {
    if constexpr (is_sum(kind)) return a + b;
    if constexpr (kind == Reduction::kProd) return a * b;
    if (a != a || b != b) return a + b;
    if constexpr (kind == Reduction::kMax) return a > b ? a : b;
    return a < b ? a : b;
  }
  template <Reduction kind>
  static float neutral() {
    if constexpr (is_sum(kind)) return 0.0f;
    if constexpr (kind == Reduction::kProd) return 1.0f;
    return kind == Reduction::kMax ? -__builtin_inff() : __builtin_inff();
  }

  template <Reduction kind>
  void sample(const char* x, char* y, const Off& off) const {
    if (walk_.table[0] || walk_.table[1]) return by_table<kind>(x, y, off);
    x += walk_.offset[0], y += walk_.offset[1];
    const int last = walk_.front - 1;
    const int64_t n = last >= 0 ? walk_.size[last] : 1;
    const bool columns = last >= 0 && walk_.stride[0][last] == 4 && n > 1;
    for_each_index(walk_, 0, last, x, y, [&](const char* from, char* to) {
      if (columns) {
        const int64_t by = walk_.stride[1][last];
        return along_columns<kind>(from, to, n, by, divisor_,
                                   [&](int64_t c, int64_t wide)
                                       __attribute__((always_inline)) { return off.vector(to + c * by, by, wide); });
      }
      if (run_ > 0) return runs<kind>(from, to, n, walk_.step(1, last), off);
      if (over_ <= kFew && walk_.dims - walk_.front == 1) return few<kind>(from, to, n, last, off);
      int64_t i = 0;
      const int64_t x_step = walk_.step(0, last), y_step = walk_.step(1, last);
      if (walk_.dims == walk_.front + 1 && walk_.stride[0][walk_.front] == 4)
        for (; i + S::kLanes <= n; i += S::kLanes)
          square<kind>(from + i * x_step, x_step, to + i * y_step, y_step, off);
      for (; i < n; ++i) {
        char* result = to + i * y_step;
        *reinterpret_cast<float*>(result) = divided(one<kind>(from + i * x_step, off.at(result)));
      }
    });
  }

  // Results of runs that follow one another.
  template <Reduction kind>
  void runs(const char* x, char* y, int64_t n, int64_t y_step, const Off& off) const {
    alignas(64) float column[kColumns];
    const int64_t most = kColumns / run_;
    for (int64_t i = 0, now; i < n; i += now) {
      now = n - i < most ? n - i : most;
      if (kind == Reduction::kSquares)  // of a run's columns all the same; each is read before its sum lies there
        for (int64_t r = 0; r < now; ++r)
          for (int64_t e = 0; e < run_; ++e) column[r * run_ + e] = off.at(y + (i + r) * y_step);
      along_columns<kind>(x + i * run_ * 4, reinterpret_cast<char*>(column), now * run_, 4, 1.0f,
                          [&](int64_t c, int64_t wide)
                              __attribute__((always_inline)) { return S::load_n(column + c, static_cast<int>(wide)); });
      for (int64_t r = 0; r < now; ++r) {
        float a = column[r * run_];
        for (int64_t e = 1; e < run_; ++e) a = join<kind>(a, column[r * run_ + e]);
        *reinterpret_cast<float*>(y + (i + r) * y_step) = divided(a);
      }
    }
  }

  // kLanes results, of a run each.
  template <Reduction kind>
  void square(const char* x, int64_t x_step, char* y, int64_t y_step, const Off& off) const {
    constexpr int k = S::kLanes;
    F row[k];
    for (int r = 0; r < k; ++r)
      row[r] = lanes<kind>(reinterpret_cast<const float*>(x + r * x_step), over_, off.at(y + r * y_step));
    put(y, y_step, join_rows<S>(row, [](F a, F b) { return join<kind>(a, b); }), k, divisor_);
  }

  // Sums of a few elements each: one after the other, where a vector of one sum would be mostly empty.
  template <Reduction kind>
  void few(const char* x, char* y, int64_t n, int last, const Off& off) const {
    const int64_t x_step = walk_.step(0, last), y_step = walk_.step(1, last), each = walk_.stride[0][walk_.front];
    for (int64_t i = 0; i < n; ++i) {
      const char* from = x + i * x_step;
      float a = neutral<kind>();
      const float m = off.at(y + i * y_step);
      for (int64_t e = 0; e < over_; ++e)
        a = join<kind>(a, term<kind>(*reinterpret_cast<const float*>(from + e * each), m));
      *reinterpret_cast<float*>(y + i * y_step) = divided(a);
    }
  }

  float divided(float sum) const { return sum / divisor_; }

  // Every run of the others: body(pointer, count, stride) for the innermost of them.
  template <class Body>
  void over(const char* x, Body body) const {
    const int first = walk_.front, last = walk_.dims - 1 - (run_ > 0);
    if (last < first) return body(x, int64_t{1}, int64_t{4});
    for_each_index(walk_, first, last, x, nullptr,
                   [&](const char* from, char*) { body(from, walk_.size[last], walk_.stride[0][last]); });
  }

  // One number after the other, of which sums are taken run by run (_common/long_sums.h).
  template <Reduction kind>
  struct Joined {
    float now = neutral<kind>(), kept = neutral<kind>();
    int64_t since = 0;
    void add(float v) {
      now = join<kind>(now, v);
      if (!is_sum(kind) || ++since < kSumRun) return;
      kept += now;
      now = 0.0f, since = 0;
    }
    float all() const { return join<kind>(kept, now); }
  };

  // Vectors of sums: body(i, end) for each part of `count` steps that belongs to one run, from `since` steps of it on.
  template <Reduction kind, int V, class Body>
  static inline __attribute__((always_inline)) void by_runs(F (&sum)[1][V], LongSums<S, 1, V>& all, int64_t& since,
                                                            int64_t count, Body body) {
    if constexpr (!is_sum(kind)) return body(0, count);
    for (int64_t i = 0; i < count;) {
      const int64_t end = run_end(i - since, count);
      body(i, end);
      since += end - i;
      i = end;
      if (since == kSumRun) all.keep(sum), since = 0;
    }
  }

  // about(c, wide): what squares of so many columns from c on are about.
  template <Reduction kind, class About>
  void along_columns(const char* x, char* y, int64_t n, int64_t y_stride, float divisor, About about) const {
    constexpr int64_t k = S::kLanes;
    int64_t c = 0;
    for (; c + 4 * k <= n; c += 4 * k) {
      F a[1][4], m[4];
      for (F& v : a[0]) v = S::set(neutral<kind>());
      for (int j = 0; j < 4; ++j) m[j] = kind == Reduction::kSquares ? about(c + j * k, k) : a[0][0];
      LongSums<S, 1, 4> all;
      int64_t since = 0;
      over(x + 4 * c, [&](const char* p, int64_t count, int64_t stride) {
        by_runs<kind>(a, all, since, count, [&](int64_t i, int64_t end) {
          for (; i < end; ++i) {
            const float* from = reinterpret_cast<const float*>(p + i * stride);
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) a[0][j] = with<kind>(a[0][j], S::load(from + j * k), m[j]);
          }
        });
      });
      all.finish(a);
      for (int j = 0; j < 4; ++j) put(y + (c + j * k) * y_stride, y_stride, a[0][j], static_cast<int>(k), divisor);
    }
    for (; c < n; c += k) {
      const int wide = static_cast<int>(n - c < k ? n - c : k);
      F sums[1][4], (&a)[4] = sums[0];
      for (F& v : a) v = S::set(neutral<kind>());
      const F m = kind == Reduction::kSquares ? about(c, wide) : a[0];
      LongSums<S, 1, 4> all;
      int64_t since = 0;
      over(x + 4 * c, [&](const char* p, int64_t count, int64_t stride) {
        by_runs<kind>(sums, all, since, count, [&](int64_t i, int64_t end) {
          const auto rows = [&](auto load) __attribute__((always_inline)) {
            for (; i + 4 <= end; i += 4)
#pragma GCC unroll 4
              for (int j = 0; j < 4; ++j) a[j] = with<kind>(a[j], load(p + (i + j) * stride), m);
            for (; i < end; ++i) a[0] = with<kind>(a[0], load(p + i * stride), m);
          };
          if (wide == k)
            rows([](const char* at) { return S::load(reinterpret_cast<const float*>(at)); });
          else
            rows([wide](const char* at) { return S::load_n(reinterpret_cast<const float*>(at), wide); });
        });
      });
      all.finish(sums);
      put(y + c * y_stride, y_stride, join<kind>(join<kind>(a[0], a[1]), join<kind>(a[2], a[3])), wide, divisor);
    }
  }

  static void put(char* y, int64_t stride, F v, int n, float divisor) {
    v = S::div(v, S::set(divisor));
    if (stride == 4) return S::store_n(reinterpret_cast<float*>(y), v, n);
    float lanes[S::kLanes];
    S::store(lanes, v);
    for (int i = 0; i < n; ++i) *reinterpret_cast<float*>(y + i * stride) = lanes[i];
  }

  // Elements one after the other: every kLanes-th of them in a lane.
  template <Reduction kind>
  static F lanes(const float* from, int64_t count, float about) {
    constexpr int64_t k = S::kLanes;
    if (is_sum(kind) && count > kRun) return long_lanes<kind>(from, count, about);
    int64_t i = 0;
    F a = S::set(neutral<kind>());
    const F m = S::set(about);
    if (count >= 4 * k) {
      F more[4] = {a, a, a, a};
      for (; i + 4 * k <= count; i += 4 * k)
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) more[j] = with<kind>(more[j], S::load(from + i + j * k), m);
      a = join<kind>(join<kind>(more[0], more[1]), join<kind>(more[2], more[3]));
    }
    for (; i + k <= count; i += k) a = with<kind>(a, S::load(from + i), m);
    if (i == count) return a;
    const int rest = static_cast<int>(count - i);
    if (kind != Reduction::kSquares) return join<kind>(a, S::load_n(from + i, rest, neutral<kind>()));
    alignas(64) float squares[S::kLanes];
    S::store(squares, with<kind>(S::set(0.0f), S::load_n(from + i, rest), m));
    return S::add(a, S::load_n(squares, rest));
  }

  static constexpr int64_t kRun = 4 * S::kLanes * kSumRun;  // numbers in as many runs as `lanes` adds side by side

  template <Reduction kind>
  __attribute__((noinline)) static F long_lanes(const float* from, int64_t count, float about) {
    F a = S::set(0.0f);
    for (int64_t i = 0; i < count; i += kRun)
      a = S::add(a, lanes<kind>(from + i, count - i < kRun ? count - i : kRun, about));
    return a;
  }

  template <Reduction kind>
  float one(const char* x, float about) const {
    F a[1][1] = {{S::set(neutral<kind>())}};
    LongSums<S, 1, 1> all;
    int64_t since = 0;
    Joined<kind> singly;
    over(x, [&](const char* p, int64_t count, int64_t stride) {
      if (stride == 4)
        return by_runs<kind>(a, all, since, 1, [&](int64_t, int64_t) {
          a[0][0] = join<kind>(a[0][0], lanes<kind>(reinterpret_cast<const float*>(p), count, about));
        });
      for (int64_t i = 0; i < count; ++i)
        singly.add(term<kind>(*reinterpret_cast<const float*>(p + i * stride), about));
    });
    all.finish(a);
    float rest = singly.all(), each[S::kLanes];
    S::store(each, a[0][0]);
    for (float v : each) rest = join<kind>(rest, v);
    return rest;
  }

  template <Reduction kind>
  void by_table(const char* x, char* y, const Off& off) const {
    for (int64_t e = 0; e * over_ < walk_.elements; ++e) {
      Joined<kind> a;
      char* result = y + at(1, e * over_);
      const float m = off.at(result);
      for (int64_t i = 0; i < over_; ++i)
        a.add(term<kind>(*reinterpret_cast<const float*>(x + at(0, e * over_ + i)), m));
      *reinterpret_cast<float*>(result) = divided(a.all());
    }
  }

  int64_t at(int operand, int64_t element) const {
    if (walk_.table[operand]) return walk_.table[operand][element];
    int64_t found = walk_.offset[operand];
    for (int d = walk_.dims - 1; d >= 0; --d) {
      found += element % walk_.size[d] * walk_.stride[operand][d];
      element /= walk_.size[d];
    }
    return found;
  }

  GraphIO x_, y_, about_{-1, 0, 0, 0};
  Reduction kind_;
  int64_t over_, run_ = 0;  // elements of a result; and of a run, where short ones follow one another
  float divisor_;
  Strided walk_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "reduce", "cpu", nullptr, create_stage<ReduceStage<S>>);
}

}  // namespace rta
