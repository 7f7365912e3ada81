// Assemble on the CPU: copies by strides. The contract is in contract.py.
//
// The two innermost dimensions are copied by one of three loops: runs of contiguous elements, a transposition in
// registers, or single elements. Floor: bytes read and written over the bandwidth of the cache they are in; a
// transposition in registers takes 1.5 times a copy (two shuffles a vector and round).
#pragma once

#include <cstdio>
#include <vector>

#include "_common/checks.h"
#include "_common/strided.h"
#include "_simd/transpose.h"

namespace rta {

template <class S>
class AssembleStage final : public Stage {
 public:
  explicit AssembleStage(const StageSpec& spec) : y_(spec.out(0)) {
    expect_outputs(spec, 1, 1);
    const int count = static_cast<int>(between(spec.attrs, "part_count", spec.input_count, kMaxParts));
    const bool whole = spec.output(0).dtype == RTA_INT64;
    if (!whole && spec.output(0).dtype != RTA_FLOAT32) fail("assemble: takes float32 or int64");
    if (whole) y_.width *= 2;  // an element is copied as two of float32
    fills_ = flag(spec.attrs, "fills");
    fill_ = static_cast<float>(spec.attrs.real("fill"));
    for (int i = 0; i < count; ++i) {
      Part part = {};
      int64_t constant = 0;  // its elements
      char suffix[16];
      std::snprintf(suffix, sizeof suffix, "%d.", i);
      part.x = spec.in(i);
      if (i >= spec.input_count) {
        char name[16];
        std::snprintf(name, sizeof name, "c%d", i - spec.input_count);
        constant = spec.attrs.count(name);
        part.constant = read_constant(spec, name);
      } else if (spec.input(i).dtype != spec.output(0).dtype) {
        fail("assemble: takes one dtype");
      }
      if (whole) part.x.width *= 2;
      const GraphIO ports[] = {part.x, y_};
      const int64_t constants[] = {constant, 0};
      part.walk = read_strided(spec, suffix, ports, 2, 0, constants);
      parts_.push_back(part);
    }
  }

  // Where each element of the first input is copied to the place that it has there, and later parts lie over it.
  bool updates(int in, int out) const override {
    const Part& first = parts_[0];
    const Strided& walk = first.walk;
    if (in != 0 || out != 0 || first.constant || fills_ || walk.table[0] || walk.table[1]) return false;
    if (first.x.steps * first.x.pitch != y_.steps * y_.pitch || walk.offset[0] != walk.offset[1]) return false;
    for (int d = 0; d < walk.dims; ++d)
      if (walk.stride[0][d] != walk.stride[1][d]) return false;
    return true;
  }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      char* y = y_.row(run, s * y_.steps);
      if (fills_)
        for (int64_t r = 0; r < y_.steps; ++r)
          for (int64_t c = 0; c < y_.width; ++c) reinterpret_cast<float*>(y + r * y_.pitch)[c] = fill_;
      for (const Part& part : parts_) {
        const char* x =
            part.constant ? reinterpret_cast<const char*>(part.constant) : part.x.row(run, s * part.x.steps);
        if (x == y) continue;  // the result lies over it
        if (part.walk.table[0] || part.walk.table[1])
          by_table(part.walk, x, y);
        else
          by_strides(part.walk, x + part.walk.offset[0], y + part.walk.offset[1]);
      }
    }
  }

 private:
  static constexpr int kMaxParts = 1 << 16;

  struct Part {
    GraphIO x;
    const float* constant;
    Strided walk;
  };

  static void by_table(const Strided& walk, const char* x, char* y) {
    int64_t e = 0;
    for_each_index(walk, 0, walk.dims, x + walk.offset[0], y + walk.offset[1], [&](const char* from, char* to) {
      element(walk.table[1] ? y + walk.table[1][e] : to, walk.table[0] ? x + walk.table[0][e] : from);
      ++e;
    });
  }

  static void by_strides(const Strided& walk, const char* x, char* y) {
    const int last = walk.dims - 1;
    const int64_t n = last >= 0 ? walk.size[last] : 1, m = last >= 1 ? walk.size[last - 1] : 1;
    for_each_index(walk, 0, last - 1, x, y, [&](const char* from, char* to) {
      plane(from, to, m, n, walk.step(0, last - 1), walk.step(0, last), walk.step(1, last - 1), walk.step(1, last));
    });
  }

  // m x n elements. (x1, x0) and (y1, y0): bytes from row to row, and from element to element.
  static void plane(const char* x, char* y, int64_t m, int64_t n, int64_t x1, int64_t x0, int64_t y1, int64_t y0) {
    if (n == 1 || (x0 == 4 && y0 == 4)) {
      for (int64_t r = 0; r < m; ++r) run_of(x + r * x1, y + r * y1, n);
    } else if (y0 == 4 && x1 == 4 && m >= 2) {
      turn(x, y, m, n, x0, y1);
    } else if (x0 == 4 && y1 == 4 && m >= 2) {
      turn(x, y, n, m, x1, y0);
    } else {
      for (int64_t r = 0; r < m; ++r)
        for (int64_t c = 0; c < n; ++c) element(y + r * y1 + c * y0, x + r * x1 + c * x0);
    }
  }

  static void element(char* to, const char* from) {
    *reinterpret_cast<float*>(to) = *reinterpret_cast<const float*>(from);
  }

  static void run_of(const char* x, char* y, int64_t n) {
    const float* from = reinterpret_cast<const float*>(x);
    float* to = reinterpret_cast<float*>(y);
    int64_t i = 0;
    for (; i + S::kLanes <= n; i += S::kLanes) S::store(to + i, S::load(from + i));
    if (i < n) S::store_n(to + i, S::load_n(from + i, static_cast<int>(n - i)), static_cast<int>(n - i));
  }

  // y[r][c] = x[c][r], r < m, c < n: columns of x are contiguous in r, rows of y in c. Along the rows of y: theirs may
  // lie a power of two apart, and then share the sets of a cache.
  static void turn(const char* x, char* y, int64_t m, int64_t n, int64_t x_pitch, int64_t y_pitch) {
    constexpr int k = S::kLanes;
    for (int64_t r = 0; r < m; r += k)
      for (int64_t c = 0; c < n; c += k) {
        const int wide = static_cast<int>(n - c < k ? n - c : k), high = static_cast<int>(m - r < k ? m - r : k);
        typename S::F row[k];
#pragma GCC unroll 16
        for (int i = 0; i < k; ++i) {
          const float* from = reinterpret_cast<const float*>(x + (c + i) * x_pitch) + r;
          row[i] = i >= wide ? S::set(0.0f) : high == k ? S::load(from) : S::load_n(from, high);
        }
        exchange_all<S, 1>(row);
#pragma GCC unroll 16
        for (int i = 0; i < k; ++i) {
          float* to = reinterpret_cast<float*>(y + (r + i) * y_pitch) + c;
          if (i >= high) break;
          if (wide == k)
            S::store(to, row[i]);
          else
            S::store_n(to, row[i], wide);
        }
      }
  }

  GraphIO y_;
  bool fills_;
  float fill_;
  std::vector<Part> parts_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "assemble", "cpu", nullptr, create_stage<AssembleStage<S>>);
}

}  // namespace rta
