// Tiles of m x m outputs of a 3 x 3 convolution with stride 1, and the (m + 2) x (m + 2) inputs that each is made of.
#pragma once

#include "conv/layer.h"

namespace rta {

template <int m>
class WinogradTiles {
  static constexpr int kIn = m + 2;

 public:
  WinogradTiles() = default;
  // step: bytes from one position of x to the next. outside: what is read beyond the image.
  WinogradTiles(const ConvGeometry& at, int64_t step, const void* outside)
      : in_(at.in),
        out_(at.out),
        padding_(at.padding),
        count_{(at.out.y + m - 1) / m, (at.out.x + m - 1) / m},
        step_(step),
        outside_(static_cast<const char*>(outside)) {}

  int64_t count() const { return count_.y * count_.x; }
  Extent first(int64_t tile) const { return {tile / count_.x * m, tile % count_.x * m}; }
  // Outputs of a tile that are within the image.
  Extent size(Extent first) const {
    return {out_.y - first.y < m ? out_.y - first.y : m, out_.x - first.x < m ? out_.x - first.x : m};
  }

  // Where the inputs of a tile are, row-major: positions of x, or what is outside.
  template <class T>
  void window(const char* x, int64_t tile, const T* (&at)[kIn * kIn]) const {
    const Extent start = first(tile);
    for (int i = 0; i < kIn; ++i)
      for (int j = 0; j < kIn; ++j) {
        const int64_t row = start.y - padding_.y + i, column = start.x - padding_.x + j;
        const bool inside = row >= 0 && row < in_.y && column >= 0 && column < in_.x;
        at[i * kIn + j] = reinterpret_cast<const T*>(inside ? x + (row * in_.x + column) * step_ : outside_);
      }
  }

 private:
  Extent in_, out_, padding_, count_;
  int64_t step_ = 0;
  const char* outside_ = nullptr;
};

}  // namespace rta
