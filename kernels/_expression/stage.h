// Expressions on the CPU. What they mean is in operator.py; where operands lie, in iteration.h; a chain, and what it
// costs, in chain.h.
//
// The iteration goes in blocks of up to 512 elements: a stretch of the innermost dimension, or whole runs of it where
// they are short. An operand that does not lie contiguously over a block is brought into one first; one that repeats
// over the outer of the two dimensions is brought once. Floor: bytes that are read and written over the bandwidth of
// the cache they are in, or a vector operation a function and 16 elements; 10 ns a block beside it.
#pragma once

#include "_common/checks.h"
#include "_expression/blocks.h"

namespace rta {
namespace expression {

template <class S>
class ExpressionStage final : public Stage {
 public:
  explicit ExpressionStage(const StageSpec& spec) : walk_(spec) {
    read_chain(spec);
    spec.need_scratch(Blocks<S>::scratch(walk_, formula_));
  }

  int64_t cost_ns(int64_t samples) const override {
    int64_t elements = samples;
    for (int d = 0; d < walk_.dims; ++d) elements *= walk_.size[d];
    return elements * formula_.count / 32;
  }

  void run(const Run& run) const override {
    const char* base[kMaxOperands + 1];
    for (int i = 0; i <= walk_.count; ++i) {
      const Operand& o = walk_.operands[i];
      base[i] = (o.port.exists() ? run.at[o.port.id] : reinterpret_cast<const char*>(o.constant)) + o.offset;
    }
    Blocks<S> blocks(walk_, formula_, run.scratch);
    // The odometer over all dimensions but the last two.
    const int outer = walk_.dims > 2 ? walk_.dims - 2 : 0;
    int64_t index[kMaxDims];
    for (int d = 0; d < outer; ++d) index[d] = 0;
    while (true) {
      blocks.plane(base, index, run.samples);
      int d = outer - 1;
      for (; d >= 0; --d) {
        const int64_t n = d == 0 ? walk_.size[0] * run.samples : walk_.size[d];
        const bool wraps = ++index[d] == n;
        const int64_t step = wraps ? 1 - n : 1;
        for (int i = 0; i <= walk_.count; ++i)
          if (!walk_.operands[i].table) base[i] += step * walk_.operands[i].stride[d];
        if (!wraps) break;
        index[d] = 0;
      }
      if (d < 0) return;
    }
  }

 private:
  static constexpr int kMaxLinks = 1 << 16;
  static constexpr int64_t kTile8 = Blocks<S>::kTile8;

  void read_chain(const StageSpec& spec) {
    formula_.numbers = static_cast<int>(between(spec.attrs, "number_count", 0, kMaxNumbers));
    formula_.stored = static_cast<int>(between(spec.attrs, "stored", 0, kMaxStored));
    const float* given = spec.attrs.floats("numbers", formula_.numbers ? formula_.numbers : 1);
    formula_.tiles =
        static_cast<float*>(spec.arena->take(static_cast<size_t>(formula_.numbers * kTile8) * sizeof(float)));
    for (int i = 0; i < formula_.numbers; ++i)
      for (int k = 0; k < kTile8; ++k) formula_.tiles[i * kTile8 + k] = given[i];
    const char* links = spec.attrs.text("links");
    int64_t given_links = 1;
    for (const char* p = links; *p; ++p) given_links += *p == ',';
    expect(given_links <= kMaxLinks, "a chain of %lld", static_cast<long long>(given_links));
    const int count = static_cast<int>(given_links);
    const int32_t* places = spec.attrs.ints("operands", 2 * count);
    const float* parameters = spec.attrs.floats("parameters", count);
    formula_.steps = static_cast<Step*>(spec.arena->take(static_cast<size_t>(count + 1) * sizeof(Step)));
    formula_.count = count;
    for (int i = 0; i < count; ++i) {
      char name[32];
      int n = 0;
      while (*links && *links != ',' && n < 31) name[n++] = *links++;
      name[n] = 0;
      if (*links == ',') ++links;
      formula_.steps[i] = Steps<S>::named(name);
      if (!formula_.steps[i].go8) fail("expression: no function '%s'", name);
      const int reads = formula_.steps[i].reads;
      if (reads) formula_.steps[i].a = shifted(places[2 * i], reads < 0);
      if (reads == 2) formula_.steps[i].b = shifted(places[2 * i + 1], false);
      formula_.steps[i].parameter = parameters[i];
    }
    formula_.steps[count] = Steps<S>::last(walk_.count);
  }

  // Places as the contract numbers them have no result between operands and numbers.
  // written: only results aside can be.
  int32_t shifted(int32_t place, bool written) const {
    const int32_t first = written ? walk_.count + formula_.numbers : 0,
                  end = walk_.count + formula_.numbers + formula_.stored;
    expect(place >= first && place < end, "place %d of an operand, expected %d to %d", place, first, end - 1);
    return place < walk_.count ? place : place + 1;
  }

  Iteration walk_;
  Formula formula_;
};

}  // namespace expression
}  // namespace rta
