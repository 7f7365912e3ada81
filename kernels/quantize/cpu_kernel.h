// Quantize on the CPU: float32 rows to int8, static or by row. The contract is in contract.py.
#pragma once

#include "_common/checks.h"
#include "_simd/store_bytes.h"

namespace rta {

constexpr int32_t kInfinityBits = 0x7f800000;

template <class S>
class QuantizeStage final : public Stage {
 public:
  explicit QuantizeStage(const StageSpec& spec)
      : x_(spec.in(0)),
        q_(spec.out(0)),
        scale_(spec.out(1)),
        width_(static_cast<int>(spec.input(0).width)),
        inv_scale_(static_cast<float>(spec.attrs.real("inv_scale"))),
        zero_(zero_byte(spec.attrs, "zero_point")) {
    expect_inputs(spec, 1, 1);
    expect_outputs(spec, 1, 2);
    expect_dtype(spec.input(0), RTA_FLOAT32, "x");
    expect_value(spec.output(0), RTA_INT8, x_.steps, x_.width, "q");
    if (scale_.exists()) expect_value(spec.output(1), RTA_FLOAT32, x_.steps, 1, "the scale");
  }

  bool marks_samples() const override { return !scale_.exists(); }

  void run(const Run& run) const override {
    if (!scale_.exists() && x_.pitch == width_ * 4 && q_.pitch == width_) {  // the rows of a sample are one
      const int count = width_ * static_cast<int>(x_.steps);
      for (int64_t s = 0; s < run.samples; ++s)
        quantize(run, s, reinterpret_cast<const float*>(x_.row(run, s * x_.steps)), q_.row(run, s * x_.steps), count);
      return;
    }
    if (!scale_.exists()) {
      for (int64_t s = 0; s < run.samples; ++s) rows(run, s);
      return;
    }
    for (int64_t r = 0; r < x_.rows(run); ++r)
      by_row(reinterpret_cast<const float*>(x_.row(run, r)), reinterpret_cast<uint8_t*>(q_.row(run, r)),
             reinterpret_cast<float*>(scale_.row(run, r)));
  }

 private:
  using F = typename S::F;
  using I = typename S::I;

  // The largest |x| as bits: an integer maximum sees NaN and infinity as what they are, the largest of all.
  static int32_t peak_bits(const float* x, int width) {
    I peak = S::set_int(0);
    int i = 0;
    for (; i + S::kLanes <= width; i += S::kLanes) peak = S::max_int(peak, S::bits_of_abs(S::load(x + i)));
    if (i < width) peak = S::max_int(peak, S::bits_of_abs(S::load_n(x + i, width - i)));
    return S::max_of_int(peak);
  }

  static I vector(F x, F inv_scale, F& nonfinite) {
    // x * 0 is 0 unless x is not finite; the sum of them costs one operation and no branch.
    nonfinite = S::mul_add(x, S::set(0.0f), nonfinite);
    const F t = S::max(S::set(-512.0f), S::min(S::set(512.0f), S::mul(x, inv_scale)));
    return S::to_int(t);
  }

  void quantize(const Run& run, int64_t sample, const float* x, char* to, int count) const {
    uint8_t* q = reinterpret_cast<uint8_t*>(to);
    if (write(x, q, inv_scale_, zero_, count)) return;
    for (int i = 0; i < count; ++i) q[i] = 128;
    run.nan_marks[sample] = __builtin_nanf("");
  }

  // The rows of a sample. Rows of few vectors are common in images: nothing but their own work is done for each.
  void rows(const Run& run, int64_t sample) const {
    const char* x = x_.row(run, sample * x_.steps);
    char* q = q_.row(run, sample * x_.steps);
    F nonfinite = S::set(0.0f);
    switch ((width_ + S::kLanes - 1) / S::kLanes) {
      case 1: nonfinite = narrow<1>(x, q); break;
      case 2: nonfinite = narrow<2>(x, q); break;
      case 3: nonfinite = narrow<3>(x, q); break;
      default:
        for (int64_t r = 0; r < x_.steps; ++r, x += x_.pitch, q += q_.pitch)
          quantize(run, sample, reinterpret_cast<const float*>(x), q, width_);
        return;
    }
    if (S::sum_of(nonfinite) == 0.0f) return;
    for (int64_t r = 0; r < x_.steps; ++r)
      quantize(run, sample, reinterpret_cast<const float*>(x + r * x_.pitch), q + r * q_.pitch, width_);
  }

  template <int V>
  F narrow(const char* x, char* q) const {
    const F inverse = S::set(inv_scale_);
    const int last = width_ - (V - 1) * S::kLanes;
    const int64_t apart = x_.pitch, further = q_.pitch;
    const int32_t zero = zero_;
    F nonfinite = S::set(0.0f);
    for (int64_t r = x_.steps; r > 0; --r, x += apart, q += further) {
      const float* from = reinterpret_cast<const float*>(x);
      I number[V];
#pragma GCC unroll 4
      for (int v = 0; v < V - 1; ++v) number[v] = vector(S::load(from + v * S::kLanes), inverse, nonfinite);
      number[V - 1] = vector(S::load_n(from + (V - 1) * S::kLanes, last), inverse, nonfinite);
      store_bytes<S, V>(reinterpret_cast<uint8_t*>(q), number, zero, 0);
    }
    return nonfinite;
  }

  // False where some x is not finite.
  static bool write(const float* x, uint8_t* q, float inv_scale, int32_t zero_point, int count) {
    const F inverse = S::set(inv_scale);
    F nonfinite[4] = {S::set(0.0f), S::set(0.0f), S::set(0.0f), S::set(0.0f)};
    int i = 0;
    for (; i + 4 * S::kLanes <= count; i += 4 * S::kLanes) {
      I params[4];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) params[j] = vector(S::load(x + i + j * S::kLanes), inverse, nonfinite[j]);
      store_bytes<S, 4>(q + i, params, zero_point, 0);
    }
    for (; i < count; i += S::kLanes) {
      const int left = count - i;
      I number[1] = {vector(left < S::kLanes ? S::load_n(x + i, left) : S::load(x + i), inverse, nonfinite[0])};
      store_bytes<S, 1>(q + i, number, zero_point, 0);
    }
    return S::sum_of(S::add(S::add(nonfinite[0], nonfinite[1]), S::add(nonfinite[2], nonfinite[3]))) == 0.0f;
  }

  void by_row(const float* x, uint8_t* q, float* scale) const {
    const int32_t bits = peak_bits(x, width_);
    float peak;
    __builtin_memcpy(&peak, &bits, 4);
    if (bits >= kInfinityBits || peak < 0x1p-100f) {
      for (int i = 0; i < width_; ++i) q[i] = 128;
      *scale = bits >= kInfinityBits ? __builtin_nanf("") : 1.0f;
      return;
    }
    write(x, q, 127.0f / peak, 128, width_);
    *scale = peak / 127.0f;
  }

  GraphIO x_, q_, scale_;
  int width_;
  float inv_scale_;
  int32_t zero_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "quantize", "cpu", nullptr, create_stage<QuantizeStage<S>>);
}

}  // namespace rta
