// A stream: the column of this call goes into its row of the ring.
#pragma once

#include "padded_image.h"

namespace rta {

// Returns the ring of sample s with the column of this call in place. delta[tap]: where the tap reads in it.
template <class S>
static const char* turn_ring(const ConvLayer& p, const Run& run, int64_t s, int32_t* delta) {
  using Fill = PaddedImageFill<S>;
  const int64_t rows = p.ring.steps, pitch = p.ring_out.pitch, element = p.int8 ? 1 : 4;
  char* ring = p.ring_out.row(run, s * rows);
  if (p.ring.id != p.ring_out.id) {  // a caller's tensor in, another out
    const char* from = p.ring.row(run, s * rows);
    for (int64_t r = 0; r < rows; ++r) __builtin_memcpy(ring + r * pitch, from + r * p.ring.pitch, p.c * element);
  }
  const int64_t newest = (run.ticks ? run.ticks[s] : run.tick) % rows;
  const char* x = p.x.row(run, s);
  char* to = ring + newest * pitch;
  if (!p.int8) {
    __builtin_memcpy(to, x, p.c * 4);
  } else if (!p.quantizes) {
    __builtin_memcpy(to, x, p.c);
  } else {
    const PaddedImage none{};
    Fill f{p, none, S::set(p.x_inv_scale), S::set_int(p.x_zero), S::set(0.0f), nullptr};
    f.template run<Fill::kQuantize>(to, x, p.c);
    if (!(S::sum_of(f.nonfinite) == 0.0f)) {
      f.template run<Fill::kMiddle>(to, x, p.c);
      run.nan_marks[s] = __builtin_nanf("");
    }
  }
  const int64_t taps = p.at.taps, dilation = p.at.dilation.x;
  for (int64_t j = 0; j < taps; ++j) {
    const int64_t row = newest - (taps - 1 - j) * dilation;
    delta[j] = static_cast<int32_t>((row < 0 ? row + rows : row) * pitch);
  }
  return ring;
}

}  // namespace rta
