// Quantize exactly, pointwise and softmax against libm in double.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "harness.h"

namespace check {
namespace {

constexpr int kRows = 5, kMaxWidth = 150;
constexpr size_t kFloats = kRows * kMaxWidth * 4, kWeightBytes = 1 << 14;

int to_int8(float x, float inv_scale, int zero_point) {
  const float t = std::fmax(-512.0f, std::fmin(512.0f, x * inv_scale));
  return std::min(127, std::max(-128, static_cast<int>(std::nearbyintf(t)) + zero_point));
}

std::vector<float> numbers(Random& random, size_t count, float size) {
  std::vector<float> x(count);
  for (auto& v : x) v = size * random.normal();
  return x;
}

Attributes quantize_attributes(bool dynamic, double inv_scale, int64_t zero_point) {
  Attributes attrs;
  attrs.set("dynamic", int64_t{dynamic}).set("inv_scale", inv_scale).set("zero_point", zero_point);
  return attrs;
}

}  // namespace

void check_quantize(const char* kernel, Report& report) {
  Guarded in(kFloats), q(kFloats), scales(kRows * 4);
  Random random(11);
  for (int width = 0; width <= kMaxWidth; ++width)
    for (int kind = 0; kind < 4; ++kind) {  // static, static with special rows, dynamic, dynamic with special rows
      const bool dynamic = kind / 2;
      const size_t w = static_cast<size_t>(width);
      std::vector<float> x = numbers(random, kRows * w, 3);
      if (kind % 2 && width) {
        const float special[] = {NAN, INFINITY, -INFINITY, 1e-42f, 1e38f};
        for (int r = 0; r < kRows; ++r)
          x[static_cast<size_t>(r) * w + static_cast<size_t>(random.between(0, width - 1))] = special[r];
        if (dynamic)
          for (int i = 0; i < width; ++i) x[3 * w + static_cast<size_t>(i)] = 1e-42f;
      }
      const int zero_point = dynamic ? 0 : random.int8();
      const float inv_scale = dynamic ? 0.0f : 1 / 0.021f;
      std::vector<Shape> outputs = {{RTA_INT8, width}};
      std::vector<void*> out = {q.place(kRows * w)};
      if (dynamic) {
        outputs.push_back({RTA_FLOAT32, 1});
        out.push_back(scales.place(kRows * 4));
      }
      OneStage plan("quantize", kernel, {{RTA_FLOAT32, width}}, outputs,
                    quantize_attributes(dynamic, inv_scale, zero_point), kWeightBytes);
      plan.run({in.put(x.data(), x.size())}, out, kRows);
      bool held = in.intact() && q.intact() && scales.intact();
      for (int r = 0; r < kRows; ++r) {
        const float* row = x.data() + static_cast<size_t>(r) * w;
        const int8_t* got = static_cast<const int8_t*>(out[0]) + static_cast<size_t>(r) * w;
        float peak = 0;
        bool finite = true;
        for (int i = 0; i < width; ++i) {
          finite &= std::isfinite(row[i]);
          peak = std::fmax(peak, std::fabs(row[i]));
        }
        const bool tiny = dynamic && peak < 0x1p-100f;
        const float inverse = dynamic ? 127.0f / peak : inv_scale;
        for (int i = 0; i < width; ++i) held &= got[i] == (!finite || tiny ? 0 : to_int8(row[i], inverse, zero_point));
        if (!dynamic) continue;
        const float scale = static_cast<const float*>(out[1])[r];
        held &= !finite ? std::isnan(scale) : scale == (tiny ? 1.0f : peak / 127.0f);
      }
      report.expect(held, "width %d, %s%s", width, dynamic ? "dynamic" : "static", kind % 2 ? ", special rows" : "");
      report.integers.add(out[0], kRows * w);
    }
}

void check_pointwise(const char* kernel, Report& report) {
  const char* const joins[] = {"add", "mul", "hypot"};
  const char* const acts[] = {"none", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"};
  Guarded in(kFloats), other(kFloats), scale(kFloats), shift(kFloats), y(kFloats);
  Random random(13);
  for (int width = 0; width <= kMaxWidth; width += report.quick && width > 40 ? 7 : 1)
    for (int a = 0; a < 9; ++a) {
      const bool affine = (width + a) % 2, residual = (width + a) / 2 % 2;
      const size_t w = static_cast<size_t>(width);
      const float size = width % 3 == 0 ? 0.3f : width % 3 == 1 ? 4.0f : 40.0f;
      const std::vector<float> x = numbers(random, kRows * w, size), r = numbers(random, kRows * w, size),
                               s = numbers(random, w, 1), b = numbers(random, w, 1);
      const float parameter = 0.3f;
      Attributes attrs;
      attrs.set("activation", acts[a]).set("activation_parameter", double{parameter});
      attrs.set("join", joins[width % 3]);
      if (affine) {
        attrs.set("scale", scale.put(s.data(), w), RTA_FLOAT32, width);
        attrs.set("shift", shift.put(b.data(), w), RTA_FLOAT32, width);
      }
      std::vector<Shape> inputs = {{RTA_FLOAT32, width}};
      std::vector<const void*> from = {in.put(x.data(), x.size())};
      if (residual) {
        inputs.push_back({RTA_FLOAT32, width});
        from.push_back(other.put(r.data(), r.size()));
      }
      OneStage plan("pointwise", kernel, inputs, {{RTA_FLOAT32, width}}, attrs, kWeightBytes);
      float* out = static_cast<float*>(y.place(x.size() * 4));
      plan.run(from, {out}, kRows);
      bool held = in.intact() && other.intact() && y.intact();
      for (size_t i = 0; i < x.size(); ++i) {
        float t = x[i];
        if (affine) t = t * s[i % w] + b[i % w];
        if (residual && width % 3 == 0) t = t + r[i];
        if (residual && width % 3 == 1) t = t * r[i];
        if (residual && width % 3 == 2) t = std::sqrt(t * t + r[i] * r[i]);
        const double bound = a < 2 ? 0 : 8 * FLT_EPSILON * std::fmax(std::fabs(t), 1.0);
        held &= std::fabs(out[i] - activation(acts[a], parameter, t)) <= bound;
      }
      report.expect(held, "%s, width %d%s%s%s", acts[a], width, affine ? ", affine" : "", residual ? ", " : "",
                    residual ? joins[width % 3] : "");
      report.integers.add(out, x.size() * 4);  // one sequence of operations: the bits agree
    }
}

void check_softmax(const char* kernel, Report& report) {
  Guarded in(kFloats), y(kFloats);
  Random random(17);
  for (int width = 1; width <= kMaxWidth; ++width) {
    const size_t w = static_cast<size_t>(width);
    const std::vector<float> x = numbers(random, kRows * w, 6);
    Attributes attrs;
    attrs.set("inv_scale", 0.0).set("zero_point", int64_t{0});
    OneStage plan("softmax", kernel, {{RTA_FLOAT32, width}}, {{RTA_FLOAT32, width}}, attrs, kWeightBytes);
    float* out = static_cast<float*>(y.place(x.size() * 4));
    plan.run({in.put(x.data(), x.size())}, {out}, kRows);
    bool held = in.intact() && y.intact();
    for (int r = 0; r < kRows; ++r) {
      const float* row = x.data() + static_cast<size_t>(r) * w;
      double peak = row[0], sum = 0;
      for (int i = 0; i < width; ++i) peak = std::fmax(peak, row[i]);
      for (int i = 0; i < width; ++i) sum += std::exp(row[i] - peak);
      for (int i = 0; i < width; ++i) {
        const double exact = std::exp(row[i] - peak) / sum;
        held &= std::fabs(out[static_cast<size_t>(r) * w + static_cast<size_t>(i)] - exact) <=
                FLT_EPSILON * ((4 + width) * exact + 1);
      }
    }
    report.expect(held, "width %d", width);
  }
}

}  // namespace check
