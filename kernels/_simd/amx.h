// Tile registers of AMX: eight matrices of up to 16 rows of 64 bytes. Tile numbers are template arguments, which the
// compiler's own macros do not take.
#pragma once

#include <cstdint>

namespace rta {
namespace {

constexpr int kTileRows = 16, kTileBytes = 64;

// The shape of every tile, as LDTILECFG reads it.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows) {
    row_bytes[tile] = kTileBytes;
    rows[tile] = static_cast<uint8_t>(tile_rows);
  }
};

// From here on tiles hold state that a context switch has to save, until release_tiles.
inline void load_shapes(const TileShapes& shapes) { asm volatile("ldtilecfg %0" : : "m"(shapes)); }
inline void release_tiles() { asm volatile("tilerelease"); }

template <int Tile>
inline void load_tile(const void* from, int64_t pitch) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(pitch), "i"(Tile) : "memory");
}
// The same for what is read once: it is not kept in the first-level cache.
template <int Tile>
inline void load_tile_once(const void* from, int64_t pitch) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(pitch), "i"(Tile) : "memory");
}
template <int Tile>
inline void store_tile(void* to, int64_t pitch) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(pitch), "i"(Tile) : "memory");
}

// Sums [m][n] += the products of u8 [m][k] and s8 [k / 4][n][k % 4], int32 without saturation.
template <int Sums, int X, int W>
inline void multiply_u8_s8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}

}  // namespace
}  // namespace rta
