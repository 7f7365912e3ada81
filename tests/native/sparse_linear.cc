// Sparse linear: every layout over small sizes and densities, int8 and float32. Numbers are chosen so that every sum is
// exact in float32, in any order.
#include <cmath>
#include <cstring>

#include "harness.h"

namespace check {
namespace {

constexpr int kRows = 8, kMaxN = 140, kMaxK = 1100;
constexpr size_t kWeightBytes = 1 << 22;

struct Memory {
  Guarded x{kRows * kMaxK * 4}, values{kMaxN * kMaxK * 4}, columns{kMaxN * kMaxK * 4}, starts{(kMaxN + 1) * 4},
      first{kMaxN * 4}, second{kMaxN * 4}, y{kRows * kMaxN * 4};
  bool intact() const { return x.intact() && values.intact() && columns.intact() && starts.intact() && y.intact(); }
};

struct Rows {  // of ascending columns
  std::vector<int8_t> values;
  std::vector<float> floats;
  std::vector<int32_t> columns, starts{0};
};

// percent of the weights, in blocks of so many outputs by so many inputs; with semi, at most two of every four. Every
// fifth row is empty, and the further down the fewer weights does a row have, so that units of all sizes are packed.
struct Pattern {
  int percent, down = 1, along = 1;
};

Rows make(int n, int k, Pattern pattern, bool semi, bool int8, Random& random) {
  Rows rows;
  std::vector<char> kept(static_cast<size_t>(k + pattern.along));
  for (int r = 0; r < n; ++r) {
    int in_four = 0;
    for (int i = 0; r % pattern.down == 0 && i < k; i += pattern.along) {
      const int percent = pattern.along == 1 ? pattern.percent : pattern.percent * (n - r) * 2 / n;
      std::memset(&kept[static_cast<size_t>(i)], random.between(0, 99) < percent, static_cast<size_t>(pattern.along));
    }
    for (int i = 0; i < k; ++i) {
      if (i % 4 == 0) in_four = 0;
      if (r % 5 == 4 || !kept[static_cast<size_t>(i)] || (semi && in_four == 2)) continue;
      const int8_t value = int8 ? random.int8(-127) : static_cast<int8_t>(random.between(-8, 8));
      if (value == 0) continue;
      ++in_four;
      rows.values.push_back(value);
      rows.floats.push_back(value);
      rows.columns.push_back(i);
    }
    rows.starts.push_back(static_cast<int32_t>(rows.columns.size()));
  }
  return rows;
}

void one(const char* kernel, const char* layout, bool int8, int rows, int n, int k, Pattern pattern, Random& random,
         Memory& m, Report& report) {
  const Rows w = make(n, k, pattern, std::strcmp(layout, "2:4") == 0, int8, random);
  const int zero_point = int8 ? random.int8() : 0;
  std::vector<int8_t> x(static_cast<size_t>(rows * k));
  for (auto& v : x) v = int8 ? random.int8() : static_cast<int8_t>(random.between(-20, 20));
  std::vector<float> floats(x.begin(), x.end()), ones(static_cast<size_t>(n), 1), offset(static_cast<size_t>(n));
  for (auto& v : offset) v = static_cast<float>(random.between(-9, 9));
  const int64_t entries = static_cast<int64_t>(w.columns.size());
  Attributes attrs;
  attrs.set("layout", layout).set("weight_dtype", int8 ? "int8" : "float32");
  attrs.set("activation", "none").set("activation_parameter", 0.0);
  attrs.set("columns", m.columns.put(w.columns.data(), w.columns.size()), RTA_INT32, entries);
  attrs.set("row_starts", m.starts.put(w.starts.data(), w.starts.size()), RTA_INT32, n + 1);
  if (int8) {
    attrs.set("weight", m.values.put(w.values.data(), w.values.size()), RTA_INT8, entries);
    attrs.set("multiplier", m.first.put(ones.data(), ones.size()), RTA_FLOAT32, n);
    attrs.set("offset", m.second.put(offset.data(), offset.size()), RTA_FLOAT32, n);
    attrs.set("x_zero_point", int64_t{zero_point}).set("dynamic", int64_t{0});
    attrs.set("y_inv_scale", 1.0).set("y_zero_point", int64_t{0});
  } else {
    attrs.set("weight", m.values.put(w.floats.data(), w.floats.size()), RTA_FLOAT32, entries);
    attrs.set("bias", m.second.put(offset.data(), offset.size()), RTA_FLOAT32, n);
  }
  OneStage plan("sparse_linear", kernel, {{int8 ? RTA_INT8 : RTA_FLOAT32, k}}, {{RTA_FLOAT32, n}}, attrs, kWeightBytes);
  const void* in = int8 ? static_cast<const void*>(m.x.put(x.data(), x.size()))
                        : static_cast<const void*>(m.x.put(floats.data(), floats.size()));
  float* out = static_cast<float*>(m.y.place(static_cast<size_t>(rows * n) * 4));
  for (int call = 0; call < 2; ++call) {  // the second goes through the tiles backwards
    plan.run({in}, {out}, rows);
    bool same = m.intact();
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < n; ++c) {
        int64_t sum = 0;
        for (int32_t i = w.starts[static_cast<size_t>(c)]; i < w.starts[static_cast<size_t>(c) + 1]; ++i) {
          const size_t at = static_cast<size_t>(i);
          sum += int64_t{x[static_cast<size_t>(r * k + w.columns[at])] - zero_point} * w.values[at];
        }
        same &= out[r * n + c] == static_cast<float>(sum) + offset[static_cast<size_t>(c)];
      }
    report.expect(same, "%s %s M=%d N=%d K=%d %d %% in %d x %d", layout, int8 ? "int8" : "float32", rows, n, k,
                  pattern.percent, pattern.down, pattern.along);
  }
  for (int i = 0; int8 && i < rows * n; ++i) {  // not every set has float32 forms
    const int32_t sum = static_cast<int32_t>(out[i]);
    report.integers.add(&sum, 4);
  }
}

}  // namespace

void check_sparse_linear(const char* kernel, Report& report) {
  Memory memory;
  Random random(11);
  for (const char* layout : {"window", "blocks", "2:4"})
    for (const bool int8 : {true, false}) {
      Attributes kind;
      kind.set("weight_dtype", int8 ? "int8" : "float32").set("layout", layout);
      if (rta_kernel_reject("sparse_linear", kernel, kind.data(), kind.size())) continue;
      for (int k = 1; k <= 300; k += k < 70 ? 1 : 23) {
        const int n = random.between(1, kMaxN), rows = random.between(0, kRows), percent = random.between(0, 60);
        if (!report.quick || k % 4 == 1) one(kernel, layout, int8, rows, n, k, {percent}, random, memory, report);
      }
      for (const int percent : {1, 5, 50, 100})
        one(kernel, layout, int8, 5, kMaxN, 300, {percent}, random, memory, report);
      for (const Pattern pattern : {Pattern{10, 1, 16}, Pattern{30, 16, 16}, Pattern{20, 8, 8}, Pattern{15, 1, 4}})
        for (const int k : {300, kMaxK})
          if (!report.quick || k == 300) one(kernel, layout, int8, 5, kMaxN, k, pattern, random, memory, report);
    }
}

}  // namespace check
