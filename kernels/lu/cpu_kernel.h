// Triangular factors of small matrices on the CPU. The contract is in contract.py.
//
// Rows are exchanged where they lie, and what the exchanges come to is one permutation at the end. Floor: n^2 (m - n /
// 3) multiply-adds.
#pragma once

#include "_matrices/matrices.h"

namespace rta {

template <class S>
class LuStage final : public Stage {
 public:
  explicit LuStage(const StageSpec& spec) {
    expect_inputs(spec, 1, 1);
    rows_ = between(spec.attrs, "rows", 1, 4096);
    columns_ = between(spec.attrs, "columns", 1, 4096);
    least_ = rows_ < columns_ ? rows_ : columns_;
    expect(least_ <= 64, "has %lld rows and columns at least, at most 64 are known", static_cast<long long>(least_));
    count_ = between(spec.attrs, "count", 1, kMaxElements);
    refuses_ = flag(spec.attrs, "refuses");
    int inputs = 0;
    a_ = Port::input(spec, "a", product(count_, rows_ * columns_), &inputs);
    parts_ = static_cast<int>(between(spec.attrs, "parts", 1, 31));
    int outputs = 0;
    for (int part = parts_; part; part /= 2) outputs += part % 2;
    expect_outputs(spec, outputs, outputs);
    int place = 0;
    if (parts_ & 1) p_ = Port::output(spec, place++, "p", product(count_, rows_, rows_));
    if (parts_ & 2) l_ = Port::output(spec, place++, "l", product(count_, rows_, least_));
    if (parts_ & 4) u_ = Port::output(spec, place++, "u", product(count_, least_, columns_));
    if (parts_ & 8) lu_ = Port::output(spec, place++, "lu", product(count_, rows_, columns_));
    if (parts_ & 16) {
      const Value& v = spec.output(place);
      expect_dtype(v, RTA_INT64, "pivots");
      expect(elements(v) == product(count_, least_), "pivots has %lld elements", static_cast<long long>(elements(v)));
      pivots_ = spec.out(place);
    }
    const int64_t most = rows_ > columns_ ? rows_ : columns_;
    spec.need_scratch(static_cast<size_t>(rows_ * columns_ + most + rows_ + least_) * sizeof(double));
  }

  bool refuses() const override { return refuses_; }
  const char* refusal() const override {
    int64_t column;
    return outside_.take(&column) ? "lu: a matrix with a pivot of 0" : nullptr;
  }

  void run(const Run& run) const override {
    const int64_t size = rows_ * columns_;
    double* a = reinterpret_cast<double*>(run.scratch);
    double* row = a + size;
    int64_t* order = reinterpret_cast<int64_t*>(row + (rows_ > columns_ ? rows_ : columns_));
    int64_t* chosen = order + rows_;
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t m = 0; m < count_; ++m) {
        a_.read(run, s, m * size, size, a);
        eliminate(a, order, chosen);
        if (parts_ & 1) {
          for (int64_t r = 0; r < rows_; ++r) {
            for (int64_t c = 0; c < rows_; ++c) row[c] = order[c] == r ? 1.0 : 0.0;
            p_.write(run, s, (m * rows_ + r) * rows_, rows_, row);
          }
        }
        if (parts_ & 2)
          for (int64_t r = 0; r < rows_; ++r) {
            for (int64_t c = 0; c < least_; ++c) row[c] = c < r ? a[r * columns_ + c] : c == r ? 1.0 : 0.0;
            l_.write(run, s, (m * rows_ + r) * least_, least_, row);
          }
        if (parts_ & 4)
          for (int64_t r = 0; r < least_; ++r) {
            for (int64_t c = 0; c < columns_; ++c) row[c] = c < r ? 0.0 : a[r * columns_ + c];
            u_.write(run, s, (m * least_ + r) * columns_, columns_, row);
          }
        if (parts_ & 8) lu_.write(run, s, m * size, size, a);
        if (parts_ & 16)
          for (int64_t k = 0; k < least_; ++k) {
            const int64_t at = m * least_ + k;
            char* to = pivots_.row(run, s * pivots_.steps + at / pivots_.width);
            reinterpret_cast<int64_t*>(to)[at % pivots_.width] = chosen[k] + 1;
          }
      }
  }

 private:
  using Port = MatrixPort<S>;
  using R = Rows<S>;

  // a becomes both triangles; order: where each of its rows was. chosen: what each row was exchanged with.
  void eliminate(double* a, int64_t* order, int64_t* chosen) const {
    for (int64_t r = 0; r < rows_; ++r) order[r] = r;
    for (int64_t k = 0; k < least_; ++k) {
      int64_t best = k;
      for (int64_t r = k + 1; r < rows_; ++r)
        if (R::magnitude(a[r * columns_ + k]) > R::magnitude(a[best * columns_ + k])) best = r;
      chosen[k] = best;
      if (best != k) {
        R::exchange(a + best * columns_, a + k * columns_, columns_);
        const int64_t kept = order[k];
        order[k] = order[best];
        order[best] = kept;
      }
      const double* own = a + k * columns_;
      if (own[k] == 0.0) {  // the whole column is
        if (refuses_) outside_.note(k);
        continue;
      }
      for (int64_t r = k + 1; r < rows_; ++r) {
        double* row = a + r * columns_;
        row[k] = row[k] / own[k];
        R::subtract(row + k + 1, own + k + 1, row[k], columns_ - k - 1);
      }
    }
  }

  bool refuses_;
  int parts_;  // a sum of what is given: p 1, l 2, u 4, lu 8, pivots 16
  int64_t rows_, columns_, least_, count_;
  Port a_, p_, l_, u_, lu_;
  GraphIO pivots_{-1, 0, 0, 0};
  Outside outside_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "lu", "cpu", nullptr, create_stage<LuStage<S>>);
}

}  // namespace rta
