// Convolution on the CPU, written once over the vectors S of an instruction set.
//
// The sample is brought into a padded image (padded_image.h), so that every output reads its taps at the same
// distances: output position p, segment s, group g lie at base + offset[p] + delta[s] + g * kGroup numbers. A segment
// is what is contiguous there: a row of the kernel where the positions lie side by side and it is not dilated, else one
// tap; a column of the kernel over few channels, with the image column by column. Where nothing is padded or quantized,
// the input itself is the image. Weights are packed
//     [convolution group][tile of up to kTileVectors vectors of outputs][segment][g][vector][lane = output][kGroup]
// and up to 6 positions share each weight that was loaded, or 12 that lie evenly. The last block of positions overlaps
// the one before it. The tiles are in dense_tiles.h.
//
// In a stream the ring is the image, and delta is where the columns stand in this call.
//
// Floor: out steps * taps * C * N / groups products; from 6 positions on the multiply-adds are the bound, not the
// loads.
#pragma once

#include <cstring>
#include <vector>

#include "_common/checks.h"
#include "_common/long_sums.h"
#include "epilogue.h"
#include "kinds.h"
#include "padded_image.h"
#include "share.h"

namespace rta {

template <class S, template <class> class Kind>
class ConvStage final : public Stage {
  using K = Kind<S>;
  using F = typename S::F;

 public:
  explicit ConvStage(const StageSpec& spec)
      : p_(read_layer(spec, spec.attrs.integer("groups"), S::kLanes, offset_of_x())) {
    const ConvGeometry& g = p_.at;
    const int64_t whole = (p_.c * K::kElement + 63) / 64 * 64;
    const bool upright = stands_upright();
    padded_image_.upright = upright;
    direct_ = !K::kWide && !upright && !p_.stream && !p_.quantizes && !(p_.flat && p_.int8) && !g.in_steps &&
              g.padding.y == 0 && g.padding.x == 0 && g.reach.y <= g.in.y && g.reach.x <= g.in.x;
    const int64_t cell = p_.cell_channels() * K::kElement;
    padded_image_.cell = direct_ ? p_.x_step : p_.stream ? p_.ring.pitch : g.in_steps ? whole : cell;
    padded_image_.row = direct_ ? p_.x_row : g.reach.x * padded_image_.cell;
    padded_image_.plane = direct_ ? p_.x_plane : g.reach.y * padded_image_.row;
    padded_image_.bytes = (p_.planes() * g.reach.y * padded_image_.row + 63) / 64 * 64;
    if (padded_image_.bytes + p_.planes() * g.in.y * padded_image_.row >= INT32_MAX) fail("conv: an image of 2 GiB");
    if (upright) {
      padded_image_.row = cell;
      padded_image_.cell = g.reach.y * cell;
    }
    const bool joined =
        upright || (!p_.stream && (p_.groups == 1 || p_.x_planes) && g.dilation.x == 1 && padded_image_.cell == cell &&
                    (!direct_ || padded_image_.cell % 64 == 0 || K::kGroup == 1));
    // Planes are segments of their own, of a tap or of a row of taps.
    planes_ = p_.x_planes ? p_.c / p_.groups : 1;
    segments_ = upright ? 1 : planes_ * (joined ? g.kernel.y : g.taps);
    const int64_t length = (upright ? g.kernel.y : joined ? g.kernel.x : 1) * p_.c / p_.groups / planes_;
    per_segment_ = (length + K::kGroup - 1) / K::kGroup;
    const int64_t vectors = (p_.n / p_.groups + S::kLanes - 1) / S::kLanes;
    cuts_ = !K::kInt8 && g.out_count >= 4 * kRows &&
            segments_ * per_segment_ * (vectors < kTile ? vectors : kTile) * K::kStep > kFarBytes;
    pack(spec, joined, length);
    const int64_t each = K::kInt8 || p_.stream ? 1 : per_segment_ <= kShort ? per_segment_ : runs_of(per_segment_);
    const int64_t part = per_segment_ / each;
    int32_t* delta = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(segments_ * each) * 4));
    for (int64_t i = 0; i < segments_ * each; ++i) {
      const int64_t of = segments_ / planes_, s = i / each, plane = s / of, tap = s % of;
      const int64_t y = joined ? tap : tap / g.kernel.x, x = joined ? 0 : tap % g.kernel.x;
      delta[i] = static_cast<int32_t>(plane * padded_image_.plane + g.tap_rows[y] * padded_image_.row +
                                      x * g.dilation.x * padded_image_.cell + i % each * part * K::kElement);
    }
    delta_ = delta;
    segments_ *= each;
    per_segment_ /= each;
    int32_t* offset = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(g.out_count) * 4));
    for (int64_t i = 0; i < g.out_count; ++i) {
      const int64_t at = g.out_steps ? g.out_steps[i] : i;
      offset[i] = static_cast<int32_t>(g.out_rows[at / g.out.x] * padded_image_.row +
                                       at % g.out.x * g.stride.x * padded_image_.cell);
    }
    offset_ = offset;
    apart_ = g.stride.x * padded_image_.cell;
    if (!K::kInt8 && !direct_ && !upright && planes_ == 1 && per_segment_ > 1 && segments_ <= 64)
      mark_seen(spec, joined, each);
    mark_even(spec);
    const int64_t first = p_.stream ? segments_ * 4 : direct_ ? 0 : padded_image_.bytes + 64;
    sums_at_ = (first + 63) / 64 * 64;
    spec.need_scratch(static_cast<size_t>(cuts_ ? sums_at_ + kPartTiles * kRows * 4 * S::kLanes * 4 : first));
  }

  bool marks_samples() const override { return p_.marks_samples(); }

  bool updates(int in, int out) const override { return p_.updates(in, out); }
  void start(int id, char* state) const override { p_.start_ring(id, state); }

  // Threads share the positions of a sample; the image is brought together before by one of them.
  int forks(int64_t samples, int threads, int64_t* saved_ns) const override {
    const int parts = share().parts(threads);
    *saved_ns += samples * share().saved_ns(parts);
    return parts;
  }
  int64_t cost_ns(int64_t samples) const override { return samples * share().cost_ns; }

  void run(const Run& run) const override {
    for (int64_t s = 0; s < run.samples; ++s) {
      const char* x = p_.x.row(run, s * p_.x.steps);
      const char* image = run.scratch;
      const int32_t* delta = delta_;
      float scale = 1.0f;
      if (p_.stream) {
        int32_t* now = reinterpret_cast<int32_t*>(run.scratch);
        image = turn_ring<S>(p_, run, s, now);
        delta = now;
      } else if (direct_) {
        image = x;
      } else {
        scale = fill_padded_image<S, K::kWide>(p_, padded_image_, run.scratch, x, run.nan_marks + s);
      }
      char* y = p_.y.row(run, s * p_.y.steps);
      const char* other = p_.other.exists() ? p_.other.row(run, s * p_.other.steps) : nullptr;
      share().over(run, [&](int64_t first, int64_t end) {
        outputs(image, delta, scale, run.scratch + sums_at_, y, other, first, end);
      });
    }
  }

 private:
  static constexpr int kAccumulators = S::kRegisters * 3 / 4;
  static constexpr int kTile = K::kTileVectors;
  static constexpr int kRows = kAccumulators / kTile;  // 6 with 32 registers, 3 with 16 and tiles of 4 vectors
  // Of tiles with fewer vectors: as many as registers hold beside their x and a weight.
  static constexpr int rows_of(int vectors) {
    if (S::kRegisters == 32 || K::kInt8) return kRows;
    return vectors == 1 ? 6 : vectors == 2 ? 5 : 3;
  }
  static constexpr int kEven = 12;  // positions that lie evenly or not
  // Of these, as many as one tile takes; 0 where that has no use.
  static constexpr int even_rows_of(int vectors) {
    if (!kEvenTiles || vectors > 2) return 0;
    return vectors == 2 && S::kRegisters == 16 ? kEven / 2 : kEven;
  }
  static constexpr bool kEvenTiles = !K::kWide;
  static constexpr int64_t kShort = 8;  // numbers of a segment up to which each is one of its own: no loop inside

  // Of a kernel that is a column over few channels, taps lie side by side where the image does so column by column.
  bool stands_upright() const {
    const ConvGeometry& g = p_.at;
    bool next = g.kernel.x == 1 && g.kernel.y > 1;
    for (int64_t t = 0; next && t < g.kernel.y; ++t) next = g.tap_rows[t] == t;
    return next && p_.c <= PaddedImage::kUprightChannels && p_.groups == 1 && !p_.stream && !g.in_steps &&
           (!p_.x_planes || p_.c == 1);
  }

  // Which tiles of kEven positions, counted from the first position on, lie `apart_` one after the other.
  void mark_even(const StageSpec& spec) {
    const int64_t tiles = p_.at.out_count / kEven;
    bool* even = static_cast<bool*>(spec.arena->take(static_cast<size_t>(tiles + 1)));
    for (int64_t i = 0; i < tiles; ++i) {
      even[i] = !cuts_ && !seen_;
      for (int64_t r = i * kEven + 1; r < (i + 1) * kEven; ++r) even[i] &= offset_[r] - offset_[r - 1] == apart_;
    }
    even_ = even;
  }

  // Which segments of a position hold more than padding: of a kernel whose taps are far apart, few. Where that is
  // seldom so there is no table, and nobody looks. (Padding of int8 numbers is their zero point, which is not 0.)
  void mark_seen(const StageSpec& spec, bool joined, int64_t each) {
    const ConvGeometry& g = p_.at;
    std::vector<uint64_t> seen(static_cast<size_t>(g.out_count));
    int64_t all = 0;
    for (int64_t i = 0; i < g.out_count; ++i) {
      const int64_t at = g.out_steps ? g.out_steps[i] : i;
      for (int64_t t = 0; t < g.taps; ++t) {
        const int64_t y = g.out_rows[at / g.out.x] + g.tap_rows[t / g.kernel.x] - g.padding.y;
        const int64_t x = at % g.out.x * g.stride.x + t % g.kernel.x * g.dilation.x - g.padding.x;
        if (y < 0 || y >= g.in.y || x < 0 || x >= g.in.x) continue;
        const int64_t first = (joined ? t / g.kernel.x : t) * each;
        for (int64_t s = first; s < first + each; ++s) seen[i] |= uint64_t{1} << s;
      }
      all += __builtin_popcountll(seen[i]);
    }
    if (all > g.out_count * segments_ * 3 / 4) return;
    uint64_t* kept = static_cast<uint64_t*>(spec.arena->take(seen.size() * 8));
    std::memcpy(kept, seen.data(), seen.size() * 8);
    seen_ = kept;
  }

  // Parts of equal length into which a segment is cut so that each is about a run of sums (_common/long_sums.h).
  static int64_t runs_of(int64_t length) {
    for (int64_t parts = (length + kSumRun - 1) / kSumRun; parts <= length / (kSumRun / 4); ++parts)
      if (length % parts == 0) return parts;
    return 1;
  }

  static int32_t offset_of_x() {
    if constexpr (K::kInt8) return S::kXOffset;
    return 0;
  }

  // Weights of one tile beyond this would come from a third-level cache again for every few positions. Then the sum is
  // cut into parts of which the weights stay near, and each part is taken for many positions before the next one.
  static constexpr int64_t kFarBytes = S::kLanes * (64 << 10), kPartBytes = 128 << 10, kPartTiles = 64;

  // Segments [from, to), of each the groups [first, last). next: weights behind those of the part, which are fetched
  // while it is taken for more than one tile of positions: `vectors` of them for each group.
  struct Part {
    int64_t from, to, first, last;
    const char* next;
    int vectors;

    // The share of one tile of many: together they fetch the V vectors of each group of the next part.
    template <int V>
    Part of_tile(int64_t tile, int64_t tiles) const {
      Part own = *this;
      own.vectors = tiles >= V ? 1 : 2;
      const bool fetches = next && tiles > 1 && tile * own.vectors < V;
      own.next = fetches ? next + tile * own.vectors * (to - from) * (last - first) * K::kStep : nullptr;
      return own;
    }
  };

  // Sums that are cut into parts have one memory for them, so their positions are not shared.
  PositionShare share() const {
    const int64_t products = p_.at.out_count * p_.at.taps * (p_.c / p_.groups) * p_.n;
    constexpr int64_t kSmall = std::lcm(std::lcm(rows_of(1), rows_of(2)), std::lcm(rows_of(3), rows_of(4)));
    constexpr int64_t kStep = std::lcm(kSmall, kEvenTiles ? kEven : 1);
    return {p_.at.out_count, cuts_ ? p_.at.out_count : kStep, products_ns<S>(products, K::kInt8)};
  }

  struct Block {
    const char *image, *w;
    const int32_t* delta;
    int64_t params;  // where multiplier and offset of this tile start
    float scale;
    float* sums;  // of a part, where there are parts
  };

  void outputs(const char* image, const int32_t* delta, float scale, char* sums, char* y, const char* other,
               int64_t begin, int64_t end) const {
    const int64_t per_group = p_.n / p_.groups, vectors = (per_group + S::kLanes - 1) / S::kLanes;
    const char* w = weights_;
    for (int64_t group = 0; group < p_.groups; ++group)
      for (int64_t first = 0; first < vectors; first += kTile) {
        const int now = static_cast<int>(vectors - first < kTile ? vectors - first : kTile);
        const Block block{image + group * (p_.c / p_.groups) * (p_.x_planes ? padded_image_.plane : K::kElement),
                          w,
                          delta,
                          (group * vectors + first) * S::kLanes,
                          scale,
                          reinterpret_cast<float*>(sums)};
        const ConvTarget at{y, other, group * per_group + first * S::kLanes, per_group - first * S::kLanes,
                            p_.groups == 1};
        switch (now) {
          case 1: positions<1>(block, at, begin, end); break;
          case 2: positions<2>(block, at, begin, end); break;
          case 3: positions<3 < kTile ? 3 : kTile>(block, at, begin, end); break;
          default: positions<kTile>(block, at, begin, end);
        }
        w += segments_ * per_segment_ * now * K::kStep;
      }
  }

  template <int V>
  void positions(const Block& b, const ConvTarget& at, int64_t begin, int64_t last_end) const {
    const int64_t count = p_.at.out_count, kRows = rows_of(V);
    if (!cuts_) return positions<V>(b, at, {0, segments_, 0, per_segment_, nullptr, 0}, begin, last_end, nullptr);
    const int64_t most = kPartBytes / (V * K::kStep), whole = most / per_segment_;  // groups; segments
    const int64_t chunks = (count + kPartTiles * kRows - 1) / (kPartTiles * kRows);
    const int64_t each = ((count + chunks - 1) / chunks + kRows - 1) / kRows * kRows;
    for (int64_t i = 0; i < count; i += each) {
      const int64_t end = i + each < count ? i + each : count;
      for (int64_t s = 0, to; s < segments_; s = to) {
        to = whole == 0 ? s + 1 : s + whole < segments_ ? s + whole : segments_;
        for (int64_t g = 0, last; g < per_segment_; g = last) {
          last = whole || g + most > per_segment_ ? per_segment_ : g + most;
          const char* next = b.w + ((to - 1) * per_segment_ + last) * V * K::kStep;
          positions<V>(b, at, {s, to, g, last, next, 0}, i, end, b.sums);
        }
      }
    }
  }

  template <int V>
  void positions(const Block& b, const ConvTarget& at, const Part& part, int64_t i, int64_t end, float* sums) const {
    constexpr int kRows = rows_of(V);
    const int64_t count = p_.at.out_count, tiles = (end - i) / kRows;
    int64_t tile_of = 0;
    while (i + kRows <= end) {
      if constexpr (even_rows_of(V) > 0)
        if (i % kEven == 0 && i + kEven <= end && even_[i / kEven]) {
          for (int64_t end_of = i + kEven; i < end_of; i += even_rows_of(V)) even_tile<even_rows_of(V), V>(b, at, i);
          continue;
        }
      tile<kRows, V>(b, at, i, part.template of_tile<V>(tile_of++, tiles), sums);
      if (sums) sums += kRows * V * S::kLanes;
      i += kRows;
    }
    const int64_t left = end - i;
    if (left == 0) return;
    const Part rest = part.template of_tile<V>(0, 1);
    if (left == 1) return tile<1, V>(b, at, i, rest, sums);
    if (left == 2) return tile<2, V>(b, at, i, rest, sums);
    if constexpr (kRows > 3) {
      if (left == 3) return tile<3, V>(b, at, i, rest, sums);
      if constexpr (!K::kInt8)
        if (left == 4) return tile<4, V>(b, at, i, rest, sums);
      if (count >= kRows) return tile<kRows, V>(b, at, count - kRows, rest, sums);
      tile<3, V>(b, at, i, rest, sums);
      tile<3, V>(b, at, count - 3, rest, sums);
    }
  }

  // dense_tiles.h
  template <int R, int V>
  void tile(const Block& b, const ConvTarget& to, int64_t position, const Part& part, float* sums) const;
  template <int R, int V>
  void even_tile(const Block& b, const ConvTarget& to, int64_t position) const;
  template <int R, int V>
  void finish(typename K::Sum (&acc)[R][V], const Block& b, const ConvTarget& to, int64_t position) const;

  void pack(const StageSpec& spec, bool joined, int64_t length) {
    const int64_t channels = p_.c / p_.groups, taps = p_.at.taps, width = p_.at.kernel.x, per_group = p_.n / p_.groups;
    const int64_t vectors = (per_group + S::kLanes - 1) / S::kLanes;
    using Weight = typename K::Weight;
    const Weight* given = K::weights(spec.attrs, p_.n * channels * taps);
    const int64_t bytes = p_.groups * segments_ * per_segment_ * vectors * K::kStep;
    Weight* to = static_cast<Weight*>(spec.weights(static_cast<size_t>(bytes)));
    weights_ = reinterpret_cast<const char*>(to);
    for (int64_t group = 0; spec.packs() && group < p_.groups; ++group)
      for (int64_t first = 0; first < vectors; first += kTile) {
        const int64_t columns = (vectors - first < kTile ? vectors - first : kTile) * S::kLanes;
        for (int64_t s = 0; s < segments_; ++s)
          for (int64_t g = 0; g < per_segment_; ++g)
            for (int64_t column = first * S::kLanes; column < first * S::kLanes + columns; ++column)
              for (int64_t e = g * K::kGroup; e < (g + 1) * K::kGroup; ++e, ++to) {
                if (e >= length || column >= per_group) continue;
                const int64_t of = segments_ / planes_, each = channels / planes_;
                const int64_t tap = joined ? s % of * width + e / each : s % of;
                const int64_t channel = s / of + (joined ? e % each : e);
                *to = given[((group * per_group + column) * channels + channel) * taps + tap];
              }
      }
  }

  ConvLayer p_;
  PaddedImage padded_image_;
  bool direct_, cuts_;
  int64_t planes_, segments_, per_segment_, sums_at_;
  const char* weights_;
  const int32_t *delta_, *offset_;
  int64_t apart_;  // bytes from a position to the next one of its row
  const bool* even_;
  const uint64_t* seen_ = nullptr;
};

}  // namespace rta

#include "dense_tiles.h"
