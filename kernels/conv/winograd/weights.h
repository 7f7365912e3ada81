// The weights of Winograd's float32 convolutions, as their products read them.
#pragma once

#include "conv/winograd/transform.h"

namespace rta {

struct WinogradWeights {
  const float* given;  // [n][channels][taps]
  int64_t n, channels, columns;

  // [group of columns][point][panel of columns][channel][lane]
  template <int m, bool square>
  void transformed(float* to, int64_t group, int64_t panel) const {
    constexpr int kIn = m + 2, kDown = square ? kIn : 1, kPoints = kDown * kIn, kTaps = square ? 9 : 3;
    for (int64_t start = 0; start < columns; start += group) {
      const int64_t width = columns - start < group ? columns - start : group;
      for (int64_t first = 0; first < width; first += panel) {
        const int64_t now = width - first < panel ? width - first : panel;
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < now; ++i) {
            const int64_t column = start + first + i;
            if (column >= n) continue;
            const float* w = given + (column * channels + c) * kTaps;
            float* u = to + (start * kPoints + first) * channels + c * now + i;
            for (int a = 0; a < kDown; ++a)
              for (int b = 0; b < kIn; ++b) u[(a * kIn + b) * width * channels] = at_point<m, square>(w, a, b);
          }
      }
    }
  }

  // [vector of columns][tap][channel][lane]
  template <int kTaps>
  void plain(float* to, int64_t lanes) const {
    for (int64_t column = 0; column < n; ++column)
      for (int64_t tap = 0; tap < kTaps; ++tap)
        for (int64_t c = 0; c < channels; ++c)
          to[column / lanes * lanes * kTaps * channels + (tap * channels + c) * lanes + column % lanes] =
              given[(column * channels + c) * kTaps + tap];
  }

 private:
  template <int m, bool square>
  static float at_point(const float* w, int a, int b) {
    double sum = 0;
    for (int i = 0; i < (square ? 3 : 1); ++i)
      for (int j = 0; j < 3; ++j)
        sum += (square ? winograd_weight<m>(a, i) : 1.0) * winograd_weight<m>(b, j) * static_cast<double>(w[i * 3 + j]);
    return static_cast<float>(sum);
  }
};

}  // namespace rta
