// How a recurrent stage goes through layers, directions and time steps: the rest of stage.h, which includes it.
#pragma once

#include "recurrent/stage.h"

namespace rta {

// x as the sums of the first layer read it.
template <class S, class Cell, class Dot>
typename RecurrentStage<S, Cell, Dot>::Sequence RecurrentStage<S, Cell, Dot>::first_input(const Run& run,
                                                                                          const Memory& memory,
                                                                                          int64_t streams) const {
  if constexpr (Dot::kPropagatesNan)
    for (int64_t n = 0; n < streams; ++n) memory.bad[n] = 0;
  if constexpr (Dot::kPropagatesNan && !Dot::kQuantized)
    for (int64_t t = 0; t < shape_.time; ++t)
      for (int64_t n = 0; n < streams; ++n) {
        const char* x = x_.row(run, shape_.x_row[n] + t * shape_.x_step);
        memory.bad[n] |= is_read(memory, t, n) && !all_finite<S>(reinterpret_cast<const float*>(x), shape_.inputs);
      }
  if (!own_input_) return {x_.row(run, 0), shape_.x_row, nullptr, shape_.x_step * x_.pitch, x_.pitch};
  for (int64_t t = 0; t < shape_.time; ++t)
    for (int64_t n = 0; n < streams; ++n) {
      const float* x = reinterpret_cast<const float*>(x_.row(run, shape_.x_row[n] + t * shape_.x_step));
      const int64_t row = t * streams + n;
      uint8_t* q = reinterpret_cast<uint8_t*>(memory.quantized + row * quantized_pitch_);
      const bool finite = dynamic_ ? quantize_dynamic<S>(x, shape_.inputs, q, memory.scales + row)
                                   : quantize_static<S>(x, shape_.inputs, q, x_inv_scale_, x_zero_);
      memory.bad[n] |= is_read(memory, t, n) && !finite;
    }
  return {memory.quantized, nullptr, dynamic_ ? memory.scales : nullptr, streams * quantized_pitch_, quantized_pitch_};
}

// h of the time step before the first, as the products read it.
template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::begin(const Pass& pass, char* h) const {
  const int64_t first = (pass.layer * shape_.directions + pass.direction) * shape_.batch;
  for (int64_t n = 0; n < pass.streams; ++n) {
    Element* to = reinterpret_cast<Element*>(h + n * h_pitch_);
    const int64_t row = first + shape_.state_row[n];
    const float* from = before_[0].exists() ? reinterpret_cast<const float*>(before_[0].row(pass.run, row)) : zeros_;
    if constexpr (Dot::kQuantized) {
      bool finite = quantize_static<S>(from, shape_.hidden, to, h_inv_scale_);
      if (!Cell::kCarriesH && before_[1].exists())
        finite &= all_finite<S>(reinterpret_cast<const float*>(before_[1].row(pass.run, row)), shape_.hidden);
      pass.memory.bad[n] |= !finite;
    } else {
      copy_row<S>(from, shape_.hidden, to);
      if constexpr (Dot::kPropagatesNan) {
        bool finite = all_finite<S>(from, shape_.hidden);
        if (!Cell::kCarriesH && before_[1].exists())
          finite &= all_finite<S>(reinterpret_cast<const float*>(before_[1].row(pass.run, row)), shape_.hidden);
        pass.memory.bad[n] |= !finite;
      }
    }
  }
}

template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::one_direction(const Pass& pass, const Sequence& x, char* to) const {
  const Memory& memory = pass.memory;
  const GraphIO &before = before_[Cell::kCarriesH ? 0 : 1], &after = after_[Cell::kCarriesH ? 0 : 1];
  const int64_t first_state = (pass.layer * shape_.directions + pass.direction) * shape_.batch;
  const int64_t column = pass.direction * shape_.hidden, time = shape_.time;
  const bool last_layer = pass.layer + 1 == shape_.layers;
  const bool back = pass.direction != 0;
  int now = 0;
  begin(pass, memory.h[now]);
  Row rows[kBlockRows];
  for (int64_t done = 0; done < time; done += chunk_) {
    const int64_t count = time - done < chunk_ ? time - done : chunk_;
    const int64_t start = back ? time - done - count : done;  // earliest time step of the chunk
    if constexpr (RTA_MOST_ROWS > 1)
      if (time > 1) x_part(pass, x, start, count);
    for (int64_t i = 0; i < count; ++i, now ^= 1) {
      const int64_t t = back ? start + count - 1 - i : start + i;
      bool first = done + i == 0, last = done + i + 1 == time;
      for (int64_t group = 0; group < pass.streams; group += kBlockRows) {
        const int64_t end = pass.streams - group < kBlockRows ? pass.streams : group + kBlockRows;
        int64_t many = 0;
        for (int64_t n = group; n < end; ++n) {
          if (memory.counts) {  // each stream begins and ends where it does
            const int64_t own = memory.counts[n];
            if (t >= own) {
              behind(pass, to, t, n);
              continue;
            }
            first = back ? t + 1 == own : t == 0;
            last = back ? t == 0 : t + 1 == own;
            now = static_cast<int>(back ? own - 1 - t : t) & 1;
          }
          const int64_t state = first_state + shape_.state_row[n];
          Row& row = rows[many++];
          row.h = memory.h[now] + n * h_pitch_;
          if constexpr (Dot::kPrepared) {
            char* to = memory.prepared_h + n * dot_.prepared_bytes(shape_.hidden);
            dot_.prepare(row.h, shape_.hidden, to);
            row.h = to;
          }
          row.x = x.row(t, n);
          row.scale = x.scales ? x.scales + t * pass.streams + n : nullptr;
          row.x_part = memory.x_part + ((t - start) * pass.streams + n) * part_pitch_;
          float* own = memory.carried + n * (carried_pitch_ / 4);
          row.old_carried = own;
          if (first) row.old_carried = before.exists() ? reinterpret_cast<float*>(before.row(pass.run, state)) : zeros_;
          row.carried = last && after.exists() ? reinterpret_cast<float*>(after.row(pass.run, state)) : own;
          row.last_h = nullptr;
          if (last && !Cell::kCarriesH && after_[0].exists())
            row.last_h = reinterpret_cast<float*>(after_[0].row(pass.run, state));
          row.h_next = last ? nullptr : reinterpret_cast<Element*>(memory.h[now ^ 1] + n * h_pitch_);
          row.sequence = nullptr;
          row.y = nullptr;
          if (!last_layer)
            row.sequence = reinterpret_cast<Element*>(to + (t * pass.streams + n) * sequence_pitch_) + column;
          else if (!shape_.last_only || t == time - 1)
            row.y = y_.row(pass.run, shape_.y_row[n] + t * shape_.y_step) + column * (int8_out_ ? 1 : 4);
        }
        Pass part = pass;
        part.streams = many;
        if (many) time_step(part, rows);
      }
    }
  }
}

// Zeros for a time step that a stream does not have.
template <class S, class Cell, class Dot>
[[gnu::noinline, gnu::cold]] void RecurrentStage<S, Cell, Dot>::behind(const Pass& pass, char* to, int64_t t,
                                                                       int64_t n) const {
  const int64_t column = pass.direction * shape_.hidden, count = shape_.hidden;
  if (pass.layer + 1 < shape_.layers) {
    constexpr int64_t kSize = sizeof(Element);
    char* row = to + (t * pass.streams + n) * sequence_pitch_ + column * kSize;
    __builtin_memset(row, Dot::kQuantized ? 128 : 0, static_cast<size_t>(count * kSize));
  } else if (!shape_.last_only || t == shape_.time - 1) {
    const int64_t size = int8_out_ ? 1 : 4;
    char* y = y_.row(pass.run, shape_.y_row[n] + t * shape_.y_step) + column * size;
    __builtin_memset(y, int8_out_ ? y_zero_ & 255 : 0, static_cast<size_t>(count * size));
  }
}

template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::time_step(const Pass& pass, const Row* rows) const {
  const int64_t k = shape_.width(pass.layer);
  const char* w = weights_[pass.layer * shape_.directions + pass.direction];
  const size_t bytes = dot_.side_bytes(shape_.hidden) + dot_.side_bytes(k) + kBias;
  fork(pass, [&](int64_t first, int64_t end) {
    if constexpr (RTA_MOST_ROWS > 1)
      if (shape_.time > 1) return all_tiles<false>(pass, w, k, bytes, rows, first, end);
    all_tiles<true>(pass, w, k, bytes, rows, first, end);
  });
}

template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::x_part(const Pass& pass, const Sequence& x, int64_t first, int64_t count) const {
  const int64_t k = shape_.width(pass.layer), all = count * pass.streams;
  const size_t h_side = dot_.side_bytes(shape_.hidden), bytes = h_side + dot_.side_bytes(k) + kBias;
  const char* start = weights_[pass.layer * shape_.directions + pass.direction] + h_side;
  fork(pass, [&](int64_t unit, int64_t end) {
    const char* rows[kBlockRows];
    for (int64_t group = 0; group < all; group += kBlockRows) {
      const int64_t many = all - group < kBlockRows ? all - group : kBlockRows;
      for (int64_t m = 0; m < many; ++m)
        rows[m] = x.row(first + (group + m) / pass.streams, (group + m) % pass.streams);
      const float* scales = x.scales ? x.scales + first * pass.streams + group : nullptr;
      x_units(start, bytes, k, rows, many, scales, pass.memory.x_part + group * part_pitch_, unit, end);
    }
  });
}

template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::x_units(const char* w, size_t bytes, int64_t k, const char* const* rows,
                                           int64_t many, const float* scales, float* part, int64_t first,
                                           int64_t end) const {
  w += first / kUnits * static_cast<int64_t>(bytes);
  for (int64_t unit = first; unit < end; unit += kUnits, w += bytes) {
    int64_t m = 0;
    const auto next = [&](int r) {
      float* to = part + m * part_pitch_ + unit * G;
      const float* own = scales ? scales + m : nullptr;
      const char* const* in = rows + m;
      m += r;
      if (r == kRows) return x_tile<kRows>(w, k, in, own, to);
      if constexpr (kRows > 2)
        if (r == 2) return x_tile<2>(w, k, in, own, to);
      x_tile<1>(w, k, in, own, to);
    };
    while (m + kRows <= many) next(kRows);
    if (kRows > 2 && m + 2 <= many) next(2);
    while (m < many) next(1);
  }
}

// Streams whose x or states hold what int8 cannot: NaN in everything they gave.
template <class S, class Cell, class Dot>
void RecurrentStage<S, Cell, Dot>::propagate_nan(const Run& run, const Memory& memory, int64_t streams) const {
  const int32_t* bad = memory.bad;
  const int64_t* counts = memory.counts;
  const auto fill = [](char* row, int64_t width) {
    for (int64_t i = 0; i < width; ++i) reinterpret_cast<float*>(row)[i] = __builtin_nanf("");
  };
  for (int64_t n = 0; n < streams; ++n) {
    if (!bad[n]) continue;
    if (int8_out_) run.nan_marks[n / shape_.batch] = __builtin_nanf("");
    const int64_t own = counts ? counts[n] : shape_.time;
    const int64_t rows = shape_.last_only ? own == shape_.time : own;
    for (int64_t t = 0; t < rows && !int8_out_; ++t) fill(y_.row(run, shape_.y_row[n] + t * shape_.y_step), y_.width);
    for (int64_t i = 0; i < shape_.layers * shape_.directions; ++i)
      for (const GraphIO& port : after_)
        if (port.exists()) fill(port.row(run, i * shape_.batch + shape_.state_row[n]), shape_.hidden);
  }
}

}  // namespace rta
