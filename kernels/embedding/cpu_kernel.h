// Embedding on the CPU: rows of a float32 or int8 table by index. The contract is in contract.py.
//
// Floor: one row read from wherever it is cached, one written.
#pragma once

#include "_common/checks.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class EmbeddingStage final : public Stage {
 public:
  explicit EmbeddingStage(const StageSpec& spec)
      : index_(spec.in(0)), y_(spec.out(0)), width_(static_cast<int>(spec.output(0).width)) {
    expect_ports(spec, 1, 1);
    const int64_t count = spec.attrs.count("weight");
    rows_ = width_ ? count / width_ : 0;
    expect(rows_ * width_ == count, "weight has %lld elements, no rows of %d", static_cast<long long>(count), width_);
    expect(y_.steps == index_.steps, "%lld indices for %lld rows", static_cast<long long>(index_.steps),
           static_cast<long long>(y_.steps));
    if (spec.input(0).dtype != RTA_INT64 || index_.width != 1) fail("embedding: takes one int64 index a row");
    if (spec.output(0).dtype != RTA_FLOAT32) fail("embedding: gives float32");
    table_ = nullptr;
    bytes_ = nullptr;
    scale_ = nullptr;
    if (spec.attrs.dtype("weight") == RTA_FLOAT32) {
      table_ = copy(*spec.arena, spec.attrs.floats("weight", count), count);
    } else {
      bytes_ = copy(*spec.arena, spec.attrs.int8s("weight", count), count);
      scale_ = copy(*spec.arena, spec.attrs.floats("weight_scale", rows_), rows_);
    }
  }

  bool checks() const override { return true; }
  const char* check(const Run& run) const override {
    for (int64_t r = 0; r < index_.rows(run); ++r) {
      const int64_t i = index(run, r);
      if (i >= 0 && i < rows_) continue;
      __builtin_snprintf(reason_, sizeof reason_, "embedding: index %lld is not in 0..%lld", static_cast<long long>(i),
                         static_cast<long long>(rows_ - 1));
      return reason_;
    }
    return nullptr;
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < index_.rows(run); ++r) {
      const int64_t i = index(run, r);
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      if (bytes_) {
        const int8_t* from = bytes_ + i * width_;
        const float scale = scale_[i];
        for (int c = 0; c < width_; ++c) y[c] = static_cast<float>(from[c]) * scale;
      } else {
        __builtin_memcpy(y, table_ + i * width_, static_cast<size_t>(width_) * sizeof(float));
      }
    }
  }

 private:
  int64_t index(const Run& run, int64_t r) const { return *reinterpret_cast<const int64_t*>(index_.row(run, r)); }

  template <class T>
  static const T* copy(Arena& arena, const T* from, int64_t count) {
    T* to = static_cast<T*>(arena.take(static_cast<size_t>(count) * sizeof(T)));
    __builtin_memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
    return to;
  }

  GraphIO index_, y_;
  int width_;
  int64_t rows_;
  const float *table_, *scale_;
  const int8_t* bytes_;
  mutable char reason_[96];  // of the last refusal; a plan runs one call at a time
};

static const char* embedding_reject(const Attrs& attrs) {
  if (attrs.text_is("weight_dtype", "float32") || attrs.text_is("weight_dtype", "int8")) return nullptr;
  return "takes float32 and int8 tables";
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "embedding", "cpu", embedding_reject, create_stage<EmbeddingStage<S>>);
}

}  // namespace rta
