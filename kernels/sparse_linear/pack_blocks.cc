// Packing of block-sparse rows into streams of groups: compiled once, for any CPU.
#include <algorithm>
#include <cstring>
#include <vector>

#include "sparse_linear/pack.h"

namespace rta {

namespace {

// The groups of each vector in which any of its rows has an entry, ascending.
std::vector<std::vector<int32_t>> kept_groups(const SparseRows& rows, int lanes, int group, int64_t vectors) {
  std::vector<std::vector<int32_t>> kept(static_cast<size_t>(vectors));
  for (int64_t v = 0; v < vectors; ++v) {
    std::vector<int32_t>& groups = kept[static_cast<size_t>(v)];
    const int64_t first = std::min(v * lanes, rows.n), last = std::min((v + 1) * lanes, rows.n);
    for (int32_t i = rows.starts[first]; i < rows.starts[last]; ++i) groups.push_back(rows.columns[i] / group);
    std::sort(groups.begin(), groups.end());
    groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
  }
  return kept;
}

// The first groups of runs of four that hold all of these, none beyond `last`.
std::vector<int32_t> runs(const std::vector<int32_t>& groups, int32_t last) {
  std::vector<int32_t> starts;
  for (const int32_t group : groups)
    if (starts.empty() || group >= starts.back() + 4) starts.push_back(std::min(group, last - 3));
  return starts;
}

}  // namespace

Groups pack_groups(const StageSpec& spec, const SparseRows& rows, int lanes, int group) {
  if (!spec.packs()) return groups_there(spec, rows, lanes, group);
  const int64_t width = int64_t{kTile} * lanes, vectors = (rows.n + width - 1) / width * kTile;
  std::vector<std::vector<int32_t>> kept = kept_groups(rows, lanes, group, vectors);
  const int32_t last = static_cast<int32_t>(readable_columns(rows) / group) - 1;
  size_t alone = 0, together = 0;
  std::vector<std::vector<int32_t>> fours;
  for (const auto& groups : kept) {
    fours.push_back(runs(groups, last));
    alone += groups.size();
    together += 4 * fours.back().size();
  }
  const bool wide = last >= 3 && together * 100 <= alone * 102;
  if (wide) kept.swap(fours);
  int64_t count = 0;
  for (const auto& steps : kept) count += static_cast<int64_t>(steps.size());
  write_head(spec, {SparseHead::kGroups, wide ? 4 : 1, count});
  int64_t* ends = packed<int64_t>(spec, vectors + 1);
  for (int64_t v = 0; v < vectors; ++v)
    ends[v + 1] = ends[v] + static_cast<int64_t>(kept[static_cast<size_t>(v)].size());
  uint16_t* offsets = packed<uint16_t>(spec, count);
  const int64_t of_group = int64_t{lanes} * group * rows.size, step = (wide ? 4 : 1) * of_group;
  char* values = packed<char>(spec, count * step);
  for (int64_t v = 0; v < vectors; ++v) {
    const std::vector<int32_t>& steps = kept[static_cast<size_t>(v)];
    for (size_t i = 0; i < steps.size(); ++i)
      offsets[ends[v] + static_cast<int64_t>(i)] = static_cast<uint16_t>(steps[i] * group);
    for (int64_t row = v * lanes; row < std::min((v + 1) * lanes, rows.n); ++row)
      for (int32_t i = rows.starts[row]; i < rows.starts[row + 1]; ++i) {
        const int32_t at = rows.columns[i] / group;
        const auto found =
            std::upper_bound(steps.begin(), steps.end(), at) - 1;  // the last that starts there or before
        const int64_t place = (row - v * lanes) * group + rows.columns[i] % group;
        std::memcpy(values + (ends[v] + (found - steps.begin())) * step + (at - *found) * of_group + place * rows.size,
                    rows.values + int64_t{i} * rows.size, static_cast<size_t>(rows.size));
      }
  }
  return {values, offsets, ends, wide};
}

}  // namespace rta
