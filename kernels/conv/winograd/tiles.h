// Tiles of m x m outputs of a 3 x 3 convolution with stride 1, and the (m + 2) x (m + 2) inputs that each is made of;
// of m outputs and m + 2 inputs where the kernel is 3 x 1 or 1 x 3, then as far apart as its taps.
#pragma once

#include "conv/layer.h"

namespace rta {

// The outputs of a tile that are within the image: positions from one on, so many apart.
struct WinogradOutputs {
  int64_t position, down, right, rows, columns;
};

template <int m>
class WinogradTiles {
  static constexpr int kIn = m + 2;

 public:
  static constexpr int kDown = m, kRight = m;
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

  WinogradOutputs outputs(int64_t tile) const {
    const Extent at = first(tile), within = size(at);
    return {at.y * out_.x + at.x, out_.x, 1, within.y, within.x};
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

// Along one axis; lines side by side are the other.
template <int m>
class WinogradLine {
  static constexpr int kIn = m + 2;

 public:
  static constexpr int kDown = 1, kRight = m;
  WinogradLine() = default;
  WinogradLine(const ConvGeometry& at, int64_t step, const void* outside)
      : along_x_(at.kernel.x == 3), step_(step), outside_(static_cast<const char*>(outside)) {
    in_ = along_x_ ? at.in.x : at.in.y;
    out_ = along_x_ ? at.out.x : at.out.y;
    lines_ = along_x_ ? at.out.y : at.out.x;
    padding_ = along_x_ ? at.padding.x : at.padding.y;
    apart_ = along_x_ ? at.dilation.x : at.dilation.y;
    count_ = (out_ + m * apart_ - 1) / (m * apart_) * apart_;
  }

  int64_t count() const { return lines_ * count_; }
  WinogradOutputs outputs(int64_t tile) const {
    const int64_t start = first(tile), left = (out_ - start + apart_ - 1) / apart_;
    return {at(tile / count_, start, out_), 0, apart_ * (along_x_ ? 1 : lines_), 1, left < 0 ? 0 : left < m ? left : m};
  }

  template <class T>
  void window(const char* x, int64_t tile, const T* (&inputs)[kIn]) const {
    const int64_t line = tile / count_, start = first(tile) - padding_;
    for (int i = 0; i < kIn; ++i) {
      const int64_t from = start + i * apart_;
      inputs[i] = reinterpret_cast<const T*>(from >= 0 && from < in_ ? x + at(line, from, in_) * step_ : outside_);
    }
  }

 private:
  // Tiles that begin one after the other until the taps of the first are there again.
  int64_t first(int64_t tile) const { return tile % count_ / apart_ * m * apart_ + tile % count_ % apart_; }
  int64_t at(int64_t line, int64_t along, int64_t length) const {
    return along_x_ ? line * length + along : along * lines_ + line;
  }

  bool along_x_ = true;
  int64_t in_, out_, lines_, padding_, apart_, count_, step_ = 0;
  const char* outside_ = nullptr;
};

}  // namespace rta
