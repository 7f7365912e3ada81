// Recurrent layers: the shape of a stage and its memory. The stage itself is stage.h.
#pragma once

#include "_core/stage.h"

namespace rta {

// What the contract calls geometry (kernels/recurrent/layout.py). Stream n of a run is stream n % batch of sample
// n / batch; tables hold what that needs divisions for.
struct RecurrentShape {
  int64_t inputs, hidden, layers, directions, time, batch;
  bool batch_first, last_only;
  bool lengths;                              // the input behind x: how many time steps each stream has
  int64_t samples_together;                  // of a run, at most
  int64_t most_streams;                      // of a run: samples of a block times batch
  const int64_t *state_row, *x_row, *y_row;  // by stream: its first row in the states, in x, in y
  int64_t x_step, y_step;                    // rows from one time step to the next

  explicit RecurrentShape(const StageSpec& spec);
  int64_t width(int64_t layer) const { return layer == 0 ? inputs : directions * hidden; }
  // Fails where a sum of this many numbers of int8, or a column of 16 bits, is too long.
  void expect_short() const;
};

// "weight_ih" + "_l0_reverse" + ending, valid until the next call in this thread.
const char* recurrent_name(const char* what, int64_t layer, int64_t direction, const char* ending = "");

// Where a side's matrix comes from.
struct RecurrentMatrix {
  const Attrs& attrs;
  const char* what;  // "weight_ih" or "weight_hh"
  int64_t layer, direction;
  int64_t hidden, k;
  int32_t zero_point;  // of x, as int8 has it
  Arena& arena;        // for what does not lie in the tile
};

// How many time steps each stream of a run has, where an input says it: 1 to `time` whatever it says, as others are
// noted.
struct RecurrentLengths {
  GraphIO from;
  int64_t batch;
  bool longest;  // one of each sample has all time steps
  Outside outside;
  mutable char reason[96];  // of the last refusal; a plan runs one call at a time

  RecurrentLengths(const StageSpec& spec, const RecurrentShape& shape);
  void read(const Run& run, int64_t streams, int64_t time, int64_t* to) const;
  const char* refusal(int64_t time) const;
};

// Formats of weights without a kernel: of dense ones, and of those that the attribute layout says to be packed sparse.
const char* recurrent_reject(const Attrs& attrs);
const char* recurrent_sparse_reject(const Attrs& attrs);
const char* recurrent_float32_reject(const Attrs& attrs);  // of a state that int8 cannot hold

// Hands out parts of a stage's scratch, once while it is made and again in each run.
class ScratchLayout {
 public:
  size_t take(int64_t count, int64_t bytes);  // fails where they are too many
  size_t bytes() const { return used_; }

 private:
  size_t used_ = 0;
};

}  // namespace rta
