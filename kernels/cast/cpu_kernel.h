// Cast on the CPU: float32 of float16 and bfloat16, and the other way. The contract is in contract.py.
//
// Whole numbers and selects alone, which the compiler makes vectors of on every instruction set, with the same bits.
// Floor: the bytes read and written over the bandwidth of the first cache.
#pragma once

#include "_common/checks.h"

namespace rta {

template <class S>
class CastStage final : public Stage {
 public:
  explicit CastStage(const StageSpec& spec)
      : x_(spec.in(0)), y_(spec.out(0)), from_(spec.input(0).dtype), to_(spec.output(0).dtype) {
    expect_ports(spec, 1, 1);
    expect((from_ == RTA_FLOAT32) != (to_ == RTA_FLOAT32) && is_real(from_) && is_real(to_), "%s to %s",
           dtype_name(from_), dtype_name(to_));
    expect(product(x_.steps, x_.width) == product(y_.steps, y_.width), "samples of %lld elements, and of %lld",
           static_cast<long long>(x_.steps * x_.width), static_cast<long long>(y_.steps * y_.width));
  }

  Dtypes takes() const override { return Dtypes::all; }

  void run(const Run& run) const override {
    const int64_t count = x_.steps * x_.width, in = dtype_bytes(from_), out = dtype_bytes(to_);
    for (int64_t s = 0; s < run.samples; ++s)
      for (int64_t at = 0; at < count;) {  // a run of elements that lie in one row of both
        const int64_t column = at % x_.width, place = at % y_.width;
        const int64_t left = x_.width - column, room = y_.width - place, n = left < room ? left : room;
        cast(x_.row(run, s * x_.steps + at / x_.width) + column * in,
             y_.row(run, s * y_.steps + at / y_.width) + place * out, n);
        at += n;
      }
  }

 private:
  static bool is_real(rta_dtype dtype) { return dtype == RTA_FLOAT32 || dtype == RTA_FLOAT16 || dtype == RTA_BFLOAT16; }

  void cast(const char* from, char* to, int64_t n) const {
    const uint16_t* half = reinterpret_cast<const uint16_t*>(from);
    const uint32_t* whole = reinterpret_cast<const uint32_t*>(from);
    uint32_t* wide = reinterpret_cast<uint32_t*>(to);
    uint16_t* narrow = reinterpret_cast<uint16_t*>(to);
    if (from_ == RTA_BFLOAT16)
      for (int64_t i = 0; i < n; ++i) wide[i] = static_cast<uint32_t>(half[i]) << 16;
    else if (from_ == RTA_FLOAT16)
      for (int64_t i = 0; i < n; ++i) wide[i] = of_float16(half[i]);
    else if (to_ == RTA_BFLOAT16)
      for (int64_t i = 0; i < n; ++i) narrow[i] = to_bfloat16(whole[i]);
    else
      for (int64_t i = 0; i < n; ++i) narrow[i] = to_float16(whole[i]);
  }

  static uint32_t bits(float x) {
    uint32_t u;
    __builtin_memcpy(&u, &x, 4);
    return u;
  }
  static float real(uint32_t u) {
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
  }

  static uint32_t of_float16(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, size = h & 0x7fff;
    const uint32_t tiny = bits(static_cast<float>(static_cast<int32_t>(size)) * 0x1p-24f);  // subnormal
    const uint32_t normal = (size << 13) + (size >= 0x7c00 ? 0x70000000u : 0x38000000u);  // infinity and NaN: all ones
    return sign | (size < 0x0400 ? tiny : normal);
  }

  static uint16_t to_bfloat16(uint32_t u) {
    const uint32_t rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, quiet = (u >> 16) | 0x40;
    return static_cast<uint16_t>((u & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
  }

  static uint16_t to_float16(uint32_t u) {
    const uint32_t sign = (u >> 16) & 0x8000, size = u & 0x7fffffff;
    const uint32_t tiny = bits(real(size) + 0.5f) - 0x3f000000u;  // one step of the sum is one of float16's subnormals
    const uint32_t normal = (size - 0x38000000u + 0xfff + ((size >> 13) & 1)) >> 13;
    const uint32_t finite = size < 0x38800000u ? tiny : normal;
    const uint32_t large = size > 0x7f800000u ? 0x7e00u : 0x7c00u;
    return static_cast<uint16_t>(sign | (size >= 0x47800000u ? large : finite));
  }

  GraphIO x_, y_;
  rta_dtype from_, to_;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "cast", "cpu", nullptr, create_stage<CastStage<S>>);
}

}  // namespace rta
