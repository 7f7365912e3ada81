// A whole LSTM or GRU as one stage, over the vectors S, a cell and a format of weights.
//
// Weights are packed by tiles of one vector of units: all gates of h, then all gates of x, then the biases, so that one
// pass over a layer's stream ends with everything that 16 units need in registers, and their new state is made there.
// The h that the products read lies in two rows, as a later tile still needs the old h of all units.
//
// Windows: the x part of up to 32 rows (time steps times streams) is computed first, rows sharing each weight that was
// loaded; then the time steps one by one. Streams share weights too.
//
// Floor of a time step, batch 1: the bytes of all weights at the bandwidth of the cache that holds them.
#pragma once

#include "_common/checks.h"
#include "_system/thread_pool.h"
#include "recurrent/cells.h"
#include "recurrent/rows.h"
#include "recurrent/weights/dots.h"
#include "recurrent/weights/int4.h"

namespace rta {

template <class S, class Cell, class Dot>
class RecurrentStage final : public Stage {
 public:
  explicit RecurrentStage(const StageSpec& spec);

  bool marks_samples() const override { return Dot::kQuantized && int8_out_; }
  bool updates(int in, int out) const override { return out > 0 && in == out + shape_.lengths; }  // states
  bool refuses() const override { return shape_.lengths; }
  const char* refusal() const override { return shape_.lengths ? lengths_.refusal(shape_.time) : nullptr; }

  // A time step of a layer is a piece, and so is the x part of a chunk of them: threads take their units.
  int forks(int64_t samples, int threads, int64_t* saved_ns) const override {
    int most = 1;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      const int64_t cost = piece_ns(layer, samples * shape_.batch);
      const int parts = parts_of(layer, samples * shape_.batch, threads);
      if (parts == 1) continue;
      most = parts > most ? parts : most;
      *saved_ns += (cost - cost / parts - Pool::kHandOverNs) * shape_.time * shape_.directions;
    }
    return most;
  }
  int64_t samples_together() const override { return shape_.samples_together; }
  int64_t cost_ns(int64_t samples) const override {
    int64_t cost = 0;
    for (int64_t layer = 0; layer < shape_.layers; ++layer) cost += piece_ns(layer, samples * shape_.batch);
    return cost * shape_.time * shape_.directions;
  }

  void run(const Run& run) const override {
    const Memory memory(*this, run);
    const int64_t streams = run.samples * shape_.batch;
    if (memory.counts) lengths_.read(run, streams, shape_.time, memory.counts);
    Sequence x = prepared(first_input(run, memory, streams), memory, streams, shape_.inputs);
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      char* to = memory.sequence[layer % 2];
      for (int64_t direction = 0; direction < shape_.directions; ++direction)
        one_direction({run, memory, streams, layer, direction}, x, to);
      if (layer + 1 < shape_.layers)
        x = prepared({to, nullptr, nullptr, streams * sequence_pitch_, sequence_pitch_}, memory, streams,
                     shape_.width(layer + 1));
    }
    if constexpr (Dot::kPropagatesNan) propagate_nan(run, memory, streams);
  }

 private:
  using F = typename S::F;
  using Element = typename Dot::Element;
  static constexpr int G = Cell::kGates;
  static constexpr int V = Dot::kVectors;
  static constexpr int kRows = Dot::kRows;
  static constexpr int kUnits = Dot::kBlocks * S::kLanes;  // of a tile
  static constexpr int64_t kBias = 4 * kUnits * static_cast<int64_t>(sizeof(float));

  // Rows by time step and stream: base + table[stream] * pitch (or stream * pitch) + time step * step.
  struct Sequence {
    char* base;
    const int64_t* table;
    const float* scales;  // [time step][stream]
    int64_t step, pitch;
    const char* row(int64_t t, int64_t n) const { return base + t * step + (table ? table[n] : n) * pitch; }
  };

  struct Memory {  // the scratch of a run
    char *h[2], *sequence[2], *quantized, *prepared_h, *prepared_x;
    float *carried, *scales, *x_part;
    int32_t* bad;
    int64_t* counts;  // time steps of each stream; nullptr where all have as many
    Memory(const RecurrentStage& stage, const Run& run) {
      const auto at = [&](int i) { return run.scratch + stage.places_[i]; };
      h[0] = at(0);
      h[1] = at(1);
      sequence[0] = at(2);
      sequence[1] = at(3);
      quantized = at(4);
      carried = reinterpret_cast<float*>(at(5));
      scales = reinterpret_cast<float*>(at(6));
      x_part = reinterpret_cast<float*>(at(7));
      bad = reinterpret_cast<int32_t*>(at(8));
      counts = stage.shape_.lengths ? reinterpret_cast<int64_t*>(at(11)) : nullptr;
      prepared_h = at(9);
      prepared_x = at(10);
    }
  };

  struct Pass {  // one direction of one layer
    const Run& run;
    const Memory& memory;
    int64_t streams, layer, direction;
  };

  bool is_read(const Memory& memory, int64_t t, int64_t n) const { return !memory.counts || t < memory.counts[n]; }

  // What a stream reads and writes in one time step; nullptr where it does not.
  struct Row {
    const char *h, *x;
    const float *scale, *x_part, *old_carried;
    float *carried, *last_h;
    Element *h_next, *sequence;
    char* y;
  };

  static constexpr int64_t kLine = 64 / kUnits > 1 ? 64 / kUnits : 1;  // tiles whose int8 h fills a cache line

  // Of a time step of a layer, low: its weights out of a second-level cache (plan_threads.cc), or its multiply-adds at
  // the peak of the set at 4 GHz.
  int64_t piece_ns(int64_t layer, int64_t streams) const {
    constexpr int64_t kPerNs = 8 * S::kLanes * (Dot::kQuantized ? S::kGroup : 1);
    const int64_t k = shape_.width(layer), sums = streams * G * shape_.hidden * (shape_.hidden + k) / kPerNs;
    const int64_t bytes = static_cast<int64_t>(dot_.side_bytes(shape_.hidden) + dot_.side_bytes(k)) * tiles() / 190;
    return sums > bytes ? sums : bytes;
  }
  int parts_of(int64_t layer, int64_t streams, int threads) const {
    int64_t parts = piece_ns(layer, streams) / Pool::kPartNs;
    const int64_t lines = (tiles() + kLine - 1) / kLine;
    if (parts > threads) parts = threads;
    if (parts > lines) parts = lines;
    return parts > 1 ? static_cast<int>(parts) : 1;
  }
  // Calls piece(first unit, end) for the units of each part, on the threads of the run where it has some.
  template <class Piece>
  void fork(const Pass& pass, const Piece& piece) const {
    if constexpr (!RTA_WANTS_THREADS) return piece(int64_t{0}, shape_.hidden);
    const int parts = pass.run.pool ? parts_of(pass.layer, pass.streams, pass.run.forks) : 1;
    if (parts == 1) return piece(int64_t{0}, shape_.hidden);
    struct Job {
      const Piece& piece;
      int64_t units, hidden;
    };
    const int64_t lines = (tiles() + kLine - 1) / kLine;
    const Job job{piece, (lines + parts - 1) / parts * kLine * kUnits, shape_.hidden};
    pass.run.pool->run(
        [](const void* context, int part) {
          const Job& own = *static_cast<const Job*>(context);
          const int64_t first = part * own.units, end = first + own.units;
          if (first < own.hidden) own.piece(first, end < own.hidden ? end : own.hidden);
        },
        &job, parts);
  }

  static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
  int64_t tiles() const { return (shape_.hidden + kUnits - 1) / kUnits; }

  // The same rows as the sums read them, where that is another form.
  Sequence prepared(const Sequence& x, const Memory& memory, int64_t streams, int64_t k) const {
    if constexpr (Dot::kPrepared) {
      const int64_t pitch = dot_.prepared_bytes(k);
      for (int64_t t = 0; t < shape_.time; ++t)
        for (int64_t n = 0; n < streams; ++n)
          dot_.prepare(x.row(t, n), k, memory.prepared_x + (t * streams + n) * pitch);
      return {memory.prepared_x, nullptr, x.scales, streams * pitch, pitch};
    }
    return x;
  }

  Sequence first_input(const Run& run, const Memory& memory, int64_t streams) const;
  void begin(const Pass& pass, char* h) const;
  void one_direction(const Pass& pass, const Sequence& x, char* to) const;
  void x_part(const Pass& pass, const Sequence& x, int64_t first, int64_t count) const;
  void x_units(const char* w, size_t bytes, int64_t k, const char* const* rows, int64_t many, const float* scales,
               float* part, int64_t first, int64_t end) const;
  void time_step(const Pass& pass, const Row* rows) const;
  void behind(const Pass& pass, char* to, int64_t t, int64_t n) const;
  void propagate_nan(const Run& run, const Memory& memory, int64_t streams) const;

  // The x part of R rows, tile by tile of one stream of weights.
  template <int R>
  inline void x_tile(const char* w, int64_t k, const char* const* rows, const float* scales, float* to) const {
    const char* in[R];
    F t[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) in[r] = rows[r];
    dot_.template sums<R>(w, in, scales, k, t);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) S::store(to + r * part_pitch_ + v * S::kLanes, t[r][v]);
  }

  // One tile of R streams: sums, cell, and the new state.
  template <int R, bool Fused>
  inline void tile(const char* w, int64_t k, const Row* rows, int64_t unit) const {
    F h[R][V], x[R][V];
    const char* in[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) in[r] = rows[r].h;
    w = dot_.template sums<R>(w, in, nullptr, shape_.hidden, h);
    if constexpr (Fused) {
      float scales[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        in[r] = rows[r].x;
        scales[r] = rows[0].scale ? *rows[r].scale : 1.0f;
      }
      w = dot_.template sums<R>(w, in, rows[0].scale ? scales : nullptr, k, x);
    } else {
      w += dot_.side_bytes(k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) x[r][v] = S::load(rows[r].x_part + unit * G + v * S::kLanes);
    }
#pragma GCC unroll 2
    for (int block = 0; block < Dot::kBlocks; ++block) {
      if (block && unit + block * S::kLanes >= shape_.hidden) return;
      F bias[4];
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) bias[i] = S::load(reinterpret_cast<const float*>(w) + (block * 4 + i) * S::kLanes);
      const int64_t at = unit + block * S::kLanes;
      int r = 0;
      for (; r + 2 <= R; r += 2) two_epilogues(rows + r, x + r, h + r, bias, block, at);
      for (; r < R; ++r) {
        F own_x[G], own_h[G];
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g)
          own_x[g] = x[r][g * Dot::kBlocks + block], own_h[g] = h[r][g * Dot::kBlocks + block];
        F carried = load_carried(rows[r], at);
        const F now = cell<Cell>(own_x, own_h, bias, carried);
        epilogue(rows[r], now, carried, at);
      }
    }
  }

  template <class C, class T>
  static inline T cell(const T (&x)[G], const T (&h)[G], const T (&bias)[4], T& carried) {
    if constexpr (Dot::kQuantized)
      return C::quantized(x, h, bias, carried);
    else
      return C::exact(x, h, bias, carried);
  }

  // The cell of two streams: a processor waits for one's divisions with the other's.
  inline void two_epilogues(const Row* rows, const F (*x)[V], const F (*h)[V], const F (&bias)[4], int block,
                            int64_t unit) const {
    using Two = typename Pair<S>::F;
    Two own_x[G], own_h[G], both[4], carried{load_carried(rows[0], unit), load_carried(rows[1], unit)};
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) {
      const int v = g * Dot::kBlocks + block;
      own_x[g] = {x[0][v], x[1][v]}, own_h[g] = {h[0][v], h[1][v]};
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) both[i] = {bias[i], bias[i]};
    const Two now = cell<typename Cell::Paired>(own_x, own_h, both, carried);
    epilogue(rows[0], now.a, carried.a, unit);
    epilogue(rows[1], now.b, carried.b, unit);
  }

  inline F load_carried(const Row& row, int64_t unit) const {
    const int64_t left = shape_.hidden - unit;
    return left >= S::kLanes ? S::load(row.old_carried + unit)
                             : S::load_n(row.old_carried + unit, static_cast<int>(left));
  }

  inline void epilogue(const Row& row, F now, F carried, int64_t unit) const {
    const int64_t left = shape_.hidden - unit;
    const bool whole = left >= S::kLanes;
    const int lanes = static_cast<int>(left);
    const auto put = [&](float* to, F v) __attribute__((always_inline)) {
      if (whole)
        S::store(to + unit, v);
      else
        S::store_n(to + unit, v, lanes);
    };
    put(row.carried, carried);
    if (row.last_h) put(row.last_h, now);
    if constexpr (Dot::kQuantized) {
      if (row.h_next || row.sequence) {
        const auto q = S::add_int(S::to_int(S::mul(now, S::set(h_inv_scale_))), S::set_int(128));
        if (row.h_next) S::store_u8(row.h_next + unit, q);
        if (row.sequence) S::store_u8(row.sequence + unit, q);
      }
      if (row.y && int8_out_) {
        const auto q = S::to_int(S::mul(now, S::set(y_inv_scale_)));
        S::store_u8(reinterpret_cast<uint8_t*>(row.y) + unit, S::add_int(q, S::set_int(y_zero_)));
        return;
      }
    } else {
      if (row.h_next) S::store(row.h_next + unit, now);
      if (row.sequence) S::store(row.sequence + unit, now);
    }
    if (row.y) put(reinterpret_cast<float*>(row.y), now);
  }

  template <bool Fused>
  void all_tiles(const Pass& pass, const char* w, int64_t k, size_t tile_bytes, const Row* rows, int64_t first,
                 int64_t end) const {
    w += first / kUnits * static_cast<int64_t>(tile_bytes);
    for (int64_t unit = first; unit < end; unit += kUnits, w += tile_bytes) {
      int64_t n = 0;
      if constexpr (RTA_MOST_ROWS >= kRows)
        for (; n + kRows <= pass.streams; n += kRows) tile<kRows, Fused>(w, k, rows + n, unit);
      if constexpr (kRows == 4 && RTA_MOST_ROWS >= 2)
        if (n + 2 <= pass.streams) tile<2, Fused>(w, k, rows + n, unit), n += 2;
      if (n < pass.streams) tile<1, Fused>(w, k, rows + n, unit);
    }
  }

  RecurrentShape shape_;
  Dot dot_;
  GraphIO x_, y_, before_[2], after_[2];  // states: h, and c of an LSTM
  RecurrentLengths lengths_;
  const char** weights_;                 // [layer][direction]
  bool dynamic_, own_input_, int8_out_;  // own: x is float32 and quantized here
  float x_inv_scale_, h_inv_scale_, y_inv_scale_;
  int32_t x_zero_, y_zero_;  // zero point + 128
  int64_t h_pitch_, carried_pitch_, sequence_pitch_, quantized_pitch_, part_pitch_, chunk_;
  size_t places_[12];
  const float* zeros_;
};

}  // namespace rta

#include "recurrent/make.h"
#include "recurrent/run.h"
