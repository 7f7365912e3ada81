// Registers of bytes over the vectors of a set: 4 for each lane of S, laid out [4 / group][lane][group] with the group
// of its dot product. What the sparse kernels pick from x, and what they multiply.
#pragma once

#include <cstdint>

#include "_core/isa.h"

#if defined(__x86_64__) && defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace rta {

template <class S, bool kPlain = S::kIsa == Isa::kPortable>
struct Bytes;

#if defined(__AVX512BW__) || defined(__AVX2__) || defined(__aarch64__)
template <class S>
struct Bytes<S, false> {
  static constexpr int kBytes = 4 * S::kLanes;
  static constexpr int kGroup = S::kGroup;

#if defined(__AVX512BW__)
  using B = __m512i;
  static B load(const void* p) { return _mm512_loadu_si512(p); }
  static B repeat16(const uint8_t* p) {  // 16 bytes in every 128 bits
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static B pick16(B table, B index) { return _mm512_shuffle_epi8(table, index); }  // bits 4 to 6 do not count
  static B pick32(B low, B high, B index) {
    const __mmask64 upper = _mm512_movepi8_mask(_mm512_slli_epi16(index, 3));
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low, index), upper, high, index);
  }
  static typename S::I dot(typename S::I acc, B x, const int8_t* w) {
    if constexpr (kGroup == 4) return S::dot(acc, x, S::load_w(w));
    acc = S::dot(acc, _mm512_cvtepu8_epi16(_mm512_castsi512_si256(x)), S::load_w(w));
    return S::dot(acc, _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(x, 1)), S::load_w(w + 32));
  }
  template <int n>
  static B field(B index, B base) {  // two bits of each byte, from bit n on, and base
    return _mm512_ternarylogic_epi32(_mm512_srli_epi16(index, n), _mm512_set1_epi8(3), base, 0xEA);
  }
#elif defined(__AVX2__)
  using B = __m256i;
  static B load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static B repeat16(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static B pick16(B table, B index) { return _mm256_shuffle_epi8(table, index); }
  static B pick32(B low, B high, B index) {
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(low, index), _mm256_shuffle_epi8(high, index),
                              _mm256_slli_epi16(index, 3));
  }
  static typename S::I dot(typename S::I acc, B x, const int8_t* w) {
    if constexpr (kGroup == 4) return S::dot(acc, x, S::load_w(w));
    acc = S::dot(acc, _mm256_cvtepu8_epi16(_mm256_castsi256_si128(x)), S::load_w(w));
    return S::dot(acc, _mm256_cvtepu8_epi16(_mm256_extracti128_si256(x, 1)), S::load_w(w + 16));
  }
  template <int n>
  static B field(B index, B base) {
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(index, n), _mm256_set1_epi8(3)), base);
  }
#elif defined(__aarch64__)
  using B = uint8x16_t;
  static B load(const void* p) { return vld1q_u8(static_cast<const uint8_t*>(p)); }
  static B repeat16(const uint8_t* p) { return vld1q_u8(p); }
  static B pick16(B table, B index) { return vqtbl1q_u8(table, index); }
  static typename S::I dot(typename S::I acc, B x, const int8_t* w) {
    const int8x16_t q = vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(0x80)));
    if constexpr (kGroup == 4) {
      return S::dot(acc, q, S::load_w(w));
    } else {
      acc = S::dot(acc, vget_low_s8(q), S::load_w(w));
      return S::dot(acc, vget_high_s8(q), S::load_w(w + 8));
    }
  }
  template <int n>
  static B field(B index, B base) {
    if constexpr (n == 0)
      return vorrq_u8(vandq_u8(index, vdupq_n_u8(3)), base);
    else
      return vorrq_u8(vandq_u8(vshrq_n_u8(index, n), vdupq_n_u8(3)), base);
  }
#endif
};
#endif

template <class S>
struct Bytes<S, true> {
  static constexpr int kBytes = 4 * S::kLanes;

  struct B {
    uint8_t at[kBytes];
  };
  static B load(const void* p) {
    B b;
    __builtin_memcpy(&b, p, kBytes);
    return b;
  }
  static B repeat16(const uint8_t* p) { return load(p); }
  static B pick16(const B& table, const B& index) {
    B b;
    for (int i = 0; i < kBytes; ++i) b.at[i] = table.at[index.at[i] & 15];
    return b;
  }
  static typename S::I dot(typename S::I acc, const B& x, const int8_t* w) {
    for (int i = 0; i < 4; ++i) acc = S::dot(acc, S::load_u8(x.at + i * S::kLanes), S::load_w(w + i * S::kLanes));
    return acc;
  }
  template <int n>
  static B field(const B& index, const B& base) {
    B b;
    for (int i = 0; i < kBytes; ++i) b.at[i] = static_cast<uint8_t>((index.at[i] >> n & 3) | base.at[i]);
    return b;
  }
};

// A window of one row of int8 x: what a step may pick from. limit: bytes of the row that may be read.
template <class S, bool kPlain = S::kIsa == Isa::kPortable>
struct ByteWindow;

#if defined(__AVX512BW__) || defined(__AVX2__) || defined(__aarch64__)
template <class S>
struct ByteWindow<S, false> {
  using B = typename Bytes<S>::B;
#if defined(__AVX512VBMI__)
  static constexpr int kWindow = 128, kAlign = 16;
  B low, high;
  ByteWindow(const uint8_t* x, int64_t limit) : low(Bytes<S>::load(x)), high(Bytes<S>::load(x + (limit >= 128) * 64)) {}
  B pick(B index) const { return _mm512_permutex2var_epi8(low, index, high); }
#elif defined(__AVX2__)
  static constexpr int kWindow = 32, kAlign = 8;
  B low, high;
  ByteWindow(const uint8_t* x, int64_t) : low(Bytes<S>::repeat16(x)), high(Bytes<S>::repeat16(x + 16)) {}
  B pick(B index) const { return Bytes<S>::pick32(low, high, index); }
#elif defined(__aarch64__)
  static constexpr int kWindow = 64, kAlign = 16;
  uint8x16x4_t table;
  ByteWindow(const uint8_t* x, int64_t) : table(vld1q_u8_x4(x)) {}
  B pick(B index) const { return vqtbl4q_u8(table, index); }
#endif
  static constexpr bool kTable = true;  // loads the whole window, not only what is picked
#if defined(__AVX512VBMI__)
  static constexpr int kTogether = 2;  // vectors that share a window: loads are what bounds them
#else
  static constexpr int kTogether = 1;
#endif
};
#endif

template <class S>
struct ByteWindow<S, true> {
  using B = typename Bytes<S>::B;
  static constexpr int kWindow = 256, kAlign = 1;
  const uint8_t* x;
  ByteWindow(const uint8_t* at, int64_t) : x(at) {}
  B pick(const B& index) const {
    B b;
    for (int i = 0; i < Bytes<S>::kBytes; ++i) b.at[i] = x[index.at[i]];
    return b;
  }
  static constexpr bool kTable = false;
  static constexpr int kTogether = 1;
};

}  // namespace rta
