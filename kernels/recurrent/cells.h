// What an LSTM and a GRU do with the sums of their gates, for the units of one vector.
//
// A cell carries one float32 state from time step to time step beside the h that its products read: c in an LSTM, h
// itself in a GRU. `exact` takes the accurate functions (float32 weights), `quantized` the quotient of
// recurrent_reference.py, to the bit: sums of sigmoid gates come in halved, and all divisions of a state are made over
// one common denominator.
#pragma once

#include "_simd/activation.h"
#include "_simd/pair.h"

namespace rta {

// tanh(t) ~ num / den, |error| <= 5e-5, |num / den| < 1.
template <class S>
struct Tanh {
  using F = typename S::F;
  F num, den;

  explicit Tanh(F t) {
    const F v = S::max(S::set(-5.0f), S::min(S::set(5.0f), t));
    const F z = S::mul(v, v);
    num = S::mul(v, S::fma(S::fma(S::set(6.5494682e-4f), z, S::set(0.10172323f)), z, S::set(0.99981013f)));
    den = S::fma(S::fma(S::set(0.01263921f), z, S::set(0.43450415f)), z, S::set(1.0f));
  }
  F sum() const { return S::add(den, num); }
  F difference() const { return S::sub(den, num); }
};

template <class S>
struct Lstm {
  using F = typename S::F;
  using Paired = Lstm<Pair<S>>;  // of two streams at once
  static constexpr int kGates = 4;
  static constexpr bool kCarriesH = false, kQuantizes = true;
  static constexpr const char* kOp = "lstm";

  // Both return h, and carry c.
  static inline F quantized(const F (&x)[4], const F (&h)[4], const F (&bias)[4], F& carried) {
    const Tanh<S> i(S::add(S::add(x[0], h[0]), bias[0])), f(S::add(S::add(x[1], h[1]), bias[1]));
    const Tanh<S> g(S::add(S::add(x[2], h[2]), bias[2])), o(S::add(S::add(x[3], h[3]), bias[3]));
    const F den_ig = S::mul(i.den, g.den);
    const F top = S::fma(S::mul(f.sum(), carried), den_ig, S::mul(S::mul(i.sum(), g.num), f.den));
    const F bottom = S::mul(f.den, den_ig);
    const F c = S::div(top, S::add(bottom, bottom));
    carried = c;
    const Tanh<S> t(c);
    const F den = S::mul(o.den, t.den);
    return S::div(S::mul(o.sum(), t.num), S::add(den, den));
  }

  static inline F exact(const F (&x)[4], const F (&h)[4], const F (&bias)[4], F& carried) {
    F t[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) t[i] = S::add(S::add(x[i], h[i]), bias[i]);
    const F kept = S::mul(sigmoid<S>(t[1]), carried);
    carried = S::mul_add(sigmoid<S>(t[0]), tanh<S>(t[2]), kept);
    return S::mul(sigmoid<S>(t[3]), tanh<S>(carried));
  }
};

template <class S>
struct Gru {
  using F = typename S::F;
  using Paired = Gru<Pair<S>>;  // of two streams at once
  static constexpr int kGates = 3;
  static constexpr bool kCarriesH = true, kQuantizes = true;
  static constexpr const char* kOp = "gru";

  // bias[3] is that of h in the new gate. Both return h, and carry it.
  static inline F quantized(const F (&x)[3], const F (&h)[3], const F (&bias)[4], F& carried) {
    const Tanh<S> r(S::add(S::add(x[0], h[0]), bias[0])), z(S::add(S::add(x[1], h[1]), bias[1]));
    const F reset = S::div(r.sum(), S::add(r.den, r.den));
    const Tanh<S> n(S::add(S::add(x[2], bias[2]), S::mul(reset, S::add(h[2], bias[3]))));
    const F top = S::fma(S::mul(z.sum(), carried), n.den, S::mul(n.num, z.difference()));
    carried = S::div(top, S::mul(S::add(z.den, z.den), n.den));
    return carried;
  }

  static inline F exact(const F (&x)[3], const F (&h)[3], const F (&bias)[4], F& carried) {
    const F r = sigmoid<S>(S::add(S::add(x[0], h[0]), bias[0]));
    const F z = sigmoid<S>(S::add(S::add(x[1], h[1]), bias[1]));
    const F n = tanh<S>(S::mul_add(r, S::add(h[2], bias[3]), S::add(x[2], bias[2])));
    carried = S::mul_add(z, S::sub(carried, n), n);
    return carried;
  }
};

}  // namespace rta
