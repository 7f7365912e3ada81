// Linear: int8 sums against int64 over every small size, requantized outputs against the stated roundings, float32
// within the error of its sum.
#include <cfloat>
#include <cmath>

#include "harness.h"

namespace check {
namespace {

constexpr int kRows = 8, kMaxN = 40, kMaxK = 130;
constexpr size_t kWeightBytes = 1 << 19;

struct Memory {
  Guarded x{kRows * kMaxK * 4}, weight{kMaxN * kMaxK * 4}, first{kMaxN * 4}, second{kMaxN * 4}, scale{kRows * 4},
      y{kRows * kMaxN * 4};
  bool intact() const { return x.intact() && weight.intact() && scale.intact() && y.intact(); }
};

bool skip_size(const Report& report, int n, int k) {
  if (!report.quick) return false;
  return !(k <= 20 || k % 16 <= 1 || k >= 127) || !(n <= 9 || n % 8 <= 1 || n == 39);
}

Attributes int8_attributes(const char* act, double parameter, const int8_t* w, int64_t weights, const float* multiplier,
                           const float* offset, int64_t n, int zero_point, bool dynamic, double y_inv_scale,
                           int y_zero) {
  Attributes attrs;
  attrs.set("weight_dtype", "int8").set("activation", act).set("activation_parameter", parameter);
  attrs.set("weight", w, RTA_INT8, weights).set("multiplier", multiplier, RTA_FLOAT32, n);
  attrs.set("offset", offset, RTA_FLOAT32, n).set("x_zero_point", int64_t{zero_point});
  attrs.set("dynamic", int64_t{dynamic}).set("y_inv_scale", y_inv_scale).set("y_zero_point", int64_t{y_zero});
  return attrs;
}

// With multiplier 1 and offset 0 the float32 output is the sum itself: below 2^24 float32 holds it exactly.
void every_small_size(const char* kernel, Memory& m, Report& report) {
  std::vector<int8_t> x(kRows * kMaxK), w(kMaxN * kMaxK);
  std::vector<float> ones(kMaxN, 1.0f), zeros(kMaxN, 0.0f);
  for (int k = 0; k <= kMaxK; ++k) {
    Random random(1000 + static_cast<uint64_t>(k));
    for (auto& v : x) v = random.int8();
    for (auto& v : w) v = random.int8();
    const int zero_point = random.int8();
    int64_t sums[kRows][kMaxN];
    for (int r = 0; r < kRows; ++r)
      for (int n = 0; n < kMaxN; ++n) {
        sums[r][n] = 0;
        for (int i = 0; i < k; ++i) sums[r][n] += int64_t{x[r * k + i] - zero_point} * w[n * k + i];
      }
    for (int n = 0; n <= kMaxN; ++n) {
      if (skip_size(report, n, k)) continue;
      const size_t count = static_cast<size_t>(n);
      const auto attrs = int8_attributes("none", 0, m.weight.put(w.data(), count * static_cast<size_t>(k)), n * k,
                                         m.first.put(ones.data(), count), m.second.put(zeros.data(), count), n,
                                         zero_point, false, 1, 0);
      OneStage plan("linear", kernel, {{RTA_INT8, k}}, {{RTA_FLOAT32, n}}, attrs, kWeightBytes);
      for (int rows = 0; rows <= kRows; ++rows) {
        const size_t cells = static_cast<size_t>(rows * n);
        const int8_t* in = m.x.put(x.data(), static_cast<size_t>(rows * k));
        float* out = static_cast<float*>(m.y.place(cells * 4));
        plan.run({in}, {out}, rows);
        bool same = m.intact();
        for (int r = 0; r < rows; ++r)
          for (int c = 0; c < n; ++c) same &= out[r * n + c] == static_cast<float>(sums[r][c]);
        report.expect(same, "int8 sums M=%d N=%d K=%d zero_point=%d", rows, n, k, zero_point);
        for (size_t i = 0; i < cells; ++i) {
          const int32_t sum = static_cast<int32_t>(out[i]);
          report.integers.add(&sum, 4);
        }
      }
    }
  }
}

// int8 and float32 outputs through an activation, static and dynamic input scales.
void epilogues(const char* kernel, Memory& m, Report& report) {
  const char* const acts[] = {"none", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "tanh", "sigmoid"};
  Random random(7);
  for (int step = 0; step < (report.quick ? 108 : 432); ++step) {
    const char* act = acts[step % 9];
    const int n = random.between(1, kMaxN), k = random.between(1, kMaxK), rows = random.between(1, kRows);
    const bool dynamic = step / 9 % 2, int8_out = step / 18 % 2;
    const int zero_point = dynamic ? 0 : random.int8(), y_zero = random.int8();
    const float parameter = 0.3f, inv_scale = step % 9 < 3 ? 1.0f : 40.0f;
    std::vector<int8_t> x(static_cast<size_t>(rows * k)), w(static_cast<size_t>(n * k));
    std::vector<float> multiplier(static_cast<size_t>(n)), offset(static_cast<size_t>(n)),
        scale(static_cast<size_t>(rows));
    for (auto& v : x) v = random.int8();
    for (auto& v : w) v = random.int8();
    const float unit = (step % 9 < 3 ? 40.0f : 1.0f) / (5400.0f * std::sqrt(static_cast<float>(k)));
    for (auto& v : multiplier) v = unit * (1 + 0.5f * random.normal());
    for (auto& v : offset) v = random.normal();
    for (auto& v : scale) v = 1 + 0.3f * random.normal();
    const auto attrs = int8_attributes(
        act, parameter, m.weight.put(w.data(), w.size()), n * k, m.first.put(multiplier.data(), offset.size()),
        m.second.put(offset.data(), offset.size()), n, zero_point, dynamic, inv_scale, y_zero);
    std::vector<Shape> inputs = {{RTA_INT8, k}};
    std::vector<const void*> in = {m.x.put(x.data(), x.size())};
    if (dynamic) {
      inputs.push_back({RTA_FLOAT32, 1});
      in.push_back(m.scale.put(scale.data(), scale.size()));
    }
    OneStage plan("linear", kernel, inputs, {{int8_out ? RTA_INT8 : RTA_FLOAT32, n}}, attrs, kWeightBytes);
    void* out = m.y.place(static_cast<size_t>(rows * n) * (int8_out ? 1 : 4));
    plan.run(in, {out}, rows);
    bool held = m.intact();
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < n; ++c) {
        int64_t sum = 0;
        for (int i = 0; i < k; ++i)
          sum += int64_t{x[static_cast<size_t>(r * k + i)] - zero_point} * w[static_cast<size_t>(c * k + i)];
        const float factor = dynamic ? multiplier[static_cast<size_t>(c)] * scale[static_cast<size_t>(r)]
                                     : multiplier[static_cast<size_t>(c)];
        const float t = static_cast<float>(sum) * factor + offset[static_cast<size_t>(c)];
        const double exact = activation(act, parameter, t);
        const double bound = step % 9 < 2 ? 0 : 8 * FLT_EPSILON * std::fmax(std::fabs(t), 1.0);
        if (int8_out) {  // the nearest integer, or a neighbor where the bound reaches across the half between
          const int q = static_cast<int8_t*>(out)[r * n + c];
          const auto whole = [&](double v) {
            const double y = static_cast<double>(static_cast<float>(v)) * inv_scale;
            return std::fmin(127, std::fmax(-128, std::nearbyint(std::fmin(512, std::fmax(-512, y))) + y_zero));
          };
          const double slack = bound + std::fabs(exact) * FLT_EPSILON * (step % 9 < 3 ? step % 9 == 2 : 1);
          held &= whole(exact - slack) <= q && q <= whole(exact + slack);
        } else {
          held &= std::fabs(static_cast<float*>(out)[r * n + c] - exact) <= bound;
        }
      }
    report.expect(held, "%s M=%d N=%d K=%d %s input, %s output", act, rows, n, k, dynamic ? "dynamic" : "static",
                  int8_out ? "int8" : "float32");
    // The activations are the same operations on every set, so these bits agree although no reference gives them.
    report.integers.add(out, static_cast<size_t>(rows * n) * (int8_out ? 1 : 4));
  }
}

// |y - exact| <= gamma * (|b| + sum |x w|): at most K + 8 roundings along any path of a sum, in any order.
void float32(const char* kernel, Memory& m, Report& report) {
  Random random(5);
  for (int k = 0; k <= kMaxK; ++k)
    for (int n = k % 3; n <= kMaxN; n += 3) {
      if (skip_size(report, n, k)) continue;
      const int rows = random.between(0, kRows);
      std::vector<float> x(static_cast<size_t>(rows * k)), w(static_cast<size_t>(n * k)), b(static_cast<size_t>(n));
      for (auto& v : x) v = random.normal();
      for (auto& v : w) v = random.normal();
      for (auto& v : b) v = random.normal();
      Attributes attrs;
      attrs.set("weight_dtype", "float32").set("activation", "none").set("activation_parameter", 0.0);
      attrs.set("weight", m.weight.put(w.data(), w.size()), RTA_FLOAT32, n * k);
      attrs.set("bias", m.first.put(b.data(), b.size()), RTA_FLOAT32, n);
      OneStage plan("linear", kernel, {{RTA_FLOAT32, k}}, {{RTA_FLOAT32, n}}, attrs, kWeightBytes);
      const float* in = m.x.put(x.data(), x.size());
      float* out = static_cast<float*>(m.y.place(static_cast<size_t>(rows * n) * 4));
      plan.run({in}, {out}, rows);
      bool held = m.intact();
      for (int r = 0; r < rows; ++r)
        for (int c = 0; c < n; ++c) {
          double sum = b[static_cast<size_t>(c)], size = std::fabs(sum);
          for (int i = 0; i < k; ++i) {
            const double product = double{x[static_cast<size_t>(r * k + i)]} * w[static_cast<size_t>(c * k + i)];
            sum += product;
            size += std::fabs(product);
          }
          held &= std::fabs(out[r * n + c] - sum) <= (k + 8) * (FLT_EPSILON / 2) * 1.001 * size;
        }
      report.expect(held, "float32 M=%d N=%d K=%d", rows, n, k);
    }
}

}  // namespace

void check_linear(const char* kernel, Report& report) {
  const rta_attr plain = Attributes().set("weight_dtype", "float32").data()[0];
  Memory memory;
  Attributes int8;
  int8.set("weight_dtype", "int8").set("input_dtype", "int8");
  if (!rta_kernel_reject("linear", kernel, int8.data(), int8.size())) {
    every_small_size(kernel, memory, report);
    epilogues(kernel, memory, report);
  }
  if (!rta_kernel_reject("linear", kernel, &plain, 1)) float32(kernel, memory, report);
  check_linear_weights(kernel, report);
}

}  // namespace check
