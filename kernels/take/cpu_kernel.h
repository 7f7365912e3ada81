// Take on the CPU: copies by computed indices. The contract is in contract.py.
//
// A line whose elements lie together on both sides is one copy. Floor: the bytes read and written, and about 2 ns a
// line.
#pragma once

#include "_common/checks.h"
#include "_common/indexed.h"

namespace rta {

template <class S>
class TakeStage final : public Stage {
 public:
  explicit TakeStage(const StageSpec& spec) : y_(spec.out(0)) {
    expect_outputs(spec, 1, 1);
    Operands operands{spec};
    x_ = operands.take("x");
    selection_ = read_selection(spec, operands, x_.elements);
    expect_inputs(spec, operands.next, operands.next);
    expect_dtype(spec.output(0), x_.element == 8 ? RTA_INT64 : RTA_FLOAT32, "y");
    to_ = read_lines(spec, "_y", selection_.lines, selection_.along, y_, x_.element);
    single_ = selection_.lines > 0 && selection_.along == 1 && x_.flat && !to_.table;
  }

  bool refuses() const override { return true; }
  const char* refusal() const override { return outside_reason(outside_, "take", reason_); }

  void run(const Run& run) const override {
    const int64_t n = selection_.along;
    const char* indices[kMaxIndices];
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = x_.sample(run, s);
      char* y = y_.row(run, s * y_.steps);
      for (int k = 0; k < selection_.count; ++k) indices[k] = selection_.index[k].sample(run, s);
      if (single_)
        x_.element == 4 ? singles<float>(x, y, indices) : singles<int64_t>(x, y, indices);
      else
        selection_.each_start(indices, outside_, [&](int64_t line, int64_t e) {
          if (n > 1 && selection_.contiguous && to_.contiguous && x_.run_of(e, n))
            __builtin_memcpy(y + to_.at(line, 0), x + x_.at(e), static_cast<size_t>(n * x_.element));
          else if (x_.element == 4)
            for (int64_t i = 0; i < n; ++i) element<float>(y + to_.at(line, i), x + x_.at(e + selection_.step[i]));
          else
            for (int64_t i = 0; i < n; ++i) element<int64_t>(y + to_.at(line, i), x + x_.at(e + selection_.step[i]));
        });
    }
  }

 private:
  template <class T>
  static void element(char* to, const char* from) {
    *reinterpret_cast<T*>(to) = *reinterpret_cast<const T*>(from);
  }

  // Lines of one element.
  template <class T>
  void singles(const char* x, char* y, const char* const* indices) const {
    const T* const from = reinterpret_cast<const T*>(x) + selection_.step[0];
    char* const to = y + to_.along[0];
    const int64_t* const at = to_.lines;
    selection_.each_start(indices, outside_,
                          [=](int64_t line, int64_t e) { *reinterpret_cast<T*>(to + at[line]) = from[e]; });
  }

  GraphIO y_;
  DenseValue x_;
  Selection selection_;
  LineOperand to_;
  bool single_;  // each line is one element of rows back to back
  Outside outside_;
  mutable char reason_[96];  // of the last refusal; a plan runs one call at a time
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "take", "cpu", nullptr, create_stage<TakeStage<S>>);
}

}  // namespace rta
