// One update of a linear model in UD form, over all outputs at once.
//
//   alpha = start
//   for each block column j:
//     f = U_j' phi,  v = d_j f                   16 accumulators, then one transpose-add
//     after = alpha + prefix sums of f v,  before = after one lane on, from alpha
//     p = -f / before,  d_j = min(d_j before / (after forget), d_max),  alpha = the last of after
//     for each row block i <= j, column c:  U' = U + b_i p_c,  b_i += U v_c      (U before it was changed)
//   w += (y - w phi) / alpha * b
//
// b ends as P phi and alpha - start as phi' P phi. The diagonal of ones makes f, b and U right in the block on the
// diagonal without a case of its own. The chain of scalars of a block column waits for two divisions and 16 additions;
// the products of the next block column stand behind it, so their loads go on meanwhile.
//
// Floor: U is read once from where it lies and written once, n * n / 2 * 4 bytes each way; a block column is still in
// the first cache when it is written.
#pragma once

#include "_core/stage.h"
#include "online/lanes16.h"
#include "online/ud.h"

namespace rta::online {
namespace {

template <class S>
struct UdMath {
  using F = typename S::F;
  using L = Lanes16<S>;
  static constexpr int kLanes = L::kLanes, kParts = L::kParts;
  static constexpr int kRowBlocks = kParts >= 4 ? 1 : 4 / kParts;  // chains of additions at once
  static constexpr float kPlain = 1048576.0f;  // features up to here overflow nothing that is not absurd

  // f = U_j' phi, for the 16 columns of block column j.
  static L products(const UdState& s, int64_t j) {
    L f;
    for (int group = 0; group < kParts; ++group) {
      F sums[kParts][kLanes];
      for (int part = 0; part < kParts; ++part) {
        F acc[kLanes];
        for (int c = 0; c < kLanes; ++c) acc[c] = S::set(0.0f);
        const float* u = s.u + block_at(0, j) + group * kLanes * kBlock + part * kLanes;
        const float* phi = s.phi + part * kLanes;
        for (int64_t i = 0; i <= j; ++i, u += kBlockFloats, phi += kBlock) {
          const F x = S::load(phi);
          for (int c = 0; c < kLanes; ++c) acc[c] = S::fma(S::load(u + c * kBlock), x, acc[c]);
        }
        for (int c = 0; c < kLanes; ++c) sums[part][c] = acc[c];
      }
      F whole[kLanes];
      for (int c = 0; c < kLanes; ++c) {
        F parts[kParts];
        for (int part = 0; part < kParts; ++part) parts[part] = sums[part][c];
        whole[c] = L::folded(parts);
      }
      f.part[group] = L::transposed_sums(whole);
    }
    return f;
  }

  // Row blocks `from` to `from + count` of block column j.
  template <int count>
  static void rows(const UdState& s, int64_t from, int64_t j, const float* p, const float* v, bool fresh) {
    float *u = s.u + block_at(from, j), *to = s.b + from * kBlock;
    F b[count][kParts];
    for (int r = 0; r < count; ++r)
      for (int i = 0; i < kParts; ++i) b[r][i] = fresh ? S::set(0.0f) : S::load(to + r * kBlock + i * kLanes);
    for (int c = 0; c < kBlock; ++c) {
      const F pc = S::set(p[c]), vc = S::set(v[c]);
      for (int r = 0; r < count; ++r)
        for (int i = 0; i < kParts; ++i) {
          float* at = u + r * kBlockFloats + c * kBlock + i * kLanes;
          const F x = S::load(at);
          S::store(at, S::fma(b[r][i], pc, x));
          b[r][i] = S::fma(x, vc, b[r][i]);
        }
    }
    for (int r = 0; r < count; ++r)
      for (int i = 0; i < kParts; ++i) S::store(to + r * kBlock + i * kLanes, b[r][i]);
  }

  static float dot(const float* w, const float* phi, int64_t blocks) {
    L acc = L::zero();
    for (int64_t i = 0; i < blocks; ++i) acc = L::fma(L::load(w + i * kBlock), L::load(phi + i * kBlock), acc);
    return L::sum_of_folded(L::folded(acc.part));
  }

  static void predict(const UdState& s, const float* phi, float* y) {
    const int64_t whole = s.features / kBlock, rest = s.features % kBlock;
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float* w = s.w + o * s.blocks * kBlock;
      L acc = L::zero();
      for (int64_t i = 0; i < whole; ++i) acc = L::fma(L::load(w + i * kBlock), L::load(phi + i * kBlock), acc);
      if (rest) acc = L::fma(L::load(w + whole * kBlock), L::load_n(phi + whole * kBlock, rest), acc);
      y[o] = L::sum_of_folded(L::folded(acc.part));
    }
  }

  // Copies phi behind its padding; its largest size, and infinity for what is no number or too large.
  static float take(UdState& s, const float* phi) {
    const F limit = S::set(kLargest), infinite = S::set(__builtin_inff());
    F largest = S::set(0.0f);
    for (int64_t i = 0; i < s.blocks; ++i) {
      const int64_t left = s.features - i * kBlock;
      const L x = left >= kBlock ? L::load(phi + i * kBlock) : L::load_n(phi + i * kBlock, left);
      x.store(s.phi + i * kBlock);
      for (int p = 0; p < kParts; ++p) {
        const F size = S::abs(x.part[p]);
        largest = S::max(largest, S::select(S::less(size, limit), size, infinite));
      }
    }
    return S::max_of(largest);
  }

  static bool usable(float v) { return v > -kLargest && v < kLargest; }

  // phi' P phi, without a change of anything; not usable where a number on the way is not.
  static float spread(const UdState& s) {
    L total = L::zero();
    float worst = 0.0f;
    for (int64_t j = 0; j < s.blocks; ++j) {
      const L f = products(s, j);
      total = L::fma(L::mul(L::load(s.d + j * kBlock), f), f, total);
      for (int p = 0; p < kParts; ++p) {
        const F size = S::abs(f.part[p]);
        const float most = S::max_of(S::select(S::less(size, S::set(kLargest)), size, S::set(__builtin_inff())));
        worst = most > worst ? most : worst;
      }
    }
    const float sum = L::sum_of_folded(L::folded(total.part));
    return usable(worst) ? sum : __builtin_inff();
  }

  static Outcome learn(UdState& s, const float* phi, const float* y, float* prediction) {
    const float largest = take(s, phi);
    bool right = usable(largest);
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float said = dot(s.w + o * s.blocks * kBlock, s.phi, s.blocks);
      const float wanted = y[o];  // prediction may be the same memory
      s.error[o] = wanted - said;
      prediction[o] = said;
      right = right && usable(wanted) && usable(s.error[o]);
    }
    if (!right || (largest > kPlain && !usable(s.start + spread(s)))) return Outcome::kRejected;

    const L d_max = L::all(s.d_max), forget = L::all(s.forget), zero = L::zero();
    float last = s.start;
    L f = products(s, 0);
    for (int64_t j = 0; j < s.blocks; ++j) {
      const L d = L::load(s.d + j * kBlock), v = L::mul(d, f);
      const L after = L::add(L::all(last), L::prefix_sums(L::mul(f, v)));
      const L before = L::template up<1>(after, S::set(last));
      const L p = L::div(L::sub(zero, f), before);
      const L grown = L::div(L::mul(d, before), L::mul(after, forget));
      last = after.part[kParts - 1][kLanes - 1];
      // Only what was built up over many samples comes here. Columns before this one are those of a shorter phi: a
      // covariance still, and w is as it was.
      if (!usable(last)) return Outcome::kRejected;
      L::min(grown, d_max).store(s.d + j * kBlock);
      alignas(64) float ps[kBlock], vs[kBlock];
      p.store(ps);
      v.store(vs);
      if (j + 1 < s.blocks) f = products(s, j + 1);
      int64_t i = 0;
      for (; i + kRowBlocks <= j; i += kRowBlocks) rows<kRowBlocks>(s, i, j, ps, vs, false);
      for (; i < j; ++i) rows<1>(s, i, j, ps, vs, false);
      rows<1>(s, j, j, ps, vs, true);
    }
    for (int64_t o = 0; o < s.outputs; ++o) {
      const L gain = L::all(s.error[o] / last);
      float* w = s.w + o * s.blocks * kBlock;
      for (int64_t i = 0; i < s.blocks; ++i)
        L::fma(gain, L::load(s.b + i * kBlock), L::load(w + i * kBlock)).store(w + i * kBlock);
    }
    return Outcome::kLearned;
  }

  static float variance(UdState& s, const float* phi) {
    if (!usable(take(s, phi))) return __builtin_nanf("");
    return spread(s);
  }

  // P += c a a', a column at a time from the last: Agee and Turner's update, of positive terms alone. a = e_k for each
  // feature k, so that columns behind k stay. O(n^3 / 3) in all.
  static void add_noise(UdState& s, const float* variances) {
    for (int64_t k = 0; k < s.features; ++k) {
      float c = variances[k];
      if (!(c > 0.0f)) continue;
      float* a = s.x;
      const int64_t blocks = k / kBlock + 1;
      for (int64_t i = 0; i < blocks; ++i) L::zero().store(a + i * kBlock);
      a[k] = 1.0f;
      for (int64_t j = k; j >= 0; --j) {
        const float aj = a[j], d = s.d[j], new_d = d + c * aj * aj;
        if (new_d > 0.0f) {
          const float ratio = c * aj / new_d;
          const L minus = L::all(-aj), by = L::all(ratio);
          const int64_t column = j / kBlock;
          for (int64_t i = 0; i <= column; ++i) {  // rows from j on: U there is the one and zeros
            float* at = s.u + block_at(i, column) + j % kBlock * kBlock;
            const L u = L::load(at), rest = L::fma(minus, u, L::load(a + i * kBlock));
            L::fma(by, rest, u).store(at);
            rest.store(a + i * kBlock);
          }
          c = c * d / new_d;
        }
        s.d[j] = new_d < s.d_max ? new_d : s.d_max;
      }
    }
  }
};

}  // namespace

template <class S>
static void register_kernels() {
  using M = UdMath<S>;
  add_ud_kernels(S::kIsa, M::learn, M::predict, M::variance, M::add_noise);
}

}  // namespace rta::online

namespace rta {
using online::register_kernels;
}
