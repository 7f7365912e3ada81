// Linear with int4 weights in groups, and with float32 inputs to int8 and bfloat16 weights. Numbers are chosen so that
// every rounding is exact: the float32 output is the integer sum itself.
#include "harness.h"

namespace check {
namespace {

constexpr int kRows = 8, kMaxN = 70, kMaxK = 130;
constexpr size_t kWeightBytes = 1 << 20;

struct Memory {
  Guarded x{kRows * kMaxK * 4}, weight{kMaxN * kMaxK * 2}, first{kMaxN * 4}, second{kMaxN * 4},
      groups{kMaxN * kMaxK * 4}, y{kRows * kMaxN * 4};
  bool intact() const { return x.intact() && weight.intact() && y.intact(); }
};

enum class Kind { kW4A8, kW4A16, kW8A16, kBfloat16 };
const char* const kNames[] = {"w4a8", "w4a16", "w8a16", "bfloat16"};

// x[m, k] integers, w[n, k] integers, each group of w with a scale of 1, 2 or -1: y = sum of x * w * scale.
void one(const char* kernel, Kind kind, int rows, int n, int k, int group, Random& random, Memory& m, Report& report) {
  const bool int4 = kind == Kind::kW4A8 || kind == Kind::kW4A16, int8_in = kind == Kind::kW4A8;
  const int groups = (k + group - 1) / group, least = int4 ? -8 : -1, most = int4 ? 7 : 1;
  std::vector<int> x(static_cast<size_t>(rows * k)), w(static_cast<size_t>(n * k));
  std::vector<float> scale(static_cast<size_t>(n * groups));
  for (auto& v : x) v = int8_in || kind == Kind::kBfloat16 ? random.int8() : random.between(-4000, 4000);
  if (!int8_in && kind != Kind::kBfloat16)  // the largest of a row makes the step of its 16 bits 1
    for (int r = 0; r < rows; ++r) x[static_cast<size_t>(r * k + random.between(0, k - 1))] = r % 2 ? 32639 : -32639;
  for (auto& v : w) v = random.between(least, most);
  for (auto& v : scale) v = static_cast<float>(random.between(0, 2) * 1.5 - 1);  // -1, 0.5 or 2
  std::vector<uint8_t> packed(static_cast<size_t>(n * ((k + 1) / 2)), 0x88);
  std::vector<int8_t> bytes(w.begin(), w.end()), x8(x.begin(), x.end());
  std::vector<uint16_t> halves;
  for (int v : w) halves.push_back(v == 0 ? 0 : v > 0 ? 0x3f80 : 0xbf80);
  std::vector<float> floats(x.begin(), x.end()), ones(static_cast<size_t>(n), 1), offset(static_cast<size_t>(n));
  for (auto& v : offset) v = static_cast<float>(random.between(-9, 9));
  if (int4)
    for (int r = 0; r < n; ++r)
      for (int i = 0; i < k; ++i) {
        uint8_t& byte = packed[static_cast<size_t>(r * ((k + 1) / 2) + i / 2)];
        const int q = w[static_cast<size_t>(r * k + i)] + 8;
        byte = static_cast<uint8_t>(i % 2 ? (byte & 15) | q << 4 : (byte & 240) | q);
      }
  Attributes attrs;
  attrs.set("activation", "none").set("activation_parameter", 0.0).set("y_inv_scale", 1.0);
  attrs.set("y_zero_point", int64_t{0}).set("group_size", int64_t{group});
  attrs.set(kind == Kind::kBfloat16 ? "bias" : "offset", m.second.put(offset.data(), offset.size()), RTA_FLOAT32, n);
  attrs.set("multiplier", m.first.put(ones.data(), ones.size()), RTA_FLOAT32, n);
  attrs.set("group_scale", m.groups.put(scale.data(), scale.size()), RTA_FLOAT32, n * groups);
  if (int4)
    attrs.set("weight", m.weight.put(packed.data(), packed.size()), RTA_UINT8, static_cast<int64_t>(packed.size()));
  else if (kind == Kind::kW8A16)
    attrs.set("weight", m.weight.put(bytes.data(), bytes.size()), RTA_INT8, n * k);
  else
    attrs.set("weight", m.weight.put(halves.data(), halves.size()), RTA_BFLOAT16, n * k);
  OneStage plan("linear", kernel, {{int8_in ? RTA_INT8 : RTA_FLOAT32, k}}, {{RTA_FLOAT32, n}}, attrs, kWeightBytes);
  const void* in = nullptr;
  if (int8_in)
    in = m.x.put(x8.data(), x8.size());
  else
    in = m.x.put(floats.data(), floats.size());
  float* out = static_cast<float*>(m.y.place(static_cast<size_t>(rows * n) * 4));
  for (int call = 0; call < 2; ++call) plan.run({in}, {out}, rows);  // the second goes through the weights backwards
  bool same = m.intact();
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < n; ++c) {
      double sum = offset[static_cast<size_t>(c)];
      for (int i = 0; i < k; ++i)
        sum += double{1} * x[static_cast<size_t>(r * k + i)] * w[static_cast<size_t>(c * k + i)] *
               (int4 ? scale[static_cast<size_t>(c * groups + i / group)] : 1);
      same &= out[r * n + c] == static_cast<float>(sum);
    }
  report.expect(same, "%s M=%d N=%d K=%d group=%d", kNames[static_cast<int>(kind)], rows, n, k, group);
  report.integers.add(out, static_cast<size_t>(rows * n) * 4);
}

}  // namespace

void check_linear_weights(const char* kernel, Report& report) {
  const auto takes = [&](const char* weight, const char* input) {
    Attributes attrs;
    attrs.set("weight_dtype", weight).set("input_dtype", input);
    return !rta_kernel_reject("linear", kernel, attrs.data(), attrs.size());
  };
  Memory memory;
  Random random(17);
  const bool kinds[] = {takes("uint8", "int8"), takes("uint8", "float32"), takes("int8", "float32"),
                        takes("bfloat16", "float32")};
  for (int step = 0; step < (report.quick ? 150 : 1500); ++step)
    for (int kind = 0; kind < 4; ++kind)
      if (kinds[kind]) {
        // One after the other: compilers draw the arguments of a call in orders of their own.
        const int rows = random.between(0, kRows), n = random.between(1, kMaxN), k = random.between(1, kMaxK);
        const int group = 16 * random.between(1, 4);
        one(kernel, static_cast<Kind>(kind), rows, n, k, group, random, memory, report);
      }
}

}  // namespace check
