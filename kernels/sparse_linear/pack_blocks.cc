// Packing of block-sparse rows into streams of groups: compiled once, for any CPU.
#include <algorithm>
#include <cstring>
#include <vector>

#include "sparse_linear/pack.h"

namespace rta {

Groups pack_groups(const SparseRows& rows, int lanes, int group, Arena& arena) {
  const int64_t width = int64_t{kTile} * lanes, vectors = (rows.n + width - 1) / width * kTile;
  std::vector<std::vector<int32_t>> kept(static_cast<size_t>(vectors));  // groups, ascending
  int64_t* ends = static_cast<int64_t*>(arena.take(static_cast<size_t>(vectors + 1) * sizeof(int64_t)));
  for (int64_t v = 0; v < vectors; ++v) {
    std::vector<int32_t>& groups = kept[static_cast<size_t>(v)];
    const int64_t first = std::min(v * lanes, rows.n), last = std::min((v + 1) * lanes, rows.n);
    for (int32_t i = rows.starts[first]; i < rows.starts[last]; ++i) groups.push_back(rows.columns[i] / group);
    std::sort(groups.begin(), groups.end());
    groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
    ends[v + 1] = ends[v] + static_cast<int64_t>(groups.size());
  }
  uint16_t* offsets = static_cast<uint16_t*>(arena.take(static_cast<size_t>(ends[vectors]) * sizeof(uint16_t)));
  const int64_t step = int64_t{lanes} * group * rows.size;
  char* values = static_cast<char*>(arena.take(static_cast<size_t>(ends[vectors] * step)));
  for (int64_t v = 0; v < vectors; ++v) {
    const std::vector<int32_t>& groups = kept[static_cast<size_t>(v)];
    for (size_t i = 0; i < groups.size(); ++i)
      offsets[ends[v] + static_cast<int64_t>(i)] = static_cast<uint16_t>(groups[i] * group);
    for (int64_t row = v * lanes; row < std::min((v + 1) * lanes, rows.n); ++row)
      for (int32_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) {
        const auto found = std::lower_bound(groups.begin(), groups.end(), rows.columns[i] / group);
        const int64_t place = (row - v * lanes) * group + rows.columns[i] % group;
        std::memcpy(values + (ends[v] + (found - groups.begin())) * step + place * rows.size,
                    rows.values + int64_t{i} * rows.size, static_cast<size_t>(rows.size));
      }
  }
  return {values, offsets, ends};
}

}  // namespace rta
