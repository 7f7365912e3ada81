// AVX-512 with VNNI and the permutations of bytes of VBMI, which kernels that pick bytes use as they are.
#pragma once

#include "_simd/simd_avx512vnni.h"

namespace rta {
namespace {  // what one instruction set compiles is never merged with what another does

struct Avx512Vbmi : Avx512Vnni {
  static constexpr Isa kIsa = Isa::kAvx512Vbmi;
  static constexpr bool kAddsDots = false;
};

using simd_avx512vbmi = Avx512Vbmi;

}  // namespace
}  // namespace rta
