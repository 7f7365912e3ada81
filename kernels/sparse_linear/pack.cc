// Packing of sparse rows into sliding windows.
//
// Each row keeps a cursor. A step starts at the lowest column that no step has served yet among the rows of a vector,
// rounded down to the alignment, and takes from every row as many entries as it has slots for, as long as they lie in
// the window. Rows run ahead of one another by up to a window, so that what counts is the number of entries of a row as
// a whole, not in each part of it.
#include "sparse_linear/pack.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rta {

SparseRows::SparseRows(const StageSpec& spec) : n(spec.output(0).width), k(spec.input(0).width) {
  const Attrs& attrs = spec.attrs;
  if (k > 65536) fail("sparse_linear: K = %lld is over 65536", static_cast<long long>(k));
  const bool int8 = attrs.dtype("weight") == RTA_INT8;
  size = int8 ? 1 : 4;
  if (!spec.packs()) return;
  const int64_t entries = attrs.count("columns");
  if (entries > INT32_MAX) fail("sparse_linear: %lld entries", static_cast<long long>(entries));
  starts = attrs.ints("row_starts", n + 1);
  columns = attrs.ints("columns", entries);
  values = int8 ? reinterpret_cast<const char*>(attrs.int8s("weight", entries))
                : reinterpret_cast<const char*>(attrs.floats("weight", entries));
  if (starts[0] != 0 || starts[n] != entries) fail("sparse_linear: row_starts do not span the entries");
  for (int64_t row = 0; row < n; ++row) {
    if (starts[row + 1] < starts[row]) fail("sparse_linear: row_starts descend");
    for (int32_t i = starts[row]; i < starts[row + 1]; ++i)
      if (columns[i] < 0 || columns[i] >= k || (i > starts[row] && columns[i] <= columns[i - 1]))
        fail("sparse_linear: columns of a row do not ascend within 0..K - 1");
  }
}

namespace {

int64_t count(const SparseRows& rows, int64_t row) {
  return row < rows.n ? rows.starts[row + 1] - rows.starts[row] : 0;
}

// The rows of one unit while they are packed: row of each lane (n and beyond: none) and its cursor.
class Walk {
 public:
  Walk(const SparseRows& rows, const WindowForm& form, const int64_t* lanes)
      : rows_(rows), form_(form), at_(static_cast<size_t>(form.lanes * form.together)), end_(at_.size()) {
    for (size_t i = 0; i < at_.size(); ++i) {
      const bool there = lanes[i] < rows.n;
      at_[i] = there ? rows.starts[lanes[i]] : 0;
      end_[i] = there ? rows.starts[lanes[i] + 1] : 0;
    }
  }

  // The start of the next step, or -1. take(lane, slot, entry, start) is called for each entry served.
  template <class Take>
  int64_t step(Take take) {
    int64_t start = -1;
    for (size_t i = 0; i < at_.size(); ++i)
      if (at_[i] < end_[i] && (start < 0 || rows_.columns[at_[i]] < start)) start = rows_.columns[at_[i]];
    if (start < 0) return start;
    start = start / form_.align * form_.align;
    if (form_.readable) start = std::min(start, std::max<int64_t>(form_.readable - form_.window, 0));
    for (size_t i = 0; i < at_.size(); ++i)
      for (int slot = 0; slot < form_.slots && at_[i] < end_[i]; ++slot, ++at_[i]) {
        if (rows_.columns[at_[i]] >= start + form_.window) break;
        take(static_cast<int>(i), slot, at_[i], start);
      }
    return start;
  }

 private:
  const SparseRows& rows_;
  const WindowForm& form_;
  std::vector<int32_t> at_, end_;
};

// Row of each lane of each tile: as they are, or those with most entries first inside a tile.
std::vector<int64_t> places(const SparseRows& rows, const WindowForm& form) {
  const int64_t width = kTile * form.lanes, tiles = (rows.n + width - 1) / width;
  std::vector<int64_t> lanes(static_cast<size_t>(tiles * width));
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = static_cast<int64_t>(i);
  if (form.sorted)
    for (int64_t tile = 0; tile < tiles; ++tile)
      std::stable_sort(lanes.begin() + tile * width, lanes.begin() + (tile + 1) * width,
                       [&](int64_t a, int64_t b) { return count(rows, a) > count(rows, b); });
  return lanes;
}

// Pairs of each unit, summed up.
std::vector<int64_t> count_pairs(const SparseRows& rows, const WindowForm& form, const std::vector<int64_t>& lanes) {
  const size_t of_unit = static_cast<size_t>(form.lanes * form.together);
  const int64_t steps_of_pair = 2 / form.together;
  std::vector<int64_t> ends(lanes.size() / of_unit + 1);
  for (size_t u = 0; u + 1 < ends.size(); ++u) {
    Walk walk(rows, form, lanes.data() + u * of_unit);
    int64_t steps = 0;
    while (walk.step([](int, int, int32_t, int64_t) {}) >= 0) ++steps;
    ends[u + 1] = ends[u] + (steps + steps_of_pair - 1) / steps_of_pair;
  }
  return ends;
}

// The same with as many vectors in a unit as is cheaper.
std::vector<int64_t> cheapest(const SparseRows& rows, WindowForm& form, const std::vector<int64_t>& lanes) {
  std::vector<int64_t> shared = count_pairs(rows, form, lanes);
  if (form.together == 1) return shared;
  form.together = 1;
  std::vector<int64_t> alone = count_pairs(rows, form, lanes);
  // A pair in one window takes 2.5 ns, one of two steps 2.9 (1024 x 1024, Zen 4, 2026-11).
  if (alone.back() * 29 < shared.back() * 25) return alone;
  form.together = 2;
  return shared;
}

}  // namespace

int64_t count_windows(const SparseRows& rows, const WindowForm& asked) {
  WindowForm form = asked;
  return 2 * cheapest(rows, form, places(rows, form)).back();
}

Windows pack_windows(const StageSpec& spec, const SparseRows& rows, const WindowForm& asked) {
  if (!spec.packs()) return windows_there(spec, rows, asked);
  WindowForm form = asked;
  const std::vector<int64_t> lanes = places(rows, form), counted = cheapest(rows, form, lanes);
  const int64_t width = kTile * form.lanes, tiles = (rows.n + width - 1) / width;
  const int64_t units = tiles * kTile / form.together, of_unit = form.lanes * form.together;
  const int steps_of_pair = 2 / form.together;
  write_head(spec, {SparseHead::kWindows, form.together, counted.back()});
  int64_t* ends = packed<int64_t>(spec, counted.size());
  std::copy(counted.begin(), counted.end(), ends);
  uint8_t* from = nullptr;
  if (form.sorted) {
    from = packed<uint8_t>(spec, tiles * width);
    for (int64_t i = 0; i < tiles * width; ++i) from[lanes[static_cast<size_t>(i)]] = static_cast<uint8_t>(i % width);
  }
  const int64_t pairs = ends[units], params = int64_t{form.lanes} * form.slots, pair = 2 * params * (rows.size + 1);
  uint16_t* starts = packed<uint16_t>(spec, pairs * steps_of_pair);
  char* stream = packed<char>(spec, pairs * pair);
  for (int64_t u = 0; u < units; ++u) {
    Walk walk(rows, form, lanes.data() + u * of_unit);
    for (int64_t step = ends[u] * steps_of_pair; step < ends[u + 1] * steps_of_pair; ++step) {
      const auto put = [&](int in_unit, int slot, int32_t entry, int64_t first) {
        const int64_t lane = in_unit % form.lanes, half = form.together == 2 ? in_unit / form.lanes : step % 2;
        const int64_t place = (slot / form.group * form.lanes + lane) * form.group + slot % form.group;
        char *value = stream + step / steps_of_pair * pair, *index = value;
        if (rows.size == 1) {
          value += half * 2 * params + place;
          index = value + params;
        } else {
          value += (half * params + place) * rows.size;
          index += 2 * params * rows.size + (lane * 2 + half) * form.slots + slot;
        }
        std::memcpy(value, rows.values + int64_t{entry} * rows.size, static_cast<size_t>(rows.size));
        *index = static_cast<char>(rows.columns[entry] - first);
      };
      const int64_t start = walk.step(put);
      starts[step] = static_cast<uint16_t>(start < 0 ? 0 : start);  // the last of a pair may serve nothing
    }
  }
  return {stream, starts, form.together, ends, from};
}

}  // namespace rta
