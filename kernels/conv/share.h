// Positions of one sample between threads. Which of them are computed together stays the same for any number of
// threads, as the order of a float32 sum depends on it: parts begin at multiples of `step`, and the last one has the
// rest.
#pragma once

#include <algorithm>
#include <numeric>

#include "_system/thread_pool.h"
#include "layer.h"

namespace rta {

// Products that no core makes faster: 8 vectors of them in a ns, of int8 so many at once in each lane.
template <class S>
static inline int64_t products_ns(int64_t products, bool int8) {
  return products / (8 * S::kLanes * (int8 ? S::kGroup : 1));
}

struct Span {
  int64_t begin, end;
};

// A part of so many, in multiples of `step` but for the last part, which has the rest.
static inline Span part_of(int64_t all, int64_t step, int64_t part, int64_t parts) {
  return {all / step * part / parts * step, part + 1 == parts ? all : all / step * (part + 1) / parts * step};
}

struct PositionShare {
  int64_t count, step, cost_ns;  // of a sample

  int parts(int threads) const {
    const int64_t most = count / step < cost_ns / Pool::kPartNs ? count / step : cost_ns / Pool::kPartNs;
    return most < 2 ? 1 : most < threads ? static_cast<int>(most) : threads;
  }
  int64_t saved_ns(int parts) const { return parts == 1 ? 0 : cost_ns - cost_ns / parts - Pool::kHandOverNs; }

  // piece(first, end) for the positions of each part, on the threads of the run where it has some.
  template <class Piece>
  void over(const Run& run, const Piece& piece) const {
    const int now = RTA_WANTS_THREADS && run.pool ? parts(run.forks) : 1;
    if (now == 1) return piece(int64_t{0}, count);
    struct Job {
      const Piece& piece;
      int64_t count, step, parts;
    };
    const Job job{piece, count, step, now};
    run.pool->run(
        [](const void* context, int part) {
          const Job& own = *static_cast<const Job*>(context);
          const Span span = part_of(own.count, own.step, part, own.parts);
          own.piece(span.begin, span.end);
        },
        &job, now);
  }
};

}  // namespace rta
