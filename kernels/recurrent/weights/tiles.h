// Sparse weights of a recurrent tile: what one side of it is packed into. Compiled once, for any CPU.
//
// A side of a tile is `vectors` vectors of `lanes` rows each, a gate of the same units in every vector. Rows may be
// shorter than a tile's: lanes without a unit have none.
#pragma once

#include "_core/stage.h"

namespace rta {

struct TileRows {
  const char* const* rows;  // [vectors][lanes]: k numbers of `size` bytes each, or nullptr
  int vectors, lanes;
  int64_t k;
  int size;
};

// How windows over the row of x are read; see WindowForm of sparse_linear/pack.h. Here a step has one window for all
// vectors, so that it is loaded once for all gates.
struct TileWindowForm {
  int slots, group;
  int64_t window, align;
  int64_t readable;  // starts are at most readable - window (or 0); 0 where only columns of entries are read
};

// Steps of at most `slots` entries of each row. Their starts, and a stream of
//     int8     [step][vector]: values [slots / group][lane][group], indices the same
//     float32  [pair of steps][vector]: values [step][slot][lane], indices [lane][step][slot] in bytes
struct TileWindows {
  const char* stream;
  const uint16_t* starts;
  int64_t steps;
};

int64_t count_tile_steps(const TileRows& tile, const TileWindowForm& form);
TileWindows pack_tile_windows(const TileRows& tile, const TileWindowForm& form, Arena& arena);

// For each vector the groups of `group` neighboring columns in which any of its rows has a weight, filled up to a
// multiple of 4 with groups of zeros. Stream [vector][group of columns][lane][group].
struct TileBlocks {
  const char* stream;
  const uint16_t* offsets;  // columns
  int32_t ends[10];         // of vector v: groups ends[v] .. ends[v + 1] - 1
};

int64_t count_tile_blocks(const TileRows& tile, int group);
TileBlocks pack_tile_blocks(const TileRows& tile, int group, Arena& arena);

}  // namespace rta
