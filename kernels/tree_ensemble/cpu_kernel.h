// Tree ensemble on the CPU. The contract is in contract.py.
//
// Trees go down side by side, kTreeLanes of them, of about the same depth: a comparison waits for a load that waits for
// the comparison before, and only other trees fill that time. A leaf leads to itself, so nothing branches.
//
// Floor, 100 trees of 6 levels: 600 nodes at about 6 instructions, four a cycle: 0.3 us at 3 GHz; a line of a cache for
// each node of the lower levels.
#pragma once

#include "_common/checks.h"
#include "tree_ensemble/trees.h"

namespace rta {

template <class S>
class TreeEnsembleStage final : public Stage {
 public:
  explicit TreeEnsembleStage(const StageSpec& spec) : x_(spec.in(0)), y_(spec.out(0)) {
    expect_ports(spec, 1, 1);
    expect_dtype(spec.input(0), RTA_FLOAT32, "x");
    expect_value(spec.output(0), RTA_FLOAT32, x_.steps, y_.width, "y");
    trees_ = lay_trees(spec, x_.width, y_.width);
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, r));
      float* y = reinterpret_cast<float*>(y_.row(run, r));
      bool ordinary = true;
      for (int64_t i = 0; i < x_.width; ++i) ordinary = ordinary & (x[i] == x[i]);
      if (trees_.narrow)
        ordinary ? compare<uint16_t, false>(x, y) : compare<uint16_t, true>(x, y);
      else
        ordinary ? compare<int32_t, false>(x, y) : compare<int32_t, true>(x, y);
    }
  }
  int64_t cost_ns(int64_t samples) const override { return samples * x_.steps * trees_.visits / 2; }

 private:
  template <class I, bool Nan>
  void compare(const float* x, float* y) const {
    trees_.strict ? sum<I, Nan, true>(x, y) : sum<I, Nan, false>(x, y);
  }

  template <class I, bool Nan, bool Strict>
  void sum(const float* x, float* y) const {
    const int64_t targets = trees_.targets;
    float lane[kTreeLanes] = {};
    if (targets > 1) __builtin_memset(y, 0, static_cast<size_t>(targets) * sizeof(float));
    for (int64_t g = 0; g < trees_.groups; ++g) {
      int32_t at[kTreeLanes];
      down<I, Nan, Strict>(trees_.group[g], x, at);
      if (targets == 1) {
        for (int i = 0; i < kTreeLanes; ++i) lane[i] += trees_.value[at[i]];
      } else {
        for (int i = 0; i < kTreeLanes; ++i)
          for (int64_t t = 0; t < targets; ++t) y[t] += trees_.value[at[i] + t];
      }
    }
    if (targets == 1) y[0] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  }

  // Places of the values that the trees of a group come to. Nothing is beyond the NaN of a leaf.
  template <class I, bool Nan, bool Strict>
  void down(const TreeGroup& group, const float* x, int32_t (&at)[kTreeLanes]) const {
    const TreeNode<I>* tree[kTreeLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kTreeLanes; ++i) {
      tree[i] = static_cast<const TreeNode<I>*>(trees_.nodes) + group.root[i];
      at[i] = 0;
    }
    for (int32_t level = group.depth; level > 0; --level)
#pragma GCC unroll 8
      for (int i = 0; i < kTreeLanes; ++i) {
        const TreeNode<I> node = tree[i][at[i]];
        const float v = x[node.feature];
        bool beyond = Strict ? v >= node.threshold : v > node.threshold;
        if (Nan && v != v) beyond = trees_.leaf[group.root[i] + at[i]] == kNanSecond;
        at[i] = static_cast<int32_t>(node.child) + beyond;
      }
#pragma GCC unroll 8
    for (int i = 0; i < kTreeLanes; ++i) at[i] = trees_.leaf[group.root[i] + at[i]];
  }

  GraphIO x_, y_;
  LaidTrees trees_;
};

static const char* tree_ensemble_reject(const Attrs&) { return nullptr; }

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "tree_ensemble", "cpu", tree_ensemble_reject, create_stage<TreeEnsembleStage<S>>);
}

}  // namespace rta
