// A vector of an image's numbers, and the channels of its groups one after another: of groups of kWide numbers, each
// lane gets number i of its own group. With AVX-512 VNNI each lane gets 4 of the bytes of its group, for a dot product.
#pragma once

#include <cstdint>
#include <utility>

#if defined(__AVX512VNNI__)
#include <immintrin.h>
#endif

namespace rta {

template <class S, bool kInt8>
inline __attribute__((always_inline)) typename S::F image_numbers(const char* from, int v) {
  if constexpr (kInt8) return S::to_float(S::load_u8(reinterpret_cast<const uint8_t*>(from) + v * S::kLanes));
  return S::load(reinterpret_cast<const float*>(from) + v * S::kLanes);
}

// f(0), f(1), ... with constants.
template <class F, int... i>
inline __attribute__((always_inline)) void each_in(F&& f, std::integer_sequence<int, i...>) {
  (f(std::integral_constant<int, i>()), ...);
}
template <int n, class F>
inline __attribute__((always_inline)) void each_of(F&& f) {
  each_in(f, std::make_integer_sequence<int, n>());
}

template <class S, int kWide, bool kInt8>
struct GroupNumbers {
  typename S::F numbers;

  inline __attribute__((always_inline)) void load(const char* from, int v) {
    numbers = image_numbers<S, kInt8>(from, v);
  }

  template <int kWhich>
  inline __attribute__((always_inline)) typename S::F channel() const {
    return shuffled<kWhich>(std::make_integer_sequence<int, S::kLanes>());
  }

 private:
  template <int kWhich, int... lane>
  inline __attribute__((always_inline)) typename S::F shuffled(std::integer_sequence<int, lane...>) const {
    return __builtin_shufflevector(numbers, numbers, (lane / kWide * kWide + kWhich)...);
  }
};

#if defined(__AVX512VNNI__)

template <class S, int kWide>
struct GroupBytes {
  static constexpr bool kDots = kWide > 1;
  static constexpr int kSteps = kWide > 4 ? kWide / 4 : 1;

  // Of 16 bytes that are in each quarter of the vector: which ones a lane takes.
  GroupBytes() {
    alignas(64) uint8_t at[64];
    for (int step = 0; step < kSteps; ++step) {
      for (int i = 0; i < 64; ++i) at[i] = static_cast<uint8_t>(i / 4 / kWide * kWide + (4 * step + i % 4) % kWide);
      from_[step] = _mm512_load_si512(at);
    }
  }

  template <int V, int R>
  inline __attribute__((always_inline)) void dots(typename S::I (&sum)[R][V], const char* const (&from)[R],
                                                  const float* w, int v) const {
    typename S::W weight[kSteps];
#pragma GCC unroll 2
    for (int i = 0; i < kSteps; ++i) weight[i] = _mm512_loadu_si512(w + (i * V + v) * S::kLanes);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const __m128i group = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from[r] + v * S::kLanes));
      const __m512i all = _mm512_broadcast_i32x4(group);
#pragma GCC unroll 2
      for (int i = 0; i < kSteps; ++i) sum[r][v] = S::dot(sum[r][v], _mm512_shuffle_epi8(all, from_[i]), weight[i]);
    }
  }

 private:
  __m512i from_[kSteps];
};

#else

template <class S, int kWide>
struct GroupBytes {
  static constexpr bool kDots = false;
  static constexpr int kSteps = kWide;
};

#endif

}  // namespace rta
