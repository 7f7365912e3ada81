// Put on the CPU: elements joined into a copy by computed indices. The contract is in contract.py.
//
// One line after the other, so that equal indices give the same result every time. Floor: the bytes of x copied, and
// those of src read, over the bandwidth of the cache they are in.
#pragma once

#include "_common/checks.h"
#include "_common/indexed.h"

namespace rta {

template <class S>
class PutStage final : public Stage {
 public:
  explicit PutStage(const StageSpec& spec) {
    expect_outputs(spec, 1, 1);
    y_ = dense_value(spec.out(0), spec.output(0), "y");
    Operands operands{spec};
    x_ = operands.take("x");
    selection_ = read_selection(spec, operands, y_.elements);
    source_ = operands.take("src");
    expect_inputs(spec, operands.next, operands.next);
    if (x_.element != y_.element || source_.element != y_.element) fail("put: x, src and y have one dtype");
    count_ = between(spec.attrs, "whole_count", 0, kMaxElements);
    n_ = between(spec.attrs, "whole_along", 0, kMaxElements);
    x_walk_ = read_lines(spec, "_x", count_, n_, x_.port, x_.element, x_.elements);
    y_walk_ = read_lines(spec, "_y", count_, n_, y_.port, y_.element);
    walk_ =
        read_lines(spec, "_src", selection_.lines, selection_.along, source_.port, source_.element, source_.elements);
    mode_ = static_cast<Mode>(word(spec.attrs, "mode", "set|add|prod|amax|amin"));
    single_ = selection_.lines > 0 && selection_.along == 1 && y_.flat && !walk_.table;
  }

  bool refuses() const override { return true; }
  const char* refusal() const override { return outside_reason(outside_, "put", reason_); }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      if (y_.element == 8)
        sample<int64_t>(run, s);
      else
        sample<float>(run, s);
    }
  }

 private:
  enum class Mode { kSet, kAdd, kProd, kMax, kMin };  // in the order of their words

  template <class T>
  void sample(const Run& run, int64_t s) const {
    const char *x = x_.sample(run, s), *source = source_.sample(run, s);
    char* y = y_.port.row(run, s * y_.port.steps);
    for (int64_t line = 0; line < count_; ++line)
      if (x_walk_.contiguous && y_walk_.contiguous)
        __builtin_memcpy(y + y_walk_.at(line, 0), x + x_walk_.at(line, 0), static_cast<size_t>(n_) * sizeof(T));
      else
        for (int64_t i = 0; i < n_; ++i)
          *reinterpret_cast<T*>(y + y_walk_.at(line, i)) = *reinterpret_cast<const T*>(x + x_walk_.at(line, i));
    const char* indices[kMaxIndices];
    for (int k = 0; k < selection_.count; ++k) indices[k] = selection_.index[k].sample(run, s);
    switch (mode_) {
      case Mode::kSet: return into<T, Mode::kSet>(y, source, indices);
      case Mode::kAdd: return into<T, Mode::kAdd>(y, source, indices);
      case Mode::kProd: return into<T, Mode::kProd>(y, source, indices);
      case Mode::kMax: return into<T, Mode::kMax>(y, source, indices);
      case Mode::kMin: return into<T, Mode::kMin>(y, source, indices);
    }
  }

  template <class T, Mode mode>
  void into(char* y, const char* source, const char* const* indices) const {
    const auto one = [](T* to, const char* from) { *to = join<T, mode>(*to, *reinterpret_cast<const T*>(from)); };
    if (single_) {
      T* const to = reinterpret_cast<T*>(y) + selection_.step[0];
      const char* const from = source + walk_.along[0];
      const int64_t* const at = walk_.lines;
      selection_.each_start(indices, outside_, [=](int64_t line, int64_t e) { one(to + e, from + at[line]); });
      return;
    }
    selection_.each_start(indices, outside_, [&](int64_t line, int64_t e) {
      for (int64_t i = 0; i < selection_.along; ++i)
        one(reinterpret_cast<T*>(y + y_.at(e + selection_.step[i])), source + walk_.at(line, i));
    });
  }

  template <class T, Mode mode>
  static T join(T a, T b) {
    if constexpr (mode == Mode::kSet) return b;
    if constexpr (mode == Mode::kMax) return a != a || a > b ? a : b;
    if constexpr (mode == Mode::kMin) return a != a || a < b ? a : b;
    if constexpr (sizeof(T) == 8)  // whole numbers wrap around
      return static_cast<T>(mode == Mode::kAdd ? static_cast<uint64_t>(a) + static_cast<uint64_t>(b)
                                               : static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
    return mode == Mode::kAdd ? a + b : a * b;
  }

  DenseValue x_, y_, source_;
  Selection selection_;
  int64_t count_, n_;
  LineOperand x_walk_, y_walk_, walk_;
  Mode mode_;
  bool single_;  // each line is one element of rows back to back
  Outside outside_;
  mutable char reason_[96];  // of the last refusal; a plan runs one call at a time
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "put", "cpu", nullptr, create_stage<PutStage<S>>);
}

}  // namespace rta
