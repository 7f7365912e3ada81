// Checks the tables of a tree ensemble, and lays its trees as trees.h has them.
#include "tree_ensemble/trees.h"

#include <algorithm>
#include <vector>

#include "_common/checks.h"

namespace rta {
namespace {

// The trees as the attributes have them, checked: each node has one parent, which lies before it, or is a root.
class Tables {
 public:
  Tables(const Attrs& attrs, int64_t features, int64_t targets)
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

// The first node is a tree of its own, which fills groups: its value is the zeros behind all others.
template <class I>
void lay(const Tables& tables, const std::vector<int32_t>& order, const std::vector<int32_t>& height, int64_t targets,
         TreeGroup* groups, void* packed, int32_t* leaf) {
  TreeNode<I>* to = static_cast<TreeNode<I>*>(packed);
  to[0] = {__builtin_nanf(""), 0, 0};
  leaf[0] = static_cast<int32_t>(tables.values);
  int32_t used = 1;
  std::vector<int32_t> nodes;
  for (size_t t = 0; t < order.size(); ++t) {
    TreeGroup& group = groups[t / kTreeLanes];
    group.root[t % kTreeLanes] = used;
    group.depth = std::max(group.depth, height[static_cast<size_t>(order[t])]);
    tables.below(order[t], nodes);
    int32_t child = 1;
    for (size_t i = 0; i < nodes.size(); ++i, ++used) {
      const int64_t node = nodes[i];
      if (tables.leaf(node)) {
        to[used] = {__builtin_nanf(""), 0, static_cast<I>(i)};
        leaf[used] = static_cast<int32_t>(tables.child[2 * node] * targets);
        continue;
      }
      to[used] = {tables.threshold[node], static_cast<I>(tables.feature[node]), static_cast<I>(child)};
      leaf[used] = tables.nan_first[node] ? kNanFirst : kNanSecond;
      child += 2;
    }
  }
}

}  // namespace

LaidTrees lay_trees(const StageSpec& spec, int64_t features, int64_t targets) {
  const Tables tables(spec.attrs, features, targets);
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

  LaidTrees laid{};
  laid.strict = flag(spec.attrs, "strict");
  laid.narrow = features <= 65536 && largest <= 65536;
  laid.targets = targets;
  laid.groups = (tables.trees + kTreeLanes - 1) / kTreeLanes;
  Arena& arena = *spec.arena;
  const size_t count = static_cast<size_t>(tables.nodes) + 1;
  const size_t values = static_cast<size_t>(tables.values), more = static_cast<size_t>(targets);
  TreeGroup* group = static_cast<TreeGroup*>(arena.take(static_cast<size_t>(laid.groups) * sizeof(TreeGroup)));
  float* value = static_cast<float*>(arena.take((values + more) * sizeof(float)));
  __builtin_memcpy(value, spec.attrs.floats("value", tables.values), values * sizeof(float));
  int32_t* leaf = static_cast<int32_t*>(arena.take(count * sizeof(int32_t)));
  void* packed = arena.take(count * (laid.narrow ? sizeof(TreeNode<uint16_t>) : sizeof(TreeNode<int32_t>)));
  if (laid.narrow)
    lay<uint16_t>(tables, order, height, targets, group, packed, leaf);
  else
    lay<int32_t>(tables, order, height, targets, group, packed, leaf);
  for (int64_t g = 0; g < laid.groups; ++g) laid.visits += kTreeLanes * (group[g].depth + 1);
  laid.group = group;
  laid.nodes = packed;
  laid.leaf = leaf;
  laid.value = value;
  return laid;
}

}  // namespace rta
