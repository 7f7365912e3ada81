// What the linear kernels read from a stage, whatever their weights are: compiled once, for any CPU.
#include "linear/epilogue.h"

#include "_common/checks.h"

namespace rta {

LinearLayer read_layer(const StageSpec& spec) {
  LinearLayer p{};
  const Attrs& attrs = spec.attrs;
  p.x = spec.in(0);
  p.y = spec.out(0);
  p.row_scale = spec.in(1);
  p.k = p.x.width;
  p.n = p.y.width;
  const bool int8 = spec.input(0).dtype == RTA_INT8;
  expect_inputs(spec, 1, int8 ? 2 : 1);
  expect_outputs(spec, 1, 1);
  expect_dtype(spec.input(0), RTA_FLOAT32, RTA_INT8, "x");
  expect_dtype(spec.output(0), RTA_FLOAT32, RTA_INT8, "y");
  expect(p.x.steps == p.y.steps, "x has %lld rows, y %lld", static_cast<long long>(p.x.steps),
         static_cast<long long>(p.y.steps));
  if (p.row_scale.exists()) expect_value(spec.input(1), RTA_FLOAT32, p.x.steps, 1, "the scale of rows");
  product(p.n, p.k);
  if (attrs.dtype("weight") != RTA_FLOAT32 && attrs.dtype("weight") != RTA_BFLOAT16)
    expect(p.k <= kMaxInt8Products, "K = %lld, where int32 sums hold %lld", static_cast<long long>(p.k),
           static_cast<long long>(kMaxInt8Products));
  p.activation = parse_activation(attrs.text("activation"));
  p.parameter = static_cast<float>(attrs.real("activation_parameter"));
  p.int8_out = spec.output(0).dtype == RTA_INT8;
  const bool simple = p.activation == Activation::kRelu || p.activation == Activation::kNone;
  p.bounds = Bounds::of(p.activation, p.parameter);
  p.bounds_alone = simple || (Bounds::are(p.activation) && !p.int8_out);
  p.plain = p.bounds_alone && !p.row_scale.exists() && !p.int8_out;
  if (p.int8_out) {
    if (spec.input(0).dtype == RTA_FLOAT32) fail("linear: a float32 input has no int8 output");
    p.y_inv_scale = static_cast<float>(attrs.real("y_inv_scale"));
    p.y_zero = zero_byte(attrs, "y_zero_point");
    p.y_low = p.activation == Activation::kRelu ? p.y_zero : 0;
    p.bounded = simple && !p.row_scale.exists() && p.y_inv_scale == 1.0f;
  }
  return p;
}

void check_rows(const LinearLayer& p) { expect_rows(p.x.steps); }

void LinearLayer::mark_samples(const Run& run) const {
  for (int64_t r = 0, rows = row_scale.rows(run); r < rows; ++r) {
    const float scale = *reinterpret_cast<const float*>(row_scale.row(run, r));
    if (!(scale * 0.0f == 0.0f)) run.nan_marks[r / x.steps] = __builtin_nanf("");
  }
}

static size_t padded_bytes(int64_t n, int64_t lanes) {
  return static_cast<size_t>((n + lanes - 1) / lanes * lanes) * sizeof(float);
}

const float* padded_copy(Arena& arena, const float* from, int64_t n, int64_t lanes) {
  float* to = static_cast<float*>(arena.take(padded_bytes(n, lanes)));
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
  return to;
}

const float* padded_copy(const StageSpec& spec, const float* from, int64_t n, int64_t lanes) {
  float* to = static_cast<float*>(spec.weights(padded_bytes(n, lanes)));
  for (int64_t i = 0; spec.packs() && i < n; ++i) to[i] = from[i];
  return to;
}

}  // namespace rta
