// Tiles of m x m outputs of a 3 x 3 convolution with stride 1, and the (m + 2) x (m + 2) inputs that each is made of;
// of m outputs and m + 2 inputs where the kernel is 3 x 1 or 1 x 3. Both are as far apart as the taps.
#pragma once

#include "conv/layer.h"

namespace rta {

// The outputs of a tile that are within the image: positions from one on, so many apart.
struct WinogradOutputs {
  int64_t position, down, right, rows, columns;
};

// Tiles along one dimension. They begin one after the other until the taps of the first are there again.
struct WinogradSteps {
  int64_t out, apart, count;
  int m;
  WinogradSteps() = default;
  WinogradSteps(int64_t out, int64_t apart, int m)
      : out(out), apart(apart), count((out + m * apart - 1) / (m * apart) * apart), m(m) {}

  int64_t first(int64_t tile) const { return tile / apart * m * apart + tile % apart; }
  // Outputs of a tile that are within the image.
  int64_t outputs(int64_t first) const {
    const int64_t left = (out - first + apart - 1) / apart;
    return left < 0 ? 0 : left < m ? left : m;
  }
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
        padding_(at.padding),
        down_(at.out.y, at.dilation.y, m),
        across_(at.out.x, at.dilation.x, m),
        step_(step),
        outside_(static_cast<const char*>(outside)) {}

  int64_t count() const { return down_.count * across_.count; }

  WinogradOutputs outputs(int64_t tile) const {
    const Extent at = first(tile);
    return {at.y * across_.out + at.x, down_.apart * across_.out, across_.apart, down_.outputs(at.y),
            across_.outputs(at.x)};
  }

  // Where the inputs of a tile are, row-major: positions of x, or what is outside.
  template <class T>
  void window(const char* x, int64_t tile, const T* (&at)[kIn * kIn]) const {
    const Extent start = first(tile);
    for (int i = 0; i < kIn; ++i)
      for (int j = 0; j < kIn; ++j) {
        const int64_t row = start.y - padding_.y + i * down_.apart, column = start.x - padding_.x + j * across_.apart;
        const bool inside = row >= 0 && row < in_.y && column >= 0 && column < in_.x;
        at[i * kIn + j] = reinterpret_cast<const T*>(inside ? x + (row * in_.x + column) * step_ : outside_);
      }
  }

 private:
  Extent first(int64_t tile) const { return {down_.first(tile / across_.count), across_.first(tile % across_.count)}; }

  Extent in_, padding_;
  WinogradSteps down_, across_;
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
    steps_ = along_x_ ? WinogradSteps(at.out.x, at.dilation.x, m) : WinogradSteps(at.out.y, at.dilation.y, m);
    lines_ = along_x_ ? at.out.y : at.out.x;
    padding_ = along_x_ ? at.padding.x : at.padding.y;
  }

  int64_t count() const { return lines_ * steps_.count; }
  WinogradOutputs outputs(int64_t tile) const {
    const int64_t start = steps_.first(tile % steps_.count);
    return {at(tile / steps_.count, start, steps_.out), 0, steps_.apart * (along_x_ ? 1 : lines_), 1,
            steps_.outputs(start)};
  }

  template <class T>
  void window(const char* x, int64_t tile, const T* (&inputs)[kIn]) const {
    const int64_t line = tile / steps_.count, start = steps_.first(tile % steps_.count) - padding_;
    for (int i = 0; i < kIn; ++i) {
      const int64_t from = start + i * steps_.apart;
      inputs[i] = reinterpret_cast<const T*>(from >= 0 && from < in_ ? x + at(line, from, in_) * step_ : outside_);
    }
  }

 private:
  int64_t at(int64_t line, int64_t along, int64_t length) const {
    return along_x_ ? line * length + along : along * lines_ + line;
  }

  bool along_x_ = true;
  WinogradSteps steps_;
  int64_t in_, lines_, padding_, step_ = 0;
  const char* outside_ = nullptr;
};

}  // namespace rta
