// Reads a convolution from the attributes that contract.py lowers it to.
#include "layer.h"

#include <cmath>
#include <cstdlib>
#include <initializer_list>

#include "_common/checks.h"

namespace rta {

static Extent extent(const Attrs& attrs, const char* y, const char* x, int64_t least = 1) {
  return {between(attrs, y, least, INT32_MAX), between(attrs, x, least, INT32_MAX)};
}

// A copy of a table of numbers in 0 .. end - 1; nullptr where there is none.
static const int32_t* steps(const StageSpec& spec, const char* name, int64_t count, int64_t end) {
  if (!spec.attrs.has(name)) return nullptr;
  const int32_t* from = spec.attrs.ints(name, count);
  expect_within(from, count, 0, end, name);
  int32_t* to = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int32_t)));
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  return to;
}

static int64_t largest(const int32_t* numbers, int64_t count) {
  int64_t most = 0;
  for (int64_t i = 0; i < count; ++i) most = numbers[i] > most ? numbers[i] : most;
  return most;
}

static bool has_planes(const StageSpec& spec, const char* name) {
  return spec.attrs.has(name) && flag(spec.attrs, name);
}

// Of y: its width, or what its elements are of each position.
static int64_t outputs(const StageSpec& spec) {
  if (!has_planes(spec, "y_planes")) return spec.output(0).width;
  return elements(spec.output(0)) /
         product(between(spec.attrs, "out_size_y", 1, INT32_MAX), between(spec.attrs, "out_size_x", 1, INT32_MAX));
}

ConvGeometry read_geometry(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  ConvGeometry g{};
  g.in = extent(a, "in_size_y", "in_size_x");
  g.kernel = extent(a, "kernel_y", "kernel_x");
  g.stride = extent(a, "stride_y", "stride_x");
  g.padding = extent(a, "padding_y", "padding_x", 0);
  g.dilation = extent(a, "dilation_y", "dilation_x");
  g.out = extent(a, "out_size_y", "out_size_x");
  g.out_rows = steps(spec, "out_rows", g.out.y, INT32_MAX);
  g.tap_rows = steps(spec, "tap_rows", g.kernel.y, INT32_MAX);
  expect(g.out_rows && g.tap_rows, "out_rows or tap_rows is missing");
  if (!flag(a, "by_rows")) {
    for (int64_t o = 0; o < g.out.y; ++o) expect(g.out_rows[o] == o * g.stride.y, "out_rows are not those of a stride");
    for (int64_t t = 0; t < g.kernel.y; ++t)
      expect(g.tap_rows[t] == t * g.dilation.y, "tap_rows are not those of a dilation");
  }
  g.reach = {largest(g.out_rows, g.out.y) + largest(g.tap_rows, g.kernel.y) + 1,
             (g.out.x - 1) * g.stride.x + (g.kernel.x - 1) * g.dilation.x + 1};
  g.in_count = spec.input(0).steps;
  g.out_count = spec.output(0).steps;
  const int64_t in_places = product(g.in.y, g.in.x), out_places = product(g.out.y, g.out.x);
  if (has_planes(spec, "x_planes")) g.in_count = in_places;
  if (has_planes(spec, "y_planes")) g.out_count = out_places;
  expect(in_places <= INT32_MAX && out_places <= INT32_MAX, "images of more than 2^31 positions");
  g.in_steps = steps(spec, "in_steps", g.in_count, in_places);
  g.out_steps = steps(spec, "out_steps", g.out_count, out_places);
  expect(g.out_steps || g.out_count == out_places, "y has %lld rows, expected %lld",
         static_cast<long long>(g.out_count), static_cast<long long>(out_places));
  g.taps = product(g.kernel.y, g.kernel.x);
  return g;
}

// Of x: the weight is [N][C / groups][taps].
static int64_t channels(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  const int64_t n = outputs(spec), groups = between(a, "groups", 1, INT32_MAX), count = a.count("weight");
  const int64_t taps = product(between(a, "kernel_y", 1, INT32_MAX), between(a, "kernel_x", 1, INT32_MAX));
  const int64_t all = product(n, taps), per_group = all ? count / all : 0;
  expect(per_group > 0 && per_group * all == count && n % groups == 0,
         "a weight of %lld elements for %lld channels of y in %lld groups and %lld taps", static_cast<long long>(count),
         static_cast<long long>(n), static_cast<long long>(groups), static_cast<long long>(taps));
  expect(a.dtype("weight") != RTA_INT8 || product(per_group, taps) <= kMaxInt8Products,
         "%lld products for an output, where int32 sums hold %lld", static_cast<long long>(per_group * taps),
         static_cast<long long>(kMaxInt8Products));
  return product(per_group, groups);
}

// The values that the layer reads and writes are as its numbers say.
static void check_values(const StageSpec& spec, const ConvLayer& p) {
  const ConvGeometry& g = p.at;
  const Value &x = spec.input(0), &y = spec.output(0);
  const int ring = p.stream ? 1 : 0, residual = p.other.exists() ? 1 : 0;
  expect_ports(spec, 1 + ring + residual, 1 + ring);
  expect_dtype(x, RTA_FLOAT32, RTA_INT8, "x");
  expect_dtype(y, RTA_FLOAT32, RTA_INT8, "y");
  if (p.other.exists() && p.y_planes)
    expect(spec.input(1).dtype == RTA_FLOAT32 && elements(spec.input(1)) == elements(y), "other is no planes of y");
  else if (p.other.exists())
    expect_value(spec.input(1 + ring), RTA_FLOAT32, y.steps, y.width, "other");
  expect(!p.dynamic || (p.quantizes && !p.stream), "a dynamic scale of what is not quantized by whole samples");
  if (p.stream) {
    expect_shape(x, 1, p.c, "x");
    const int64_t rows = (g.kernel.x - 1) * g.dilation.x + 1;
    for (const Value* v : {&spec.input(1), &spec.output(1)})
      expect_value(*v, p.int8 ? RTA_INT8 : RTA_FLOAT32, rows, p.c, "the ring");
    expect(g.kernel.y == 1 && g.out.y * g.out.x == 1 && !g.in_steps && !g.out_steps && g.out_rows[0] == 0 &&
               g.tap_rows[0] == 0,
           "a stream of more than a row of taps for one output");
  } else if (g.in_steps) {
    expect(x.width == p.c, "x has %lld channels, the weight %lld", static_cast<long long>(x.width),
           static_cast<long long>(p.c));
  } else if (p.x_planes) {
    expect(elements(x) == product(g.in.y * g.in.x, p.c), "x holds no %lld planes", static_cast<long long>(p.c));
  } else if (p.flat) {
    expect_shape(x, 1, product(g.in.y * g.in.x, p.c), "x");
  } else {
    expect_shape(x, g.in.y * g.in.x, p.c, "x");
  }
  if (p.y_planes)
    expect(elements(y) == product(g.out.y * g.out.x, p.n), "y holds no %lld planes", static_cast<long long>(p.n));
  expect(!(p.x_planes || p.y_planes) || !(p.stream || g.in_steps || g.out_steps), "planes of a part of an image");
  // Of the padded image, with cells of whole cache lines: what is computed from these is no overflow.
  expect(g.reach.y <= INT32_MAX && g.reach.x <= INT32_MAX, "an image that reaches beyond 2^31");
  product(product(g.reach.y, g.reach.x), product(p.c, 4) + 64);
  product(g.in.y, product(g.reach.x + g.in.x, product(p.c, 4) + 64));
}

// Bytes from one row of an image to the next, where a value holds planes of it, row by row: as whole rows of the value
// are, or densely.
static int64_t row_bytes(const GraphIO& v, int64_t width, int64_t element, const char* what) {
  if (v.steps == 1 || v.pitch == v.width * element) return width * element;
  expect(v.width == width, "%s: rows with gaps that are not those of the image", what);
  return v.pitch;
}

ConvLayer read_layer(const StageSpec& spec, int64_t blocks, int lanes, int32_t x_offset) {
  const Attrs& a = spec.attrs;
  ConvLayer p{};
  p.at = read_geometry(spec);
  p.stream = flag(a, "stream");
  p.groups = between(a, "groups", 1, INT32_MAX);
  p.x = spec.in(0);
  p.y = spec.out(0);
  p.ring = spec.in(p.stream ? 1 : 9);
  p.ring_out = spec.out(p.stream ? 1 : 9);
  p.other = flag(a, "residual") ? spec.in(p.stream ? 2 : 1) : spec.in(9);
  p.x_planes = has_planes(spec, "x_planes");
  p.y_planes = has_planes(spec, "y_planes");
  p.n = outputs(spec);
  p.c = channels(spec);
  p.flat = p.x_planes || spec.input(0).width != p.c;
  p.x_step = p.flat ? p.c * (spec.input(0).dtype == RTA_INT8 ? 1 : 4) : p.x.pitch;
  if (p.flat) p.at.in_count = p.at.in.y * p.at.in.x;
  p.x_row = p.at.in.x * p.x_step;
  p.int8 = a.dtype("weight") == RTA_INT8;
  p.dynamic = flag(a, "dynamic");
  p.quantizes = p.int8 && spec.input(0).dtype == RTA_FLOAT32;
  p.int8_out = spec.output(0).dtype == RTA_INT8;
  check_values(spec, p);
  if (p.x_planes) {
    p.x_step = spec.input(0).dtype == RTA_INT8 ? 1 : 4;
    p.x_row = row_bytes(p.x, p.at.in.x, p.x_step, "x");
    p.x_plane = p.at.in.y * p.x_row;
  }
  if (p.y_planes) {
    p.y_row = row_bytes(p.y, p.at.out.x, p.int8_out ? 1 : 4, "y");
    p.y_plane = p.at.out.y * p.y_row;
    p.other_row = p.other.exists() ? row_bytes(p.other, p.at.out.x, 4, "other") : 0;
    p.other_plane = p.at.out.y * p.other_row;
  }
  if (!p.int8 && (p.int8_out || spec.input(0).dtype != RTA_FLOAT32)) fail("conv: float32 weights take float32 values");
  p.activation = parse_activation(a.text("activation"));
  p.parameter = static_cast<float>(a.real("activation_parameter"));

  const bool simple = p.activation == Activation::kRelu || p.activation == Activation::kNone;
  p.bounds = Bounds::of(p.activation, p.parameter);
  p.plain = Bounds::are(p.activation) && !p.other.exists() && !p.int8_out;
  const int64_t per_block = p.n / blocks, whole = (per_block + lanes - 1) / lanes * lanes;
  const size_t bytes = static_cast<size_t>(blocks * whole) * 4;
  float* offset = static_cast<float*>(spec.weights(bytes));
  p.offset = offset;
  const float* bias = a.floats(p.int8 ? "offset" : "bias", p.n);
  for (int64_t i = 0; spec.packs() && i < p.n; ++i) offset[i / per_block * whole + i % per_block] = bias[i];
  if (!p.int8) return p;

  p.x_inv_scale = static_cast<float>(a.real("x_inv_scale"));
  p.x_zero = zero_byte(a, "x_zero_point");
  p.y_inv_scale = static_cast<float>(a.real("y_inv_scale"));
  p.scales_last = p.y_inv_scale != 1.0f;
  p.y_zero = zero_byte(a, "y_zero_point");
  const bool relu = p.activation == Activation::kRelu;
  p.y_low = relu ? p.y_zero : 0;
  p.bounded = simple && !p.other.exists() && !p.dynamic && !p.scales_last;
  float* multiplier = static_cast<float*>(spec.weights(bytes));
  int32_t* start = static_cast<int32_t*>(spec.weights(bytes));
  double* most = static_cast<double*>(spec.weights(sizeof(double)));  // of what a sum may come to
  p.multiplier = multiplier;
  p.start = start;
  const float* scale = a.floats("multiplier", p.n);
  const int64_t k = p.c / p.groups * p.at.taps;
  const int8_t* weight = a.int8s("weight", p.n * k);
  for (int64_t i = 0; spec.packs() && i < p.n; ++i) {
    int64_t sum = 0, magnitude = 0;
    for (int64_t j = 0; j < k; ++j) {
      sum += weight[i * k + j];
      magnitude += std::abs(weight[i * k + j]);
    }
    const int64_t at = i / per_block * whole + i % per_block;
    multiplier[at] = scale[i];
    start[at] = static_cast<int32_t>(-(p.x_zero - 128 + x_offset) * sum);
    const double bound = 255.0 * static_cast<double>(magnitude) * std::fabs(scale[i]) + std::fabs(bias[i]);
    *most = bound > *most || bound != bound ? bound : *most;  // a NaN stays
  }
  if (!(*most < 2097152.0)) p.bounded = false;
  return p;
}

Axes winograd_axes(const StageSpec& spec) {
  constexpr int64_t kLeast = 16, kLeastAlongOne = 48, kMost = 1800, kLeastPositions = 36;
  if (flag(spec.attrs, "stream") || flag(spec.attrs, "by_rows") || spec.input(0).dtype != RTA_INT8) return Axes::kNone;
  const ConvGeometry g = read_geometry(spec);
  const int64_t c = channels(spec), n = outputs(spec), positions = product(g.out.y, g.out.x);
  const bool square = g.kernel.y == 3 && g.kernel.x == 3;
  const bool right = g.kernel.y == 1 && g.kernel.x == 3 && g.padding.y == 0 && g.out.y == g.in.y;
  const bool down = g.kernel.y == 3 && g.kernel.x == 1 && g.padding.x == 0 && g.out.x == g.in.x;
  const int64_t least = square ? kLeast : kLeastAlongOne;
  // Outputs that begin in the tiles of one.
  const int64_t tall = right ? 1 : 2 * g.dilation.y, wide = down ? 1 : 2 * g.dilation.x;
  const int64_t computed = product((g.out.y + tall - 1) / tall * tall, (g.out.x + wide - 1) / wide * wide);
  const bool suits = spec.attrs.integer("groups") == 1 && (square || right || down) && g.stride.y == 1 &&
                     g.stride.x == 1 && !g.in_steps && !g.out_steps && spec.input(0).width == c &&
                     !has_planes(spec, "x_planes") && c >= least && c <= kMost && n >= least &&
                     positions >= kLeastPositions && positions >= 7 * computed / 10;
  return !suits ? Axes::kNone : square ? Axes::kBoth : Axes::kOne;
}

bool is_depthwise(const StageSpec& spec) {
  const int64_t c = channels(spec);
  const int64_t taps = product(spec.attrs.integer("kernel_y"), spec.attrs.integer("kernel_x"));
  // Sums of whole numbers in float32: exact below 2^24, which 2 * 255 * 127 * 256 is.
  const int64_t n = spec.output(0).width;
  // With more kernels a channel, a vector of the outputs of one channel is full, or nearly so.
  const bool several = c > 1 && n % c == 0 && n / c <= 4 && !flag(spec.attrs, "stream");
  return spec.attrs.integer("groups") == c && (n == c || several) && taps <= 256;
}

int narrow_groups(const StageSpec& spec) {
  const int64_t c = channels(spec), groups = spec.attrs.integer("groups"), wide = c / groups;
  const int64_t taps = product(spec.attrs.integer("kernel_y"), spec.attrs.integer("kernel_x"));
  const bool fits = spec.output(0).width == c && taps * wide <= 256 && !has_planes(spec, "x_planes");  // is_depthwise
  return groups > 1 && fits && (wide == 2 || wide == 4 || wide == 8) ? static_cast<int>(wide) : 0;
}

bool interleaves(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  const int64_t c = channels(spec), taps = a.integer("kernel_y") * a.integer("kernel_x");
  if (spec.output(0).width != c || a.dtype("weight") != RTA_INT8 || a.integer("stream") != 0 || a.has("out_steps") ||
      a.integer("by_rows") != 0)
    return false;
  // 64 channels at a time, and an end in registers for int8 with no more than a ReLU before it. A depthwise layer by
  // channels of a vector was faster for fewer channels, and for other ends of few taps (Xeon, 2026-11).
  const bool simple = a.text_is("activation", "none") || a.text_is("activation", "relu");
  const bool ends_short = spec.output(0).dtype == RTA_INT8 && simple && !flag(a, "residual") && !flag(a, "dynamic");
  return taps > 9 ? c > 16 : ends_short && c > 24;
}

}  // namespace rta
