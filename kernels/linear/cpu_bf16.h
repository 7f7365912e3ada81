// Linear with bfloat16 weights and float32 activations: y = act(sum_k x[k] * float32(weight[k]) + bias), float32 sums.
//
// A word holds the weights of an even and an odd k; as float32 the odd one is the word with its lower half masked, the
// even one the word shifted: two operations and two multiply-adds for a vector of words. vdpbf16ps would do it in one
// operation, and round x to bfloat16, but takes 2.1 clocks where the four take 2.1 too (Xeon with AVX-512-BF16,
// 2026-11).
//
// Floor, 1 x 256 x 256: 128 KiB of weights at 64 bytes in 2.1 clocks; from 2 MiB on, their bytes at the bandwidth of
// the third-level cache.
#pragma once

#include "linear/float_input.h"

namespace rta {

template <class S>
struct Bfloat16 {
  using Weight = uint16_t;
  using I = typename S::I;
  using F = typename S::F;
  static constexpr int kGroup = 2;
  static constexpr int kStep = S::kLanes * 4;
  static constexpr bool kQuantizes = false;
  static const Weight* weights(const Attrs& attrs, int64_t count) { return attrs.bfloats("weight", count); }

  static void finish(LinearLayer& p, const StageSpec& spec, const Weight*) {
    p.offset = padded_copy(spec, spec.attrs.floats("bias", p.n), p.n, S::kLanes);
  }

  static RowsIn prepare(const LinearLayer& p, const Run& run, int64_t first, int64_t) {
    return {p.x.row(run, first), p.x.pitch, nullptr};
  }

  template <int R, int V>
  static inline __attribute__((always_inline)) void sums(const LinearLayer& p, const char* w, const RowsIn& in,
                                                         int64_t column, F (&t)[R][V]) {
    F odd[R][V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const F bias = S::load(p.offset + column + v * S::kLanes);
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        t[r][v] = bias;
        odd[r][v] = S::set(0.0f);
      }
    }
    const I upper = Bits<S>::pinned(S::set_int(static_cast<int32_t>(0xffff0000)));
    const char* x = in.x;
    for (int64_t k = 0; k + 1 < p.k; k += 2, w += V * kStep, x += 8) {
      I words[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) words[v] = Bits<S>::pinned(Bits<S>::load(w + v * kStep));
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) {
        const float* at = reinterpret_cast<const float*>(x + r * in.pitch);
        const F first = S::set(at[0]), second = S::set(at[1]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
          t[r][v] = S::mul_add(Bits<S>::low_bf16(words[v]), first, t[r][v]);
          odd[r][v] = S::mul_add(Bits<S>::high_bf16(words[v], upper), second, odd[r][v]);
        }
      }
    }
#pragma GCC unroll 3
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        if (p.k % 2) {
          const F last = S::set(*reinterpret_cast<const float*>(x + r * in.pitch));
          t[r][v] = S::mul_add(Bits<S>::low_bf16(Bits<S>::load(w + v * kStep)), last, t[r][v]);
        }
        t[r][v] = S::add(t[r][v], odd[r][v]);
      }
  }
};

static const char* bf16_reject(const Attrs& attrs) {
  if (!attrs.text_is("weight_dtype", "bfloat16")) return "takes bfloat16 weights";
  return attrs.text_is("input_dtype", "float32") ? nullptr : "takes float32 inputs";
}

template <class S>
RTA_ONCE Stage* create_bf16(const StageSpec& spec) {
  return new FloatInputStage<S, Bfloat16<S>>(spec);
}

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "linear", "cpu_bf16", bf16_reject, create_bf16<S>);
}

}  // namespace rta
