// One step of a block of cells. The loops over cells have sixteen rounds each, which the compiler makes vectors of; sums
// and products round separately, so the bits are the same on every instruction set.
//
// Floor: the state is read and written once, some 4 bytes each for a feature and cell; a division for each rate.
#pragma once

#include "_core/stage.h"
#include "_simd/simd_common.h"
#include "online/bank.h"

namespace rta::online {
namespace {

constexpr float kLargestSample = 1e18f;

template <class S>
struct BankMath {
  typedef int32_t Mask;  // all ones or zero

  static float chosen(Mask ok, float yes, float no) { return ok ? yes : no; }

  struct Step {
    const BankBlock& block;
    Mask ok[kCells];
    float running[kCells];  // 1 / (t + 1)
    float before[kCells];   // t
  };

  // m moves towards `of` at a rate for each cell.
  static void towards(const Step& step, const float* of, const float* rate, float* m, float* to) {
    for (int l = 0; l < kCells; ++l) {
      const float moved = m[l] + rate[l] * (of[l] - m[l]);
      m[l] = to[l] = chosen(step.ok[l], moved, m[l]);
    }
  }

  static void ewma(const Step& step, const float* of, float rate, float* m, float* to) {
    float rates[kCells];
    for (int l = 0; l < kCells; ++l) rates[l] = step.running[l] > rate ? step.running[l] : rate;
    towards(step, of, rates, m, to);
  }

  static void first(const Step& step, const float* of, float length, float* m, float* to) {
    float rates[kCells];
    for (int l = 0; l < kCells; ++l) rates[l] = step.before[l] < length ? step.running[l] : 0.0f;
    towards(step, of, rates, m, to);
  }

  template <bool least>
  static void extreme(const Step& step, const float* of, float* m, float* to) {
    for (int l = 0; l < kCells; ++l) {
      const bool taken = step.before[l] == 0.0f || (least ? of[l] < m[l] : of[l] > m[l]);
      m[l] = to[l] = chosen(step.ok[l] & -static_cast<Mask>(taken), of[l], m[l]);
    }
  }

  // A ring of `length` samples for each cell, at its own number of samples.
  static void lag(const Step& step, const float* of, int32_t length, float* ring, float* to) {
    for (int l = 0; l < kCells; ++l) {
      if (!step.ok[l]) continue;
      const uint32_t n = step.block.samples[l];
      float* at = ring + static_cast<int64_t>(n % static_cast<uint32_t>(length)) * kCells + l;
      to[l] = n >= static_cast<uint32_t>(length) ? *at : n ? ring[l] : of[l];
      *at = of[l];
    }
  }

  // Weighted means and moments of age and value around them: nothing large cancels.
  static void slope(const Step& step, const float* of, float rate, float* state, float* to) {
    float *weight = state, *age = state + kCells, *mean = age + kCells, *spread = mean + kCells, *cross = spread + kCells;
    const float keep = 1.0f - rate;
    for (int l = 0; l < kCells; ++l) {
      const Mask ok = step.ok[l];
      const float total = keep * weight[l] + 1.0f;
      const float older = age[l] + 1.0f, by_age = 0.0f - older, by_value = of[l] - mean[l];
      const float new_age = older + by_age / total, new_mean = mean[l] + by_value / total;
      const float new_spread = keep * spread[l] + by_age * (0.0f - new_age);
      const float new_cross = keep * cross[l] + by_age * (of[l] - new_mean);
      const bool alone = step.before[l] == 0.0f;
      weight[l] = chosen(ok, total, weight[l]);
      age[l] = chosen(ok, alone ? 0.0f : new_age, age[l]);
      mean[l] = chosen(ok, new_mean, mean[l]);
      spread[l] = chosen(ok, alone ? 0.0f : new_spread, spread[l]);
      cross[l] = chosen(ok, alone ? 0.0f : new_cross, cross[l]);
      to[l] = alone ? 0.0f : (0.0f - cross[l]) / spread[l];
    }
  }

  // Means and how often they were seen, by step modulo length.
  static void season(const Step& step, const float* of, float rate, int32_t length, float* state, float* to) {
    for (int l = 0; l < kCells; ++l) {
      if (!step.ok[l]) continue;
      const int64_t phase = step.block.steps[l] % static_cast<uint32_t>(length);
      float *mean = state + phase * kCells + l, *seen = mean + static_cast<int64_t>(length) * kCells;
      const float running = 1.0f / (*seen + 1.0f);
      *mean += (running > rate ? running : rate) * (of[l] - *mean);
      *seen += 1.0f;
      to[l] = *mean;
    }
  }

  static void step(const BankNode* nodes, int count, const BankBlock& block, const float* x) {
    Step s{block, {}, {}, {}};
    for (int l = 0; l < kCells; ++l) {
      s.ok[l] = -static_cast<Mask>(x[l] < kLargestSample && x[l] > -kLargestSample);
      s.before[l] = static_cast<float>(block.samples[l]);
      s.running[l] = 1.0f / (s.before[l] + 1.0f);
    }
    for (int k = 0; k < count; ++k) {
      const BankNode& node = nodes[k];
      const float *of = block.held + node.of * kCells, *other = block.held + node.other * kCells;
      float *state = block.slots + static_cast<int64_t>(node.slot) * kCells, *held = block.held + k * kCells;
      float to[kCells];
      for (int l = 0; l < kCells; ++l) to[l] = held[l];
      switch (node.kind) {
        case BankKind::kValue:
          for (int l = 0; l < kCells; ++l) to[l] = x[l];
          break;
        case BankKind::kEwma: ewma(s, of, node.rate, state, to); break;
        case BankKind::kMin: extreme<true>(s, of, state, to); break;
        case BankKind::kMax: extreme<false>(s, of, state, to); break;
        case BankKind::kMean: towards(s, of, s.running, state, to); break;
        case BankKind::kFirst: first(s, of, static_cast<float>(node.length), state, to); break;
        case BankKind::kLag: lag(s, of, node.length, state, to); break;
        case BankKind::kSlope: slope(s, of, node.rate, state, to); break;
        case BankKind::kSeason: season(s, of, node.rate, node.length, state, to); break;
        case BankKind::kMinus:
          for (int l = 0; l < kCells; ++l) to[l] = of[l] - other[l];
          break;
      }
      for (int l = 0; l < kCells; ++l) held[l] = chosen(s.ok[l], to[l], held[l]);
    }
    for (int l = 0; l < kCells; ++l) {
      block.samples[l] += static_cast<uint32_t>(s.ok[l] & 1) & static_cast<uint32_t>(block.samples[l] != UINT32_MAX);
      block.steps[l] += 1;
    }
  }
};

}  // namespace

template <class S>
static void register_kernels() {
  const BankRegister row({S::kIsa, BankMath<S>::step});
}

}  // namespace rta::online

namespace rta {
using online::register_kernels;
}
