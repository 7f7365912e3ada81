// What the convolution kernels share: geometry, the padded image, and the end of a block of sums.
#pragma once

#include "_core/stage.h"
#include "_simd/activation.h"

namespace rta {

struct Extent {
  int64_t y, x;
};

// Output o, tap t read input o * stride + t * dilation - padding; vertically out_rows[o] + tap_rows[t] - padding, which
// may be other rows than those of a stride and a dilation.
struct ConvGeometry {
  Extent in, kernel, stride, padding, dilation, out;
  Extent reach;                         // of the padded image that the outputs read
  const int32_t *in_steps, *out_steps;  // null for all positions
  const int32_t *out_rows, *tap_rows;
  int64_t in_count, out_count;
  int64_t taps;
};

// Checked against the values: whatever it says, outputs and taps lie where they may be read and written.
ConvGeometry read_geometry(const StageSpec& spec);

struct ConvLayer {
  ConvGeometry at;
  GraphIO x, y, other, ring, ring_out;  // absent where there is none
  int64_t c, n, groups;
  int64_t x_step;          // bytes from one position of x to the next
  int64_t x_row, x_plane;  // bytes from one row of the image to the next, from one plane to the next
  int64_t y_row, y_plane;  // of y, where it is planes
  int64_t other_row, other_plane;
  bool flat;                              // x is one row of positions side by side
  bool x_planes, y_planes;                // all positions of a channel side by side
  bool int8, stream, dynamic, quantizes;  // quantizes: x is float32, the weights are not
  int32_t x_zero;                         // zero point + 128: what padding looks like
  float x_inv_scale;
  const float *multiplier, *offset;  // [block][whole vectors]; float32 weights have the bias in offset
  const int32_t* start;              // int8: what sums start from
  Activation activation;
  float parameter;
  bool int8_out;
  bool bounded;      // |t| < 2^21 whatever x holds, and nothing but a ReLU lies between t and the rounding
  Bounds bounds;     // of an activation that has no more
  bool plain;        // float32 y, and nothing but bounds between t and it
  bool scales_last;  // y_inv_scale is not 1
  float y_inv_scale;
  int32_t y_zero, y_low;  // zero point + 128; the least byte: y_zero after a ReLU

  int64_t planes() const { return x_planes ? c : 1; }  // of x: images with so many numbers at each position
  int64_t cell_channels() const { return x_planes ? 1 : c; }
  bool updates(int in, int out) const { return stream && in == 1 && out == 1; }  // the ring
  bool marks_samples() const { return quantizes && (!dynamic || int8_out); }

  // A state of a stream before its first time step: of an int8 ring, zero points.
  void start_ring(int id, char* state) const {
    if (stream && int8 && id == ring_out.id)
      for (int64_t i = 0; i < ring.pitch * ring.steps; ++i) state[i] = static_cast<char>(x_zero);
  }
};

// All but the packed weights. blocks, lanes: the outputs are in so many blocks (one, or one for each group), each
// padded to a multiple of lanes. x_offset: what the dot product sees in a byte is the number + x_offset.
ConvLayer read_layer(const StageSpec& spec, int64_t blocks, int lanes, int32_t x_offset);

int narrow_groups(const StageSpec& spec);  // groups of 2, 4 or 8 channels and as many outputs: how many; else 0
bool is_depthwise(const StageSpec& spec);  // every channel has outputs of its own, of few enough taps for float32 sums
// int8, three taps along both axes or one, with stride 1, of so many channels and positions that fewer products
// outweigh the transforms.
enum class Axes { kNone, kOne, kBoth };
Axes winograd_axes(const StageSpec& spec);
// int8, every position is computed, rows by a stride and a dilation; and vectors of 64 channels are faster.
bool interleaves(const StageSpec& spec);

// The padded image, in memory of the plan: `cell` bytes from one position to the next, of which the first channels *
// element matter. plane: bytes from one plane to the next, where x is planes. upright: column by column, so that
// `row` is the smaller step.
struct PaddedImage {
  static constexpr int64_t kUprightChannels = 4;
  int64_t cell = 0, row = 0, bytes = 0, plane = 0;
  bool upright = false;
};

}  // namespace rta
