// Sixteen lanes on every instruction set: one vector of 16, two of 8, or four of 4. Sums over lanes and prefix sums
// have one order of additions, so the bits are the same everywhere.
#pragma once

#include <utility>

#include "_simd/simd_common.h"

namespace rta::online {
namespace {  // what one instruction set compiles is never merged with what another does

template <class S>
struct Lanes16 {
  using F = typename S::F;
  static constexpr int kLanes = S::kLanes, kParts = 16 / kLanes;

  F part[kParts];

  static Lanes16 zero() { return all(0.0f); }
  static Lanes16 all(float v) {
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) r.part[i] = S::set(v);
    return r;
  }
  static Lanes16 load(const float* p) {
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) r.part[i] = S::load(p + i * kLanes);
    return r;
  }
  static Lanes16 load_n(const float* p, int64_t n) {  // zeros from n on, which are not read
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) {
      const int64_t left = n - i * kLanes;
      r.part[i] = left >= kLanes ? S::load(p + i * kLanes)
                  : left > 0     ? S::load_n(p + i * kLanes, static_cast<int>(left))
                                 : S::set(0.0f);
    }
    return r;
  }
  void store(float* p) const {
    for (int i = 0; i < kParts; ++i) S::store(p + i * kLanes, part[i]);
  }

#define RTA_ONLINE_EACH(name)                                                   \
  static Lanes16 name(const Lanes16& a, const Lanes16& b) {                     \
    Lanes16 r;                                                                  \
    for (int i = 0; i < kParts; ++i) r.part[i] = S::name(a.part[i], b.part[i]); \
    return r;                                                                   \
  }
  RTA_ONLINE_EACH(add)
  RTA_ONLINE_EACH(sub)
  RTA_ONLINE_EACH(mul)
  RTA_ONLINE_EACH(div)
  RTA_ONLINE_EACH(min)
#undef RTA_ONLINE_EACH
  static Lanes16 fma(const Lanes16& a, const Lanes16& b, const Lanes16& c) {
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) r.part[i] = S::fma(a.part[i], b.part[i], c.part[i]);
    return r;
  }

  // Lane by lane: yes where a < b, else no (and where one of them is NaN).
  static Lanes16 where_less(const Lanes16& a, const Lanes16& b, const Lanes16& yes, const Lanes16& no) {
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) r.part[i] = S::where_less(a.part[i], b.part[i], yes.part[i], no.part[i]);
    return r;
  }

  // Lane i is lane i - by of a, and of `first` (in its last lanes) where that is below 0.
  template <int by>
  static Lanes16 up(const Lanes16& a, F first) {
    Lanes16 r;
    for (int i = 0; i < kParts; ++i) {
      if constexpr (by < kLanes) {
        r.part[i] = shifted<kLanes - by>(i ? a.part[i - 1] : first, a.part[i], Sequence());
      } else {
        r.part[i] = i >= by / kLanes ? a.part[i - by / kLanes] : first;
      }
    }
    return r;
  }

  // Lane i is the sum of lanes 0 to i.
  static Lanes16 prefix_sums(Lanes16 a) {
    const F zero = S::set(0.0f);
    a = add(a, up<1>(a, zero));
    a = add(a, up<2>(a, zero));
    a = add(a, up<4>(a, zero));
    return add(a, up<8>(a, zero));
  }

  // The lanes of each part, added as far as lanes lie in different parts: lane l with l + 8, then with l + 4.
  static F folded(const F* parts) {
    if constexpr (kParts == 1) return parts[0];
    if constexpr (kParts == 2) return S::add(parts[0], parts[1]);
    if constexpr (kParts == 4) return S::add(S::add(parts[0], parts[2]), S::add(parts[1], parts[3]));
  }

  // Of kLanes folded vectors: lane c is the sum over the lanes of vectors[c]. The vectors are lost.
  static F transposed_sums(F* vectors) {
    halve<kLanes / 2>(vectors);
    return vectors[0];
  }
  static float sum_of_folded(F v) { return sum_down<kLanes / 2>(v); }

 private:
  using Sequence = std::make_integer_sequence<int, kLanes>;

  template <int from, int... l>
  static F shifted(F low, F high, std::integer_sequence<int, l...>) {
    return __builtin_shufflevector(low, high, (from + l)...);
  }
  // In each group of 2 * half lanes: sums of a's halves below, of b's above.
  template <int half, int... l>
  static F joined(F a, F b, std::integer_sequence<int, l...>) {
    const F low = __builtin_shufflevector(a, b, (l / (2 * half) * 2 * half + l % half + (l / half % 2) * kLanes)...);
    const F high =
        __builtin_shufflevector(a, b, (l / (2 * half) * 2 * half + l % half + half + (l / half % 2) * kLanes)...);
    return S::add(low, high);
  }
  template <int half>
  static void halve(F* vectors) {
    for (int i = 0; i < half; ++i) vectors[i] = joined<half>(vectors[i], vectors[i + half], Sequence());
    if constexpr (half > 1) halve<half / 2>(vectors);
  }
  template <int half>
  static float sum_down(F v) {
    v = joined<half>(v, v, Sequence());
    if constexpr (half > 1) return sum_down<half / 2>(v);
    return v[0];
  }
};

}  // namespace
}  // namespace rta::online
