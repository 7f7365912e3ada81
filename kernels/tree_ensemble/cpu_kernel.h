// Tree ensemble on the CPU. The contract is in contract.py.
//
// Trees go down side by side, kLanes of them, of about the same depth: a comparison waits for a load that waits for the
// comparison before, and only other trees fill that time. A leaf leads to itself, so nothing branches. Nodes of a tree
// lie level by level, the two children of a node beside each other: the next one is an address and a flag away.
//
// Floor, 100 trees of 6 levels: 600 nodes at about 6 instructions, four a cycle: 0.3 us at 3 GHz; a line of a cache for
// each node of the lower levels.
#pragma once

#include <algorithm>
#include <vector>

#include "_common/checks.h"

namespace rta {

// Of 8 bytes where trees and rows are small enough for numbers of 16 bits, which most are: a line of a cache then has
// twice as many. I: of a feature, and of a child within its tree.
template <class I>
struct TreeNode {
  float threshold;
  I feature, child;
};

// The trees as the attributes have them, checked: each node has one parent, which lies before it, or is a root.
class TreeTables {
 public:
  TreeTables(const Attrs& attrs, int64_t features, int64_t targets)
      : nodes(attrs.count("feature")), trees(attrs.count("root")), values(attrs.count("value")) {
    constexpr int64_t most = int64_t{1} << 30;
    expect(nodes > 0 && trees > 0 && nodes < most, "%lld trees of %lld nodes", static_cast<long long>(trees),
           static_cast<long long>(nodes));
    expect(targets > 0 && values % targets == 0 && values < most, "%lld values for %lld targets",
           static_cast<long long>(values), static_cast<long long>(targets));
    feature = attrs.ints("feature", nodes);
    child = attrs.ints("child", 2 * nodes);
    threshold = attrs.floats("threshold", nodes);
    nan_first = attrs.int8s("nan_first", nodes);
    root = attrs.ints("root", trees);
    check(features, values / targets);
  }

  bool leaf(int64_t node) const { return feature[node] < 0; }

  // How many comparisons lead from each node to the last of its leaves.
  std::vector<int32_t> heights() const {
    std::vector<int32_t> found(static_cast<size_t>(nodes));
    for (int64_t i = nodes - 1; i >= 0; --i)
      if (!leaf(i))
        found[static_cast<size_t>(i)] =
            1 + std::max(found[static_cast<size_t>(child[2 * i])], found[static_cast<size_t>(child[2 * i + 1])]);
    return found;
  }

  // The nodes below a root, level by level.
  void below(int32_t from, std::vector<int32_t>& found) const {
    found.assign(1, from);
    for (size_t next = 0; next < found.size(); ++next) {
      const int64_t node = found[next];
      if (leaf(node)) continue;
      found.push_back(child[2 * node]);
      found.push_back(child[2 * node + 1]);
    }
  }

  int64_t nodes, trees, values;
  const int32_t *feature, *child, *root;
  const float* threshold;
  const int8_t* nan_first;

 private:
  void check(int64_t features, int64_t rows) const {
    std::vector<bool> led(static_cast<size_t>(nodes));
    const auto lead = [&](int64_t to) {
      expect(to >= 0 && to < nodes && !led[static_cast<size_t>(to)], "node %lld is none, or has two parents",
             static_cast<long long>(to));
      led[static_cast<size_t>(to)] = true;
    };
    for (int64_t t = 0; t < trees; ++t) lead(root[t]);
    for (int64_t i = 0; i < nodes; ++i) {
      expect(feature[i] >= -1 && feature[i] < features, "feature %d", static_cast<int>(feature[i]));
      expect(nan_first[i] == 0 || nan_first[i] == 1, "nan_first %d", nan_first[i]);
      if (leaf(i)) {
        expect(child[2 * i] >= 0 && child[2 * i] < rows, "a leaf with row %d of value", static_cast<int>(child[2 * i]));
        continue;
      }
      for (int side = 0; side < 2; ++side) {
        expect(child[2 * i + side] > i, "node %lld has a child before itself", static_cast<long long>(i));
        lead(child[2 * i + side]);
      }
    }
  }
};

class Trees {
 public:
  Trees(const StageSpec& spec, int64_t features, int64_t targets)
      : strict_(flag(spec.attrs, "strict")), targets_(targets) {
    const TreeTables tables(spec.attrs, features, targets);
    std::vector<int32_t> order(tables.root, tables.root + tables.trees), nodes;
    const std::vector<int32_t> height = tables.heights();
    // A total order: the same on every machine, whatever its library sorts by.
    std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const int32_t of_a = height[static_cast<size_t>(a)], of_b = height[static_cast<size_t>(b)];
      return of_a != of_b ? of_a < of_b : a < b;
    });
    size_t largest = 0;
    for (const int32_t root : order) {
      tables.below(root, nodes);
      largest = std::max(largest, nodes.size());
    }
    narrow_ = features <= 65536 && largest <= 65536;

    Arena& arena = *spec.arena;
    groups_ = (tables.trees + kLanes - 1) / kLanes;
    group_ = static_cast<Group*>(arena.take(static_cast<size_t>(groups_) * sizeof(Group)));
    value_ = static_cast<float*>(arena.take(static_cast<size_t>(tables.values + targets) * sizeof(float)));
    __builtin_memcpy(value_, spec.attrs.floats("value", tables.values),
                     static_cast<size_t>(tables.values) * sizeof(float));
    const size_t count = static_cast<size_t>(tables.nodes) + 1;
    leaf_ = static_cast<int32_t*>(arena.take(count * sizeof(int32_t)));
    packed_ = arena.take(count * (narrow_ ? sizeof(TreeNode<uint16_t>) : sizeof(TreeNode<int32_t>)));
    narrow_ ? lay<uint16_t>(tables, order, height) : lay<int32_t>(tables, order, height);
  }

  // The sums of one row.
  void run(const float* x, int64_t features, float* y) const {
    bool ordinary = true;
    for (int64_t i = 0; i < features; ++i) ordinary = ordinary & (x[i] == x[i]);
    if (narrow_)
      ordinary ? compare<uint16_t, false>(x, y) : compare<uint16_t, true>(x, y);
    else
      ordinary ? compare<int32_t, false>(x, y) : compare<int32_t, true>(x, y);
  }

  int64_t visits() const {
    int64_t found = 0;
    for (int64_t g = 0; g < groups_; ++g) found += kLanes * (group_[g].depth + 1);
    return found;
  }

 private:
  static constexpr int kLanes = 8;
  // Of an inner node, in the place of its values: where NaN goes.
  static constexpr int32_t kNanSecond = -1, kNanFirst = -2;
  struct Group {
    int32_t depth, root[kLanes];
  };

  template <class I, bool Nan>
  void compare(const float* x, float* y) const {
    strict_ ? sum<I, Nan, true>(x, y) : sum<I, Nan, false>(x, y);
  }

  template <class I, bool Nan, bool Strict>
  void sum(const float* x, float* y) const {
    float lane[kLanes] = {};
    if (targets_ > 1) __builtin_memset(y, 0, static_cast<size_t>(targets_) * sizeof(float));
    for (int64_t g = 0; g < groups_; ++g) {
      int32_t at[kLanes];
      down<I, Nan, Strict>(group_[g], x, at);
      if (targets_ == 1) {
        for (int i = 0; i < kLanes; ++i) lane[i] += value_[at[i]];
      } else {
        for (int i = 0; i < kLanes; ++i)
          for (int64_t t = 0; t < targets_; ++t) y[t] += value_[at[i] + t];
      }
    }
    if (targets_ == 1) y[0] = ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
  }

  // Places of the values that the trees of a group come to. Nothing is beyond the NaN of a leaf.
  template <class I, bool Nan, bool Strict>
  void down(const Group& group, const float* x, int32_t (&at)[kLanes]) const {
    const TreeNode<I>* tree[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) {
      tree[i] = static_cast<const TreeNode<I>*>(packed_) + group.root[i];
      at[i] = 0;
    }
    for (int32_t level = group.depth; level > 0; --level)
#pragma GCC unroll 8
      for (int i = 0; i < kLanes; ++i) {
        const TreeNode<I> node = tree[i][at[i]];
        const float v = x[node.feature];
        bool beyond = Strict ? v >= node.threshold : v > node.threshold;
        if (Nan && v != v) beyond = leaf_[group.root[i] + at[i]] == kNanSecond;
        at[i] = static_cast<int32_t>(node.child) + beyond;
      }
#pragma GCC unroll 8
    for (int i = 0; i < kLanes; ++i) at[i] = leaf_[group.root[i] + at[i]];
  }

  // The first node is a tree of its own, which fills groups: its value is the zeros behind all others.
  template <class I>
  void lay(const TreeTables& tables, const std::vector<int32_t>& order, const std::vector<int32_t>& height) {
    TreeNode<I>* to = static_cast<TreeNode<I>*>(packed_);
    to[0] = {__builtin_nanf(""), 0, 0};
    leaf_[0] = static_cast<int32_t>(tables.values);
    int32_t used = 1;
    std::vector<int32_t> nodes;
    for (size_t t = 0; t < order.size(); ++t) {
      Group& group = group_[t / kLanes];
      group.root[t % kLanes] = used;
      group.depth = std::max(group.depth, height[static_cast<size_t>(order[t])]);
      tables.below(order[t], nodes);
      int32_t child = 1;
      for (size_t i = 0; i < nodes.size(); ++i, ++used) {
        const int64_t node = nodes[i];
        if (tables.leaf(node)) {
          to[used] = {__builtin_nanf(""), 0, static_cast<I>(i)};
          leaf_[used] = static_cast<int32_t>(tables.child[2 * node] * targets_);
          continue;
        }
        to[used] = {tables.threshold[node], static_cast<I>(tables.feature[node]), static_cast<I>(child)};
        leaf_[used] = tables.nan_first[node] ? kNanFirst : kNanSecond;
        child += 2;
      }
    }
  }

  bool strict_, narrow_;
  int64_t groups_, targets_;
  Group* group_;
  float* value_;
  int32_t* leaf_;
  void* packed_;
};

template <class S>
class TreeEnsembleStage final : public Stage {
 public:
  explicit TreeEnsembleStage(const StageSpec& spec)
      : x_(spec.in(0)), y_(spec.out(0)), trees_((expect_ports(spec, 1, 1), spec), x_.width, y_.width) {
    expect_dtype(spec.input(0), RTA_FLOAT32, "x");
    expect_value(spec.output(0), RTA_FLOAT32, x_.steps, y_.width, "y");
  }

  void run(const Run& run) const override {
    for (int64_t r = 0; r < x_.rows(run); ++r)
      trees_.run(reinterpret_cast<const float*>(x_.row(run, r)), x_.width, reinterpret_cast<float*>(y_.row(run, r)));
  }
  int64_t cost_ns(int64_t samples) const override { return samples * x_.steps * trees_.visits() / 2; }

 private:
  GraphIO x_, y_;
  Trees trees_;
};

static const char* tree_ensemble_reject(const Attrs&) { return nullptr; }

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "tree_ensemble", "cpu", tree_ensemble_reject, create_stage<TreeEnsembleStage<S>>);
}

}  // namespace rta
