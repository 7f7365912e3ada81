// Tile registers of AMX: eight matrices of up to 16 rows of 64 bytes. Tile numbers are template arguments, which the
// compiler's own macros do not take.
#pragma once

#include <cstdint>

#include "_core/stage.h"

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
template <int Tile>
inline void store_tile(void* to, int64_t pitch) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(pitch), "i"(Tile) : "memory");
}

// Sums [m][n] += the products of u8 [m][k] and s8 [k / 4][n][k % 4], int32 without saturation.
template <int Sums, int X, int W>
inline void multiply_u8_s8() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(X), "i"(W));
}

// The kernel that takes what tiles do not.
inline const Kernel* below(const char* op) {
  const Kernel* kernel = find_kernel(op, "cpu_avx512vnni");
  if (!kernel) fail("%s: this build has no kernel of avx512vnni, which layers without tiles take", op);
  return kernel;
}

// Whether tiles are faster than AVX-512 VNNI: `outputs` rows of sums over k numbers, in `tiles` tiles of 16 rows and
// `chunks` of 64 bytes, for `vectors` vectors of 16 outputs. A virtual core shares its tile unit with whatever runs
// beside it: a product was measured to take 34 clocks alone and 117 beside others, where vectors take 1 to 1.6 times
// their own (Xeon with AMX, 2026-11). 60 is where tiles seldom lose much.
inline bool tiles_win(int64_t outputs, int64_t tiles, int64_t k, int64_t chunks, int64_t vectors) {
  constexpr int64_t kStart = 400, kProduct = 60, kTileOutput = 10, kVectorOutput = 5, kProductsPerClock = 5;
  const int64_t by_tiles = tiles * chunks * kProduct + outputs * kTileOutput;
  return vectors * by_tiles + kStart < vectors * outputs * (k / kProductsPerClock + kVectorOutput);
}

}  // namespace
}  // namespace rta
