// LayerNorm and RMSNorm on the CPU, with residual add and int8 output. The contract is in contract.py.
//
// A row goes through the first-level cache three or four times: sum, squares of the deviations, result, and with a
// scale of its own the bytes. Floor: 384 columns are 24 vectors of 16; per vector 2 loads and 3 stores of the row, and
// about 20 other instructions, 160 cycles in all.
#pragma once

#include "_common/checks.h"
#include "_simd/activation.h"
#include "_simd/row.h"

namespace rta {

template <class S>
class NormStage final : public Stage {
 public:
  explicit NormStage(const StageSpec& spec)
      : x_(spec.in(0)),
        other_(spec.in(1)),
        y_(named(spec, "y_at")),
        q_(named(spec, "q_at")),
        scale_(named(spec, "row_scale_at")),
        sum_(named(spec, "sum_at")),
        width_(static_cast<int>(spec.input(0).width)),
        layer_(word(spec.attrs, "kind", "rms|layer") == 1),
        eps_(static_cast<float>(spec.attrs.real("eps"))),
        inv_scale_(static_cast<float>(spec.attrs.real("inv_scale"))),
        zero_(zero_byte(spec.attrs, "zero_point")),
        activation_(parse_activation(spec.attrs.text("activation"))),
        parameter_(static_cast<float>(spec.attrs.real("activation_parameter"))) {
    check_values(spec);
    weight_ = copy(*spec.arena, spec.attrs.floats("weight", width_));
    bias_ = copy(*spec.arena, spec.attrs.floats("bias", width_));
    stride_ = (width_ + kPartialSums - 1) / kPartialSums * kPartialSums;
    spec.need_scratch(static_cast<size_t>(2 * stride_) * sizeof(float));
  }

  bool marks_samples() const override { return q_.exists() && !scale_.exists(); }

  void run(const Run& run) const override {
    float* scratch = reinterpret_cast<float*>(run.scratch);
    const bool activated = activation_ != Activation::kNone;
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* t = floats(x_, run, r);
      float mean = 0.0f;
      if (other_.exists()) {
        float* kept = sum_.exists() ? floats(sum_, run, r) : scratch;
        mean = add<true>(t, floats(other_, run, r), kept);
        t = kept;
      } else if (sum_.exists()) {
        float* kept = floats(sum_, run, r);
        mean = add<false>(t, nullptr, kept);
        t = kept;
      } else if (layer_) {
        mean = add<false>(t, nullptr, nullptr);
      }
      float* y = y_.exists() ? floats(y_, run, r) : nullptr;
      float* made = y && !activated ? y : scratch + stride_;
      uint8_t* q = q_.exists() ? reinterpret_cast<uint8_t*>(q_.row(run, r)) : nullptr;
      if (activated || !q || scale_.exists()) {
        int32_t peak = scale_.exists() && !activated ? normalize<Gives::kPeak>(t, mean, made, nullptr, nullptr)
                                                     : normalize<Gives::kFloats>(t, mean, made, nullptr, nullptr);
        if (activated) {
          activate_in_place<S>(activation_, parameter_, made, stride_ / S::kLanes);
          peak = epilogue(made, y);
        }
        if (scale_.exists())
          by_row(made, q, floats(scale_, run, r), peak);
        else if (q && !quantize(made, q, inv_scale_, zero_))
          propagate_nan(run, r, q);
      } else {
        bool finite = true;
        normalize<Gives::kBytes>(t, mean, made, q, &finite);
        if (!finite) propagate_nan(run, r, q);
      }
    }
  }

 private:
  using F = typename S::F;
  using I = typename S::I;

  static GraphIO named(const StageSpec& spec, const char* role) {
    const int at = static_cast<int>(between(spec.attrs, role, -1, spec.output_count - 1));
    return at < 0 ? spec.out(spec.output_count) : spec.out(at);
  }

  // Each output has one role.
  void check_values(const StageSpec& spec) const {
    expect_inputs(spec, 1, 2);
    for (int i = 0; i < spec.input_count; ++i)
      expect_value(spec.input(i), RTA_FLOAT32, x_.steps, x_.width, i ? "other" : "x");
    const struct {
      const GraphIO& port;
      rta_dtype dtype;
      int64_t width;
      const char* what;
    } roles[] = {{y_, RTA_FLOAT32, x_.width, "y"},
                 {q_, RTA_INT8, x_.width, "q"},
                 {scale_, RTA_FLOAT32, 1, "row_scale"},
                 {sum_, RTA_FLOAT32, x_.width, "sum"}};
    int found = 0;
    for (const auto& role : roles) {
      if (!role.port.exists()) continue;
      ++found;
      expect_value(spec.values[role.port.id], role.dtype, x_.steps, role.width, role.what);
    }
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < a; ++b)
        expect(!roles[a].port.exists() || roles[a].port.id != roles[b].port.id, "%s and %s are one output",
               roles[a].what, roles[b].what);
    expect(found == spec.output_count && (q_.exists() || !scale_.exists()), "%d outputs with a role of %d", found,
           spec.output_count);
  }
  static float* floats(const GraphIO& port, const Run& run, int64_t r) {
    return reinterpret_cast<float*>(port.row(run, r));
  }
  const float* copy(Arena& arena, const float* from) const {
    const int whole = (width_ + kPartialSums - 1) / kPartialSums * kPartialSums;
    float* to = static_cast<float*>(arena.take(static_cast<size_t>(whole) * sizeof(float)));
    for (int i = 0; i < width_; ++i) to[i] = from[i];
    return to;
  }

  // Writes x (+ other) to `t` where there is one; gives what is to be subtracted: the mean, or 0 for RMSNorm.
  template <bool Other>
  float add(const float* x, const float* other, float* t) const {
    PartialSums<S> sums;
    over_row<S>(width_, [&](int v, int i, int n) __attribute__((always_inline)) {
      F value = load_part<S>(x + i, n);
      if (Other) value = S::add(value, load_part<S>(other + i, n));
      if (t) store_part<S>(t + i, value, n);
      sums.part[v] = S::add(sums.part[v], value);
    });
    return layer_ ? sums.total() / static_cast<float>(width_) : 0.0f;
  }

  enum class Gives { kFloats, kPeak, kBytes };
  // Writes the result without its activation to `y`; also gives the largest |y| as bits, or writes y as int8 to `q`.
  template <Gives gives>
  int32_t normalize(const float* t, float mean, float* y, uint8_t* q, bool* finite) const {
    const float count = static_cast<float>(width_);
    PartialSums<S> squares;
    const F shift = S::set(mean);
    over_row<S>(width_, [&](int v, int i, int n) __attribute__((always_inline)) {
      const F d = S::sub(n == S::kLanes ? S::load(t + i) : S::load_n(t + i, n, mean), shift);
      squares.part[v] = S::add(squares.part[v], S::mul(d, d));
    });
    const F scale = S::set(1.0f / __builtin_sqrtf(squares.total() / count + eps_));
    const F inverse = S::set(inv_scale_);
    const I zero = S::set_int(zero_);
    F nonfinite[4] = {S::set(0.0f), S::set(0.0f), S::set(0.0f), S::set(0.0f)};
    I peak[4] = {S::set_int(0), S::set_int(0), S::set_int(0), S::set_int(0)};
    over_row<S>(width_, [&](int v, int i, int n) __attribute__((always_inline)) {
      const F d = S::mul(S::sub(load_part<S>(t + i, n), shift), scale);
      const F z = S::add(S::mul(d, S::load(weight_ + i)), S::load(bias_ + i));
      store_part<S>(y + i, z, n);
      if (gives == Gives::kFloats) return;
      if (gives == Gives::kBytes) {
        nonfinite[v % 4] = S::mul_add(z, S::set(0.0f), nonfinite[v % 4]);
        store_quantized<S>(q + i, z, inverse, zero);
      } else if (n == S::kLanes) {
        peak[v % 4] = S::max_int(peak[v % 4], S::bits_of_abs(z));
      } else {  // lanes beyond the row hold what 0 becomes
        peak[v % 4] = S::max_int(peak[v % 4], S::bits_of_abs(S::load_n(y + i, n)));
      }
    });
    if (gives == Gives::kFloats) return 0;
    if (gives == Gives::kBytes) {
      // Lanes beyond the row hold (0 - mean) * scale: finite where the row is.
      *finite = S::sum_of(S::add(S::add(nonfinite[0], nonfinite[1]), S::add(nonfinite[2], nonfinite[3]))) == 0.0f;
      return 0;
    }
    return S::max_of_int(S::max_int(S::max_int(peak[0], peak[1]), S::max_int(peak[2], peak[3])));
  }

  // Copies a row that was activated to `y` where there is one; the largest |y| as bits.
  int32_t epilogue(const float* made, float* y) const {
    I peak = S::set_int(0);
    over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
      const F v = load_part<S>(made + i, n);
      if (y) store_part<S>(y + i, v, n);
      peak = S::max_int(peak, S::bits_of_abs(v));
    });
    return S::max_of_int(peak);
  }

  bool quantize(const float* y, uint8_t* q, float inv_scale, int32_t zero_point) const {
    const F inverse = S::set(inv_scale);
    const I zero = S::set_int(zero_point);
    F nonfinite = S::set(0.0f);
    over_row<S>(width_, [&](int, int i, int n) __attribute__((always_inline)) {
      const F v = load_part<S>(y + i, n);
      nonfinite = S::mul_add(v, S::set(0.0f), nonfinite);
      store_quantized<S>(q + i, v, inverse, zero);
    });
    return S::sum_of(nonfinite) == 0.0f;
  }

  // The rules of kernels/quantize for a scale per row.
  void by_row(const float* y, uint8_t* q, float* scale, int32_t bits) const {
    constexpr int32_t infinity_bits = 0x7f800000;
    float peak;
    __builtin_memcpy(&peak, &bits, 4);
    if (bits >= infinity_bits || peak < 0x1p-100f) {
      for (int i = 0; i < width_; ++i) q[i] = 128;
      *scale = bits >= infinity_bits ? __builtin_nanf("") : 1.0f;
      return;
    }
    quantize(y, q, 127.0f / peak, 128);
    *scale = peak / 127.0f;
  }

  void propagate_nan(const Run& run, int64_t r, uint8_t* q) const {
    for (int i = 0; i < width_; ++i) q[i] = 128;
    run.nan_marks[r / x_.steps] = __builtin_nanf("");
  }

  GraphIO x_, other_, y_, q_, scale_, sum_;
  int width_, stride_;
  bool layer_;
  float eps_, inv_scale_;
  int32_t zero_;
  Activation activation_;
  float parameter_;
  const float *weight_, *bias_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "norm", "cpu", nullptr, create_stage<NormStage<S>>);
}

}  // namespace rta
