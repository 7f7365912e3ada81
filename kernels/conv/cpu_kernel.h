// Convolution on the CPU, written once over the vectors S of an instruction set: which form a layer takes.
//
// Dot products: int8
#pragma once

#include <type_traits>

#include "dense.h"
#include "depthwise/channels.h"
#include "depthwise/interleaved.h"
#include "planes.h"
#include "winograd/float32.h"
#include "winograd/int8.h"

namespace rta {

static const char* conv_reject(const Attrs& attrs) {
  if (attrs.has("ticks")) return "counts the calls of a stream itself";
  if (attrs.text_is("weight_dtype", "float32") || attrs.text_is("weight_dtype", "int8")) return nullptr;
  return "takes float32 and int8 weights";
}

// Groups that are narrower than a vector; others fill it with outputs of one group.
template <class S, int... kWide>
static Stage* create_narrow(const StageSpec& spec) {
  const int wide = narrow_groups(spec);
  Stage* made = nullptr;
  [[maybe_unused]] const auto one = [&](auto w) {
    if constexpr (w < S::kLanes)
      if (wide == w) made = new DepthwiseStage<S, w>(spec);
  };
  (one(std::integral_constant<int, kWide>()), ...);
  return made;
}

// A build for one model has the forms that its attributes ask for.
template <class S>
RTA_ONCE Stage* create_conv(const StageSpec& spec) {
  constexpr bool kFloat = RTA_WANTS("conv", "float32") && kHasFloat32<S>, kInt8 = RTA_WANTS("conv", "int8");
  [[maybe_unused]] const bool is_float = spec.attrs.dtype("weight") == RTA_FLOAT32;
  if (!kHasFloat32<S> && is_float) fail("conv: %s", rejects_float32<S, conv_reject>(spec.attrs));
  if constexpr (RTA_WANTS("conv", "y_planes"))
    if (spec.attrs.has("y_planes") && flag(spec.attrs, "y_planes")) {
      if constexpr (kFloat)
        if (is_float) return new PlaneStage<S, false>(spec);
      if constexpr (kInt8)
        if (!is_float) return new PlaneStage<S, true>(spec);
    }
  if constexpr (RTA_WANTS("conv", "groups > 1") || RTA_WANTS("conv", "one output"))
    if (is_depthwise(spec)) {
#if defined(__AVX512VNNI__)
      if constexpr (kInt8)
        if (interleaves(spec)) return new InterleavedStage<S>(spec);
#endif
      return new DepthwiseStage<S>(spec);
    }
  if constexpr (RTA_WANTS("conv", "groups > 1"))
    if (Stage* stage = create_narrow<S, 2, 4, 8>(spec)) return stage;
  if constexpr (RTA_WANTS("conv", "winograd") && kHasFloat32<S>)
    if (between(spec.attrs, "winograd", 0, 4)) return create_winograd<S>(spec);
  [[maybe_unused]] const bool whole = !is_depthwise(spec) && !between(spec.attrs, "winograd", 0, 4) &&
                                      !(spec.attrs.has("y_planes") && flag(spec.attrs, "y_planes"));
  if constexpr (kFloat)
    if (whole && is_float) return new ConvStage<S, ConvFloat32>(spec);
  if constexpr (kInt8)
    if (whole && !is_float) {
      if constexpr (kWinogradInt8<S>)
        if (const Axes axes = winograd_axes(spec); axes != Axes::kNone) {
          if constexpr (RTA_WANTS("conv", "kernel_y > 1"))
            if (axes == Axes::kBoth) return new WinogradInt8Stage<S, WinogradTiles<2>>(spec);
          if (axes == Axes::kOne) return new WinogradInt8Stage<S, WinogradLine<2>>(spec);
        }
      if constexpr (ConvInt8Wide<S>::kExists)
        if (!flag(spec.attrs, "stream")) return new ConvStage<S, ConvInt8Wide>(spec);
      return new ConvStage<S, ConvInt8>(spec);
    }
  fail("conv: weights of dtype %s in a form for which this was not built", spec.attrs.text("weight_dtype"));
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "conv", "cpu", (rejects_float32<S, conv_reject>), create_conv<S>);
}

}  // namespace rta
