// Joined differences of all pairs of rows on the CPU. The contract is in contract.py.
//
// What a matrix product does, with a difference in place of a product: nothing of size i j k is in memory. Floor: two
// operations of a vector for each of i j k / kLanes terms, where a product has one.
#pragma once

#include "_matrices/product.h"

namespace rta {

template <class S>
struct Squares {
  using F = typename S::F;
  static constexpr bool kProducts = false, kSums = true, kWeights = false;
  static F with(F sum, F x, F w, F) {
    const F off = S::sub(x, w);
    return S::mul_add(off, off, sum);
  }
};

template <class S>
struct WeightedSquares : Squares<S> {
  using F = typename S::F;
  static constexpr bool kWeights = true;
  static F with(F sum, F x, F w, F v) {
    const F off = S::sub(x, w);
    return S::mul_add(S::mul(v, off), off, sum);
  }
};

// A fused product by 1 is the sum: where adders are other units than multipliers, both have work.
template <class S>
struct Magnitudes {
  using F = typename S::F;
  static constexpr bool kProducts = false, kSums = true, kWeights = false;
  static F with(F sum, F x, F w, F) { return S::fma(S::abs(S::sub(x, w)), S::set(1.0f), sum); }
};

template <class S>
struct WeightedMagnitudes : Magnitudes<S> {
  using F = typename S::F;
  static constexpr bool kWeights = true;
  static F with(F sum, F x, F w, F v) { return S::mul_add(S::abs(S::sub(x, w)), v, sum); }
};

// As whole numbers: of magnitudes these have the same order, and a NaN is above infinity.
template <class S>
struct Largest {
  using F = typename S::F;
  static constexpr bool kProducts = false, kSums = false, kWeights = false;
  static F with(F largest, F x, F w, F) {
    return S::as_float(S::max_int(S::as_int(largest), S::bits_of_abs(S::sub(x, w))));
  }
};

template <class S>
RTA_ONCE Stage* create_pairwise(const StageSpec& spec) {
  const bool largest = word(spec.attrs, "kind", "sum|mean|amax") == 2;
  const bool squares = word(spec.attrs, "of", "squares|magnitudes") == 0;
  const bool weighted = spec.attrs.has("v");
  expect(!largest || (!squares && !weighted), "squares, and weights, have a sum or a mean");
  return new ProductStage<S, Squares<S>, WeightedSquares<S>, Magnitudes<S>, WeightedMagnitudes<S>, Largest<S>>(
      spec, largest ? 4 : (squares ? 0 : 2) + weighted);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "pairwise", "cpu", nullptr, create_pairwise<S>);
}

}  // namespace rta
