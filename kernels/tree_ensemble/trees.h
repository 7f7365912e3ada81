// Trees as kernels read them: what `lay_trees` makes of the attributes, once for all instruction sets.
//
// Nodes of a tree lie level by level, the two children of a node beside each other: the next one is an address and a
// flag away. A leaf leads to itself. Trees of about the same depth are a group.
#pragma once

#include "_core/stage.h"

namespace rta {

// Of 8 bytes where trees and rows are small enough for numbers of 16 bits, which most are: a line of a cache then has
// twice as many. I: of a feature, and of a child within its tree.
template <class I>
struct TreeNode {
  float threshold;
  I feature, child;
};

constexpr int kTreeLanes = 8;
struct TreeGroup {
  int32_t depth, root[kTreeLanes];
};

// leaf: of each node the place of its values, or of an inner one where NaN goes. narrow: nodes are TreeNode<uint16_t>,
// else TreeNode<int32_t>.
constexpr int32_t kNanSecond = -1, kNanFirst = -2;
struct LaidTrees {
  bool strict, narrow;
  int64_t groups, targets, visits;
  const TreeGroup* group;
  const void* nodes;
  const int32_t* leaf;
  const float* value;
};

// Fails for attributes that are no trees over so many features.
LaidTrees lay_trees(const StageSpec& spec, int64_t features, int64_t targets);

}  // namespace rta
