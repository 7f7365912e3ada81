// int8 convolutions with the tile registers of AMX. An operand of TDPBUSD is 16 rows of 64 bytes, a constant distance
// apart: 16 positions of a channels-last image are that, and each chunk of 64 bytes of what they read is one product.
//
// Positions are numbered row by row. With a stride of one and padding between the rows of the image they go on from one
// row to the next, so that a tile crosses rows, and sums between rows are thrown away; else each row has tiles of its
// own. The one with fewer tiles is taken. The last tile overlaps the one before it.
//
// What a position reads is cut into chunks: a row of the kernel where its positions lie side by side, else a tap, each
// filled up to 64 bytes. Whatever lies behind is multiplied by zero. Packed weights are
//     [column block of 2 vectors][chunk][vector][64 bytes / 4][16 outputs][4]
// A block is two tiles of positions by two vectors of outputs: each load serves two products. Its outputs are computed
// behind the products of the next one, as in linear/cpu_amx.cc.
//
// Floor: 16 clocks a TDPBUSD of 16,384 products, 18.6 where the data is not all zero; eight times the rate of VNNI.
// Other layers take the kernel of AVX-512 VNNI: those of few products or few channels, groups, streams, planes.
#include "_common/checks.h"
#include "_simd/amx.h"
#include "_simd/simd_avx512vnni.h"
#include "conv/epilogue.h"
#include "conv/padded_image.h"
#include "conv/share.h"

namespace rta {
namespace {

using S = Avx512Vnni;
constexpr int kLanes = S::kLanes;
constexpr int kBlockTiles = 2, kBlockVectors = 2, kBlockColumns = kBlockVectors * kLanes;

int64_t whole(int64_t count, int64_t of) { return (count + of - 1) / of; }

// How the positions of a layer are cut into tiles.
struct Tiling {
  bool crosses_rows;  // else each row has `per_row` tiles
  int64_t per_row, count;
  int64_t row;  // positions from one row of outputs to the next, where tiles cross rows

  // row: positions of the image from one row to the next.
  static Tiling of(const ConvGeometry& g, int64_t image_row) {
    Tiling t{};
    t.per_row = whole(g.out.x, kTileRows);
    t.count = g.out.y * t.per_row;
    t.row = g.stride.y * image_row / g.stride.x;
    const int64_t crossing = whole((g.out.y - 1) * t.row + g.out.x, kTileRows);
    t.crosses_rows = g.stride.y * image_row % g.stride.x == 0 && crossing < t.count;
    if (t.crosses_rows) t.count = crossing;
    return t;
  }
};

// Outputs that follow one another: rows [row, row + count) of a tile.
struct Piece {
  int32_t row, position, count;
};

class AmxConvStage final : public Stage {
 public:
  explicit AmxConvStage(const StageSpec& spec) : p_(read_layer(spec, 1, kLanes, S::kXOffset)) {
    const ConvGeometry& g = p_.at;
    lay_out_image();
    const bool joined = g.dilation.x == 1 && padded_image_.cell == p_.c;
    const int64_t length = (joined ? g.kernel.x : 1) * p_.c, each = whole(length, kTileBytes);
    const int64_t segments = joined ? g.kernel.y : g.taps;
    chunks_ = segments * each;
    vectors_ = whole(p_.n, kLanes);
    int32_t* delta = table(spec, chunks_);
    for (int64_t s = 0; s < segments; ++s) {
      const int64_t y = joined ? s : s / g.kernel.x, x = joined ? 0 : s % g.kernel.x;
      const int64_t at = g.tap_rows[y] * padded_image_.row + x * g.dilation.x * padded_image_.cell;
      for (int64_t i = 0; i < each; ++i) delta[s * each + i] = static_cast<int32_t>(at + i * kTileBytes);
    }
    delta_ = delta;
    place_tiles(spec);
    pack(spec, joined, segments, length);
    const int64_t past = kTileRows * pitch_ + kTileBytes;  // what the rows of a tile beyond the image read
    spec.need_scratch(direct_ ? 0 : static_cast<size_t>(padded_image_.bytes + past + 64));
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  // Threads share the tiles of a sample; the image is brought together before by one of them.
  int forks(int64_t samples, int threads, int64_t* saved_ns) const override {
    const int parts = share().parts(threads);
    *saved_ns += samples * share().saved_ns(parts);
    return parts;
  }
  int64_t cost_ns(int64_t samples) const override { return samples * share().cost_ns; }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* image = p_.x.row(run, s * p_.x.steps);
      float scale = 1.0f;
      if (!direct_) {
        scale = fill_padded_image<S>(p_, padded_image_, run.scratch, image, run.nan_marks + s);
        image = run.scratch;
      }
      const Target to{p_.y.row(run, s * p_.y.steps),
                      p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr, scale};
      share().over(run, [&](int64_t first, int64_t end) { tiles(image, to, first, end); });
    }
  }

 private:
  struct Target {
    char* y;
    const char* other;
    float scale;
  };

  static constexpr int64_t kTimesVnni = 8;  // the rate of products beside that of vectors

  PositionShare share() const {
    const int64_t products = p_.at.out_count * p_.at.taps * p_.c * p_.n;
    return {tiling_.count, kBlockTiles, products_ns<S>(products, true) / kTimesVnni};
  }

  // All outputs of some tiles, on a thread of its own: tile registers belong to a thread.
  void tiles(const char* image, const Target& to, int64_t begin, int64_t end) const {
    TileShapes shapes;
    for (int tile = 0; tile < 8; ++tile) shapes.set(tile, kTileRows);
    load_shapes(shapes);
    const char* w = weights_;
    for (int64_t first = 0; first < vectors_; first += kBlockVectors) {
      if (vectors_ - first > 1)
        columns<2>(image, w, first * kLanes, to, begin, end);
      else
        columns<1>(image, w, first * kLanes, to, begin, end);
      w += chunks_ * kBlockVectors * kTileRows * kTileBytes;
    }
    release_tiles();
  }

  // The input itself where nothing has to be padded or quantized, and where no tile reads beyond it.
  void lay_out_image() {
    const ConvGeometry& g = p_.at;
    const bool inside =
        g.padding.y == 0 && g.padding.x == 0 && g.reach.y <= g.in.y && g.reach.x <= g.in.x && !p_.flat && !p_.quantizes;
    const Tiling in_place = Tiling::of(g, g.in.x);
    const int64_t shortest = in_place.crosses_rows ? (g.out.y - 1) * in_place.row + g.out.x : g.out.x;
    direct_ = inside && p_.x_step % kTileBytes == 0 && shortest >= kTileRows;
    padded_image_.cell = direct_ ? p_.x_step : p_.c;
    const int64_t across = direct_ ? g.in.x : g.reach.x;
    padded_image_.row = across * padded_image_.cell;
    padded_image_.bytes = whole(g.reach.y * padded_image_.row, 64) * 64;
    if (padded_image_.bytes + g.in.y * padded_image_.row >= INT32_MAX) fail("conv: an image of 2 GiB");
    tiling_ = direct_ ? in_place : Tiling::of(g, across);
    pitch_ = g.stride.x * padded_image_.cell;
  }

  static int32_t* table(const StageSpec& spec, int64_t count) {
    return static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int32_t)));
  }

  // Where every tile starts in the image, and the outputs that it has and the one before it has not.
  void place_tiles(const StageSpec& spec) {
    const ConvGeometry& g = p_.at;
    const int64_t most = tiling_.crosses_rows ? tiling_.count + g.out.y : tiling_.count;
    int32_t* start = table(spec, tiling_.count);
    int32_t* end = table(spec, tiling_.count);
    Piece* piece = static_cast<Piece*>(spec.arena->take(static_cast<size_t>(most) * sizeof(Piece)));
    start_ = start;
    piece_end_ = end;
    pieces_ = piece;
    const int64_t all = (g.out.y - 1) * tiling_.row + g.out.x;
    for (int64_t t = 0, next = 0; t < tiling_.count; ++t) {
      // In numbers of positions: of the whole image where tiles cross rows, else of one row.
      const int64_t y = tiling_.crosses_rows ? 0 : t / tiling_.per_row;
      const int64_t length = tiling_.crosses_rows ? all : g.out.x;
      const int64_t fresh = (tiling_.crosses_rows ? t : t % tiling_.per_row) * kTileRows;
      const int64_t last = length - kTileRows > 0 ? length - kTileRows : 0, first = fresh < last ? fresh : last;
      start[t] = static_cast<int32_t>(g.out_rows[y] * padded_image_.row + first * pitch_);
      const int64_t past = first + kTileRows < length ? first + kTileRows : length;
      for (int64_t i = fresh; i < past;) {
        const int64_t row = tiling_.crosses_rows ? i / tiling_.row : y;
        const int64_t x = tiling_.crosses_rows ? i % tiling_.row : i;
        if (x >= g.out.x) {
          i += tiling_.row - x;
          continue;
        }
        const int64_t count = g.out.x - x < past - i ? g.out.x - x : past - i;
        piece[next++] = {static_cast<int32_t>(i - first), static_cast<int32_t>(row * g.out.x + x),
                         static_cast<int32_t>(count)};
        i += count;
      }
      end[t] = static_cast<int32_t>(next);
    }
  }

  void pack(const StageSpec& spec, bool joined, int64_t segments, int64_t length) {
    const int64_t blocks = whole(vectors_, kBlockVectors), each = chunks_ / segments;
    const int8_t* given = spec.attrs.int8s("weight", p_.n * p_.c * p_.at.taps);
    const int64_t block_bytes = chunks_ * kBlockVectors * kTileRows * kTileBytes;
    int8_t* to = static_cast<int8_t*>(spec.weights(static_cast<size_t>(blocks * block_bytes)));
    weights_ = reinterpret_cast<const char*>(to);
    if (!spec.packs()) return;
    for (int64_t n = 0; n < p_.n; ++n)
      for (int64_t s = 0; s < segments; ++s)
        for (int64_t e = 0; e < length; ++e) {
          const int64_t tap = joined ? s * p_.at.kernel.x + e / p_.c : s, channel = e % p_.c;
          const int64_t chunk = s * each + e / kTileBytes, inside = e % kTileBytes;
          const int64_t tile = (n / kBlockColumns * chunks_ + chunk) * kBlockVectors + n % kBlockColumns / kLanes;
          to[tile * kTileRows * kTileBytes + inside / S::kGroup * kTileBytes + n % kLanes * S::kGroup +
             inside % S::kGroup] = given[(n * p_.c + channel) * p_.at.taps + tap];
        }
  }

  // Tiles [begin, end) of positions for V vectors of outputs from `column` on.
  template <int V>
  void columns(const char* image, const char* w, int64_t column, const Target& to, int64_t begin, int64_t end) const {
    alignas(64) int32_t sums[kBlockTiles * kTileRows * V * kLanes];
    const int32_t* start = p_.start + column;
    int64_t waiting = -1, t = begin;  // the pair of tiles whose sums are there and its outputs are not
    for (; t + kBlockTiles <= end; t += kBlockTiles) {
      multiply<kBlockTiles, V>(image, t, w, start);
      if (waiting >= 0) outputs<kBlockTiles, V>(sums, waiting, column, to);
      store<kBlockTiles, V>(sums);
      waiting = t;
    }
    if (t < end) {
      multiply<1, V>(image, t, w, start);
      if (waiting >= 0) outputs<kBlockTiles, V>(sums, waiting, column, to);
      store<1, V>(sums);
      outputs<1, V>(sums, t, column, to);
    } else if (waiting >= 0) {
      outputs<kBlockTiles, V>(sums, waiting, column, to);
    }
  }

  // Tiles 0, 1 and 2, 3 hold sums of the first and the second positions, 4 and 5 what they read, 6 and 7 weights.
  template <int T, int V>
  inline void multiply(const char* image, int64_t tile, const char* w, const int32_t* start) const {
    load_tile<0>(start, 0);
    if constexpr (V > 1) load_tile<1>(start + kLanes, 0);
    if constexpr (T > 1) load_tile<2>(start, 0);
    if constexpr (T > 1 && V > 1) load_tile<3>(start + kLanes, 0);
    const char *upper = image + start_[tile], *lower = image + start_[T > 1 ? tile + 1 : tile];
    const int64_t pitch = pitch_;
    const int32_t* delta = delta_;
    for (int64_t left = chunks_; left > 0; --left, ++delta, w += kBlockVectors * kTileRows * kTileBytes) {
      const int64_t at = *delta;
      load_tile<4>(upper + at, pitch);
      load_tile<6>(w, kTileBytes);
      multiply_u8_s8<0, 4, 6>();
      if constexpr (T > 1) {
        load_tile<5>(lower + at, pitch);
        multiply_u8_s8<2, 5, 6>();
      }
      if constexpr (V > 1) {
        load_tile<7>(w + kTileRows * kTileBytes, kTileBytes);
        multiply_u8_s8<1, 4, 7>();
        if constexpr (T > 1) multiply_u8_s8<3, 5, 7>();
      }
    }
  }

  template <int T, int V>
  static inline void store(int32_t* sums) {
    constexpr int64_t kPitch = V * kLanes * sizeof(int32_t);
    int32_t* below = sums + kTileRows * V * kLanes;
    store_tile<0>(sums, kPitch);
    if constexpr (V > 1) store_tile<1>(sums + kLanes, kPitch);
    if constexpr (T > 1) store_tile<2>(below, kPitch);
    if constexpr (T > 1 && V > 1) store_tile<3>(below + kLanes, kPitch);
  }

  template <int T, int V>
  void outputs(const int32_t* sums, int64_t tile, int64_t column, const Target& to) const {
    int64_t piece = tile ? piece_end_[tile - 1] : 0;
    for (int i = 0; i < T; ++i, sums += kTileRows * V * kLanes)
      for (; piece < piece_end_[tile + i]; ++piece) {
        const Piece& now = pieces_[piece];
        const int32_t* from = sums + now.row * V * kLanes;
        int64_t row = 0;
        for (; row + 4 <= now.count; row += 4) some<4, V>(from + row * V * kLanes, now.position + row, column, to);
        for (; row < now.count; ++row) some<1, V>(from + row * V * kLanes, now.position + row, column, to);
      }
  }

  template <int R, int V>
  inline void some(const int32_t* from, int64_t position, int64_t column, const Target& to) const {
    S::I sum[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] = S::load_int(from + (r * V + v) * kLanes);
    const ConvTarget at{to.y + position * p_.y.pitch, to.other ? to.other + position * p_.other.pitch : nullptr, column,
                        p_.n - column, true};
    int8_outputs<S, R, V>(p_, sum, column, to.scale, at);
  }

  ConvLayer p_;
  PaddedImage padded_image_;
  Tiling tiling_;
  bool direct_;
  int64_t chunks_, vectors_, pitch_;
  const char* weights_;
  const int32_t *delta_, *start_, *piece_end_;
  const Piece* pieces_;
};

// Whether this kernel takes the layer, and is faster than that of AVX-512 VNNI.
bool suits_tiles(const StageSpec& spec) {
  const Attrs& a = spec.attrs;
  if (flag(a, "stream") || flag(a, "by_rows") || a.integer("groups") != 1) return false;
  if ((a.has("x_planes") && flag(a, "x_planes")) || (a.has("y_planes") && flag(a, "y_planes"))) return false;
  const ConvGeometry g = read_geometry(spec);
  if (g.in_steps || g.out_steps) return false;
  const int64_t n = a.count("offset"), c = n < 1 ? 0 : a.count("weight") / n / g.taps;
  if (c < 1) return false;
  const int64_t row = whole(g.kernel.x * c, kTileBytes), tap = g.kernel.x * whole(c, kTileBytes);
  const int64_t chunks = g.kernel.y * (g.dilation.x == 1 ? row : tap);
  return tiles_win(g.out_count, Tiling::of(g, g.reach.x).count, g.taps * c, chunks, whole(n, kLanes));
}

const char* reject(const Attrs& attrs) {
  if (attrs.has("ticks")) return "counts the calls of a stream itself";
  return attrs.text_is("weight_dtype", "int8") ? nullptr : "takes int8 weights";
}

Stage* create(const StageSpec& spec) {
  if (suits_tiles(spec)) return new AmxConvStage(spec);
  return below("conv")->create(spec);
}

// As a call, not as a Kernel built here: that would be code of this instruction set, which runs when the library loads.
void register_amx() { add_kernel(Isa::kAmx, "conv", "cpu", reject, create); }
const Register kConv(register_amx);

}  // namespace
}  // namespace rta
