// Reads a convolution from the attributes that contract.py lowers it to.
#include "layer.h"

#include <cmath>
#include <cstdlib>

namespace rta {

static Extent extent(const Attrs& attrs, const char* y, const char* x) { return {attrs.integer(y), attrs.integer(x)}; }

static const int32_t* steps(const StageSpec& spec, const char* name, int64_t count) {
  if (!spec.attrs.has(name)) return nullptr;
  const int32_t* from = spec.attrs.ints(name, count);
  int32_t* to = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int32_t)));
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  return to;
}

static int64_t largest(const int32_t* numbers, int64_t count) {
  int64_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = numbers[i] > most ? numbers[i] : most;
  return most;
}

ConvGeometry read_geometry(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  ConvGeometry g{};
  g.in = extent(a, "in_size_y", "in_size_x");
  g.kernel = extent(a, "kernel_y", "kernel_x");
  g.stride = extent(a, "stride_y", "stride_x");
  g.padding = extent(a, "padding_y", "padding_x");
  g.dilation = extent(a, "dilation_y", "dilation_x");
  g.out = extent(a, "out_size_y", "out_size_x");
  g.out_rows = steps(spec, "out_rows", g.out.y);
  g.tap_rows = steps(spec, "tap_rows", g.kernel.y);
  g.reach = {largest(g.out_rows, g.out.y) + largest(g.tap_rows, g.kernel.y) + 1,
             (g.out.x - 1) * g.stride.x + (g.kernel.x - 1) * g.dilation.x + 1};
  g.in_count = spec.input(0).steps;
  g.out_count = spec.output(0).steps;
  g.in_steps = steps(spec, "in_steps", g.in_count);
  g.out_steps = steps(spec, "out_steps", g.out_count);
  g.taps = g.kernel.y * g.kernel.x;
  return g;
}

static int64_t channels(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  return a.count("weight") / (spec.output(0).width * a.integer("kernel_y") * a.integer("kernel_x")) *
         a.integer("groups");
}

ConvLayer read_layer(const StageSpec& spec, int64_t blocks, int lanes, int32_t x_offset) {
  const Attrs& a = spec.attrs;
  ConvLayer p{};
  p.at = read_geometry(spec);
  p.stream = a.integer("stream") != 0;
  p.groups = a.integer("groups");
  p.x = spec.in(0);
  p.y = spec.out(0);
  p.ring = spec.in(p.stream ? 1 : 9);
  p.ring_out = spec.out(p.stream ? 1 : 9);
  p.other = a.integer("residual") ? spec.in(p.stream ? 2 : 1) : spec.in(9);
  p.n = spec.output(0).width;
  p.c = channels(spec);
  p.flat = spec.input(0).width != p.c;
  p.x_step = p.flat ? p.c * (spec.input(0).dtype == RTA_INT8 ? 1 : 4) : p.x.pitch;
  if (p.flat) p.at.in_count = p.at.in.y * p.at.in.x;
  p.int8 = a.dtype("weight") == RTA_INT8;
  p.dynamic = a.integer("dynamic") != 0;
  p.quantizes = p.int8 && spec.input(0).dtype == RTA_FLOAT32;
  p.int8_out = spec.output(0).dtype == RTA_INT8;
  if (!p.int8 && (p.int8_out || spec.input(0).dtype != RTA_FLOAT32)) fail("conv: float32 weights take float32 values");
  p.activation = parse_activation(a.text("activation"));
  p.parameter = static_cast<float>(a.real("activation_parameter"));

  const bool simple = p.activation == Activation::kRelu || p.activation == Activation::kNone;
  p.plain = simple && !p.other.exists() && !p.int8_out;
  const int64_t per_block = p.n / blocks, whole = (per_block + lanes - 1) / lanes * lanes;
  const size_t bytes = static_cast<size_t>(blocks * whole) * 4;
  float* offset = static_cast<float*>(spec.arena->take(bytes));
  p.offset = offset;
  const float* bias = a.floats(p.int8 ? "offset" : "bias", p.n);
  for (int64_t i = 0; i < p.n; ++i) offset[i / per_block * whole + i % per_block] = bias[i];
  if (!p.int8) return p;

  p.x_inv_scale = static_cast<float>(a.real("x_inv_scale"));
  p.x_zero = static_cast<int32_t>(a.integer("x_zero_point")) + 128;
  p.y_inv_scale = static_cast<float>(a.real("y_inv_scale"));
  p.scales_last = p.y_inv_scale != 1.0f;
  p.y_zero = static_cast<int32_t>(a.integer("y_zero_point")) + 128;
  const bool relu = p.activation == Activation::kRelu;
  p.y_low = relu ? p.y_zero : 0;
  p.bounded = simple && !p.other.exists() && !p.dynamic && !p.scales_last;
  float* multiplier = static_cast<float*>(spec.arena->take(bytes));
  int32_t* start = static_cast<int32_t*>(spec.arena->take(bytes));
  p.multiplier = multiplier;
  p.start = start;
  const float* scale = a.floats("multiplier", p.n);
  const int64_t k = p.c / p.groups * p.at.taps;
  const int8_t* weight = a.int8s("weight", p.n * k);
  for (int64_t i = 0; i < p.n; ++i) {
    int64_t sum = 0, magnitude = 0;
    for (int64_t j = 0; j < k; ++j) {
      sum += weight[i * k + j];
      magnitude += std::abs(weight[i * k + j]);
    }
    const int64_t at = i / per_block * whole + i % per_block;
    multiplier[at] = scale[i];
    start[at] = static_cast<int32_t>(-(p.x_zero - 128 + x_offset) * sum);
    const double most = 255.0 * static_cast<double>(magnitude) * std::fabs(scale[i]) + std::fabs(bias[i]);
    if (!(most < 2097152.0)) p.bounded = false;
  }
  return p;
}

bool is_depthwise(const StageSpec& spec) {
  const int64_t c = channels(spec);
  const int64_t taps = spec.attrs.integer("kernel_y") * spec.attrs.integer("kernel_x");
  // Sums of whole numbers in float32: exact below 2^24, which 2 * 255 * 127 * 256 is.
  return spec.attrs.integer("groups") == c && spec.output(0).width == c && taps <= 256;
}

bool interleaves(const StageSpec& spec) {
  return spec.attrs.dtype("weight") == RTA_INT8 && spec.attrs.integer("stream") == 0 && !spec.attrs.has("out_steps") &&
         spec.attrs.integer("by_rows") == 0;
}

}  // namespace rta
