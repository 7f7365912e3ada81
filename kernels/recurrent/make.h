// How a recurrent stage is made: what is read of its attributes, its packed weights and its scratch. The rest of
// stage.h, which includes it.
#pragma once

#include "recurrent/stage.h"

namespace rta {

template <class S, class Cell, class Dot>
RecurrentStage<S, Cell, Dot>::RecurrentStage(const StageSpec& spec)
    : shape_(spec),
      dot_(spec.attrs),
      x_(spec.in(0)),
      y_(spec.out(0)),
      before_{spec.in(1 + shape_.lengths), spec.in(2 + shape_.lengths)},
      after_{spec.out(1), spec.out(2)},
      lengths_(spec, shape_),
      dynamic_(false),
      own_input_(false),
      int8_out_(spec.output(0).dtype == RTA_INT8),
      x_inv_scale_(0.0f),
      h_inv_scale_(1.0f),
      y_inv_scale_(1.0f),
      x_zero_(128),
      y_zero_(128) {
  if constexpr (Dot::kQuantized) {
    shape_.expect_short();
    dynamic_ = flag(spec.attrs, "dynamic");
    h_inv_scale_ = static_cast<float>(spec.attrs.real("h_inv_scale"));
    y_inv_scale_ = static_cast<float>(spec.attrs.real("y_inv_scale"));
    y_zero_ = zero_byte(spec.attrs, "y_zero_point");
    x_inv_scale_ = static_cast<float>(spec.attrs.real("x_inv_scale"));
    x_zero_ = zero_byte(spec.attrs, "x_zero_point");
    own_input_ = dynamic_ || x_inv_scale_ != 0.0f;
  }
  if ((spec.input(0).dtype == RTA_INT8) == (own_input_ || !Dot::kQuantized))
    fail("x has dtype %s, which does not go with these weights", dtype_name(spec.input(0).dtype));
  if (int8_out_ && !Dot::kQuantized) fail("float32 weights have no int8 output");

  const int64_t passes = shape_.layers * shape_.directions;
  weights_ = static_cast<const char**>(spec.arena->take(static_cast<size_t>(passes) * sizeof(char*)));
  for (int64_t i = 0; i < passes; ++i) {
    const int64_t layer = i / shape_.directions, direction = i % shape_.directions;
    const int64_t k = shape_.width(layer);
    product(G * shape_.hidden, shape_.hidden + k);
    const size_t h_side = dot_.side_bytes(shape_.hidden), x_side = dot_.side_bytes(k);
    const size_t bytes = h_side + x_side + kBias;
    // Tiles that lead to memory elsewhere are no mere numbers: a file cannot have them ready.
    constexpr bool kApart = requires { Dot::kApart; };
    const size_t all = bytes * static_cast<size_t>(tiles());
    char* to = static_cast<char*>(kApart ? spec.arena->take(all) : spec.weights(all));
    weights_[i] = to;
    const float* bias = spec.attrs.floats(recurrent_name("bias", layer, direction), G * shape_.hidden);
    const float* bias_n = nullptr;
    if (G == 3) bias_n = spec.attrs.floats(recurrent_name("bias_n", layer, direction), shape_.hidden);
    for (int64_t unit = 0; (kApart || spec.packs()) && unit < shape_.hidden; unit += kUnits, to += bytes) {
      dot_.pack({spec.attrs, "weight_hh", layer, direction, shape_.hidden, shape_.hidden, 0, *spec.arena}, unit, to);
      dot_.pack({spec.attrs, "weight_ih", layer, direction, shape_.hidden, k, layer ? 0 : x_zero_ - 128, *spec.arena},
                unit, to + h_side);
      float* biases = reinterpret_cast<float*>(to + h_side + x_side);
      for (int i = 0; i < kUnits && unit + i < shape_.hidden; ++i) {
        float* own = biases + i / S::kLanes * 4 * S::kLanes + i % S::kLanes;
        for (int g = 0; g < G; ++g) own[g * S::kLanes] = bias[g * shape_.hidden + unit + i];
        if (bias_n) own[3 * S::kLanes] = bias_n[unit + i];
      }
    }
  }

  const int64_t n = shape_.most_streams, rows = product(n, shape_.time), size = sizeof(Element);
  const int64_t units = tiles() * kUnits;
  h_pitch_ = round_up(units * size, 64);
  carried_pitch_ = round_up(units * 4, 64);
  sequence_pitch_ = round_up(shape_.directions * shape_.hidden * size, 64) + 64;  // a last tile writes past the width
  quantized_pitch_ = round_up(shape_.inputs, 64);
  part_pitch_ = G * units;
  chunk_ = 32 / n > 1 ? 32 / n : 1;
  if (chunk_ > shape_.time) chunk_ = shape_.time;
  const bool many = shape_.layers > 1;
  ScratchLayout layout;
  places_[0] = layout.take(n, h_pitch_);
  places_[1] = layout.take(n, h_pitch_);
  places_[2] = layout.take(many ? rows : 0, sequence_pitch_);
  places_[3] = layout.take(shape_.layers > 2 ? rows : 0, sequence_pitch_);
  places_[4] = layout.take(own_input_ ? rows : 0, quantized_pitch_);
  places_[5] = layout.take(n, carried_pitch_);
  places_[6] = layout.take(dynamic_ ? rows : 0, 4);
  places_[7] = layout.take(shape_.time > 1 ? product(chunk_, n) : 0, part_pitch_ * 4);
  places_[8] = layout.take(n, 4);
  places_[9] = places_[10] = 0;
  places_[11] = layout.take(shape_.lengths ? n : 0, 8);
  if constexpr (Dot::kPrepared) {
    int64_t widest = dot_.prepared_bytes(shape_.inputs);
    if (many && dot_.prepared_bytes(shape_.width(1)) > widest) widest = dot_.prepared_bytes(shape_.width(1));
    places_[9] = layout.take(n, dot_.prepared_bytes(shape_.hidden));
    places_[10] = layout.take(rows, widest);
  }
  spec.need_scratch(layout.bytes());
  zeros_ = static_cast<const float*>(spec.arena->take(static_cast<size_t>(units) * 4));
}

}  // namespace rta
