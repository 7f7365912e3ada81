// What int8 and float32 convolutions differ in: numbers, sums, and how many numbers one multiplication takes.
//
//   kInt8, kWide   whether numbers are int8; whether they take 16 bits each in the padded image
//   kElement       bytes of a number in the padded image
//   kTileVectors   vectors of outputs in a packed tile
//   kFirstWeights  the weights of a step are loaded before its inputs, one input at a time
#pragma once

#include "layer.h"

namespace rta {

template <class S>
struct ConvInt8 {
  using Sum = typename S::I;
  using X = typename S::X;
  using W = typename S::W;
  using Weight = int8_t;
  static constexpr bool kInt8 = true, kWide = false;
  static constexpr int kGroup = S::kGroup, kElement = 1, kStep = S::kWeightBytes, kTileVectors = 4;
  static constexpr bool kFirstWeights = false;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.int8s("weight", count); }
  static Sum start(const ConvLayer& p, int64_t at) { return S::load_int(p.start + at); }
  static Sum zero() { return S::set_int(0); }
  static Sum add(Sum a, Sum b) { return S::add_int(a, b); }
  static X x(const char* p, int64_t g) { return S::broadcast_x(reinterpret_cast<const uint8_t*>(p) + g * kGroup); }
  static W w(const char* p) { return S::load_w(reinterpret_cast<const int8_t*>(p)); }
  static Sum dot(Sum acc, X x, W w) { return S::dot(acc, x, w); }
};

// Where a dot product takes 16 bits for each activation and there are 16 registers (linear/int8_tile.h): the image is
// widened once, for all outputs and taps, and a tile is 6 positions by 2 vectors.
template <class S>
struct ConvInt8Wide : ConvInt8<S> {
  using typename ConvInt8<S>::Sum;
  using typename ConvInt8<S>::X;
  using typename ConvInt8<S>::W;
  static constexpr bool kExists = S::kWidens && S::kRegisters == 16;
  static constexpr bool kWide = true;
  static constexpr int kElement = 2, kTileVectors = 2;
  static constexpr bool kFirstWeights = true;
  static X x(const char* p, int64_t g) {
    return S::broadcast_wide(reinterpret_cast<const uint16_t*>(p) + g * S::kGroup);
  }
  static Sum dot(Sum acc, X x, W w) { return S::dot_wide(acc, x, w); }
};

template <class S>
struct ConvFloat32 {
  using Sum = typename S::F;
  using X = typename S::F;
  using W = typename S::F;
  using Weight = float;
  static constexpr bool kInt8 = false, kWide = false;
  static constexpr int kGroup = 1, kElement = 4, kStep = S::kLanes * 4, kTileVectors = 4;
  static constexpr bool kFirstWeights = false;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.floats("weight", count); }
  static Sum start(const ConvLayer& p, int64_t at) { return S::load(p.offset + at); }
  static Sum zero() { return S::set(0.0f); }
  static Sum add(Sum a, Sum b) { return S::add(a, b); }
  static X x(const char* p, int64_t g) { return S::set(reinterpret_cast<const float*>(p)[g]); }
  static W w(const char* p) { return S::load(reinterpret_cast<const float*>(p)); }
  static Sum dot(Sum acc, X x, W w) { return S::mul_add(w, x, acc); }
};

}  // namespace rta
