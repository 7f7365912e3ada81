// Bits of the vectors of a set, in the compiler's own vector types: what the simd_*.h need not name.
#pragma once

#include <cstdint>

namespace rta {

template <class S>
struct Bits {
  typedef int32_t Words __attribute__((vector_size(S::kLanes * 4)));
  typedef uint32_t Unsigned __attribute__((vector_size(S::kLanes * 4)));
  using I = typename S::I;
  using F = typename S::F;

  static I load(const void* p) {
    Words v;
    __builtin_memcpy(&v, p, sizeof v);
    return (I)v;
  }
  // Keeps a vector in a register: gcc would else load it, or build a constant, again at each use.
  static I pinned(I v) {
#if defined(__AVX512F__)
    asm("" : "+v"(v));
#elif defined(__x86_64__)
    asm("" : "+x"(v));
#elif defined(__aarch64__)
    asm("" : "+w"(v));
#endif
    return v;
  }
  static void store(void* p, I v) { __builtin_memcpy(p, &v, sizeof v); }
  static I sub(I a, I b) { return (I)((Words)a - (Words)b); }
  static I both(I a, I mask) { return (I)((Words)a & (Words)mask); }
  static I both(I a, int32_t mask) { return (I)((Words)a & mask); }
  static I flip(I a, int32_t mask) { return (I)((Words)a ^ mask); }
  static I left(I a, int n) { return (I)((Unsigned)a << n); }
  static I right(I a, int n) { return (I)((Unsigned)a >> n); }    // zeros move in
  static I right_sign(I a, int n) { return (I)((Words)a >> n); }  // the sign moves in
  // A word as two bfloat16 numbers, as the float32 they are.
  static F low_bf16(I a) { return (F)((Unsigned)a << 16); }
  static F high_bf16(I a, I mask) { return (F)((Words)a & (Words)mask); }  // mask: 0xffff0000
};

}  // namespace rta
