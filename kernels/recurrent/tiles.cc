// Packing of the sparse tiles of recurrent layers.
#include "recurrent/weights/tiles.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace rta {
namespace {

bool is_zero(const char* at, int size) {
  if (size == 1) return *at == 0;
  float value;
  std::memcpy(&value, at, sizeof value);
  return value == 0.0f;
}

// The columns that each row has, ascending.
std::vector<std::vector<int32_t>> columns_of(const TileRows& tile) {
  std::vector<std::vector<int32_t>> found(static_cast<size_t>(tile.vectors * tile.lanes));
  for (size_t row = 0; row < found.size(); ++row)
    for (int64_t k = 0; tile.rows[row] && k < tile.k; ++k)
      if (!is_zero(tile.rows[row] + k * tile.size, tile.size)) found[row].push_back(static_cast<int32_t>(k));
  return found;
}

// Calls take(step, start, row, slot, column) for each entry, steps in order; the number of steps. A step begins at the
// lowest column that none before has served, rounded down.
template <class Take>
int64_t walk(const std::vector<std::vector<int32_t>>& columns, const TileWindowForm& form, Take take) {
  std::vector<size_t> at(columns.size());
  for (int64_t step = 0;; ++step) {
    int64_t start = -1;
    for (size_t row = 0; row < at.size(); ++row)
      if (at[row] < columns[row].size() && (start < 0 || columns[row][at[row]] < start)) start = columns[row][at[row]];
    if (start < 0) return step;
    start = start / form.align * form.align;
    if (form.readable) start = std::min(start, std::max<int64_t>(form.readable - form.window, 0));
    for (size_t row = 0; row < at.size(); ++row)
      for (int slot = 0; slot < form.slots && at[row] < columns[row].size(); ++slot, ++at[row]) {
        if (columns[row][at[row]] >= start + form.window) break;
        take(step, start, row, slot, columns[row][at[row]]);
      }
  }
}

std::vector<int32_t> groups_of(const TileRows& tile, int vector, int group) {
  std::vector<int32_t> found;
  for (int64_t k = 0; k < tile.k; k += group) {
    bool any = false;
    for (int lane = 0; lane < tile.lanes; ++lane) {
      const char* row = tile.rows[vector * tile.lanes + lane];
      for (int64_t i = k; row && i < std::min<int64_t>(k + group, tile.k); ++i)
        any |= !is_zero(row + i * tile.size, tile.size);
    }
    if (any) found.push_back(static_cast<int32_t>(k));
  }
  return found;
}

int64_t in_fours(size_t count) { return static_cast<int64_t>(count + 3) / 4 * 4; }

}  // namespace

int64_t count_tile_steps(const TileRows& tile, const TileWindowForm& form) {
  return walk(columns_of(tile), form, [](int64_t, int64_t, size_t, int, int32_t) {});
}

TileWindows pack_tile_windows(const TileRows& tile, const TileWindowForm& form, Arena& arena) {
  const auto columns = columns_of(tile);
  const bool pairs = tile.size != 1;
  int64_t steps = walk(columns, form, [](int64_t, int64_t, size_t, int, int32_t) {});
  if (pairs) steps += steps % 2;
  const int64_t params = int64_t{tile.lanes} * form.slots, step_bytes = tile.vectors * params * (tile.size + 1);
  uint16_t* starts = static_cast<uint16_t*>(arena.take(static_cast<size_t>(steps) * sizeof(uint16_t)));
  char* stream = static_cast<char*>(arena.take(static_cast<size_t>(steps * step_bytes)));
  walk(columns, form, [&](int64_t step, int64_t start, size_t row, int slot, int32_t column) {
    const int64_t vector = static_cast<int64_t>(row) / tile.lanes, lane = static_cast<int64_t>(row) % tile.lanes;
    char *value, *index;
    if (!pairs) {
      const int64_t place = (slot / form.group * tile.lanes + lane) * form.group + slot % form.group;
      value = stream + step * step_bytes + vector * 2 * params + place;
      index = value + params;
    } else {
      char* pair = stream + step / 2 * 2 * step_bytes + vector * 2 * params * (tile.size + 1);
      const int64_t of_pair = step % 2 * form.slots + slot;
      value = pair + (of_pair * tile.lanes + lane) * tile.size;
      index = pair + 2 * params * tile.size + lane * 2 * form.slots + of_pair;
    }
    std::memcpy(value, tile.rows[row] + int64_t{column} * tile.size, static_cast<size_t>(tile.size));
    *index = static_cast<char>(column - start);
    starts[step] = static_cast<uint16_t>(start);
  });
  return {stream, starts, steps};
}

int64_t count_tile_blocks(const TileRows& tile, int group) {
  int64_t groups = 0;
  for (int vector = 0; vector < tile.vectors; ++vector) groups += in_fours(groups_of(tile, vector, group).size());
  return groups;
}

TileBlocks pack_tile_blocks(const TileRows& tile, int group, Arena& arena) {
  const int64_t total = count_tile_blocks(tile, group), step = int64_t{tile.lanes} * group * tile.size;
  uint16_t* offsets = static_cast<uint16_t*>(arena.take(static_cast<size_t>(total) * sizeof(uint16_t)));
  char* stream = static_cast<char*>(arena.take(static_cast<size_t>(total * step)));
  TileBlocks packed{stream, offsets, {}};
  for (int vector = 0; vector < tile.vectors; ++vector) {
    int64_t at = packed.ends[vector];
    for (const int32_t first : groups_of(tile, vector, group)) {
      offsets[at] = static_cast<uint16_t>(first);
      for (int lane = 0; lane < tile.lanes; ++lane)
        if (const char* row = tile.rows[vector * tile.lanes + lane])
          std::memcpy(stream + at * step + lane * group * tile.size, row + int64_t{first} * tile.size,
                      static_cast<size_t>(std::min<int64_t>(group, tile.k - first) * tile.size));
      ++at;
    }
    packed.ends[vector + 1] =
        static_cast<int32_t>(packed.ends[vector] + in_fours(static_cast<size_t>(at - packed.ends[vector])));
  }
  return packed;
}

}  // namespace rta
