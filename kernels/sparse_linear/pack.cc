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
  const int64_t entries = attrs.count("columns");
  starts = attrs.ints("row_starts", n + 1);
  columns = attrs.ints("columns", entries);
  const bool int8 = attrs.dtype("weight") == RTA_INT8;
  size = int8 ? 1 : 4;
  values = int8 ? reinterpret_cast<const char*>(attrs.int8s("weight", entries))
                : reinterpret_cast<const char*>(attrs.floats("weight", entries));
  if (k > 65536) fail("sparse_linear: K = %lld is over 65536", static_cast<long long>(k));
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

// The rows of one vector while they are packed: row of each lane (n and beyond: none) and its cursor.
class Walk {
 public:
  Walk(const SparseRows& rows, const WindowForm& form, const int64_t* lanes)
      : rows_(rows), form_(form), at_(static_cast<size_t>(form.lanes)), end_(at_.size()) {
    for (size_t i = 0; i < at_.size(); ++i) {
      const bool there = lanes[i] < rows.n;
      at_[i] = there ? rows.starts[lanes[i]] : 0;
      end_[i] = there ? rows.starts[lanes[i] + 1] : 0;
    }
  }

  // The start of the next step of so many slots, or -1. take(lane, slot, entry, start) is called for each entry served.
  template <class Take>
  int64_t step(int slots, Take take) {
    int64_t start = -1;
    for (size_t i = 0; i < at_.size(); ++i)
      if (at_[i] < end_[i] && (start < 0 || rows_.columns[at_[i]] < start)) start = rows_.columns[at_[i]];
    if (start < 0) return start;
    start = start / form_.align * form_.align;
    if (form_.readable) start = std::min(start, std::max<int64_t>(form_.readable - form_.window, 0));
    for (size_t i = 0; i < at_.size(); ++i)
      for (int slot = 0; slot < slots && at_[i] < end_[i]; ++slot, ++at_[i]) {
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
std::vector<int64_t> places(const SparseRows& rows, const WindowForm& form, int64_t tiles) {
  const int64_t width = kTile * form.lanes;
  std::vector<int64_t> lanes(static_cast<size_t>(tiles * width));
  for (size_t i = 0; i < lanes.size(); ++i) lanes[i] = static_cast<int64_t>(i);
  if (form.sorted)
    for (int64_t tile = 0; tile < tiles; ++tile)
      std::stable_sort(lanes.begin() + tile * width, lanes.begin() + (tile + 1) * width,
                       [&](int64_t a, int64_t b) { return count(rows, a) > count(rows, b); });
  return lanes;
}

// Steps of each vector, summed up; shared: of pairs that have one window.
std::vector<int64_t> count_steps(const SparseRows& rows, const WindowForm& form, const std::vector<int64_t>& lanes,
                                 bool shared) {
  std::vector<int64_t> ends(lanes.size() / static_cast<size_t>(form.lanes) + 1);
  for (size_t v = 0; v + 1 < ends.size(); ++v) {
    Walk walk(rows, form, lanes.data() + v * static_cast<size_t>(form.lanes));
    int64_t steps = 0;
    while (walk.step(shared ? 2 * form.slots : form.slots, [](int, int, int32_t, int64_t) {}) >= 0) ++steps;
    ends[v + 1] = ends[v] + (shared ? 2 * steps : (steps + 1) / 2 * 2);
  }
  return ends;
}

}  // namespace

Windows pack_windows(const SparseRows& rows, const WindowForm& form, Arena& arena) {
  const int64_t width = kTile * form.lanes, tiles = (rows.n + width - 1) / width, vectors = tiles * kTile;
  const std::vector<int64_t> lanes = places(rows, form, tiles);

  std::vector<int64_t> counted = count_steps(rows, form, lanes, false);
  bool shared = false;
  if (form.may_share) {
    // A step of a pair that shares its window takes 1.26 ns, another 1.45 (1024 x 1024, Zen 4, 2026-11).
    std::vector<int64_t> pairs = count_steps(rows, form, lanes, true);
    shared = pairs.back() * 15 < counted.back() * 17;
    if (shared) counted.swap(pairs);
  }
  int64_t* ends = static_cast<int64_t*>(arena.take(counted.size() * sizeof(int64_t)));
  std::copy(counted.begin(), counted.end(), ends);
  int32_t* from = nullptr;
  if (form.sorted) {
    from = static_cast<int32_t*>(arena.take(static_cast<size_t>(tiles * width) * sizeof(int32_t)));
    for (int64_t i = 0; i < tiles * width; ++i) from[lanes[static_cast<size_t>(i)]] = static_cast<int32_t>(i % width);
  }
  const int64_t steps = ends[vectors], numbers = int64_t{form.lanes} * form.slots, pair = 2 * numbers * (rows.size + 1);
  uint16_t* starts = static_cast<uint16_t*>(arena.take(static_cast<size_t>(steps) * sizeof(uint16_t)));
  char* stream = static_cast<char*>(arena.take(static_cast<size_t>(steps / 2 * pair)));
  for (int64_t v = 0; v < vectors; ++v) {
    Walk walk(rows, form, lanes.data() + v * form.lanes);
    for (int64_t at = ends[v]; at < ends[v + 1]; at += 2) {
      const auto put = [&](int lane, int slot, int32_t entry, int64_t first) {
        const int64_t odd = slot / form.slots, in_step = slot % form.slots;
        const int64_t place = (in_step / form.group * form.lanes + lane) * form.group + in_step % form.group;
        char *value = stream + at / 2 * pair, *index = value;
        if (rows.size == 1) {
          value += odd * 2 * numbers + place;
          index = value + numbers;
        } else {
          value += (odd * numbers + place) * rows.size;
          index += 2 * numbers * rows.size + (lane * 2 + odd) * form.slots + in_step;
        }
        std::memcpy(value, rows.values + int64_t{entry} * rows.size, static_cast<size_t>(rows.size));
        *index = static_cast<char>(rows.columns[entry] - first);
      };
      const auto second = [&](int lane, int slot, int32_t entry, int64_t first) {
        put(lane, slot + form.slots, entry, first);
      };
      const int64_t one = shared ? walk.step(2 * form.slots, put) : walk.step(form.slots, put);
      const int64_t two = shared ? one : walk.step(form.slots, second);
      starts[at] = static_cast<uint16_t>(one);
      starts[at + 1] = static_cast<uint16_t>(two < 0 ? 0 : two);  // the last of a pair may serve nothing
    }
  }
  return {stream, starts, ends, shared, from};
}

}  // namespace rta
