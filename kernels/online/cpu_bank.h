// One step of a block of cells, sixteen lanes side by side. Sums and products round separately, so the bits are the
// same on every instruction set.
//
// A mean goes on by less than its own rounding once it is of many samples, and would stand still. So it is two numbers,
// the mean and what rounding took from it.
// Source: T. J. Dekker, A floating-point technique for extending the available precision, 1971.
//
// Floor: the state is read and written once, 4 bytes for each number and cell; two divisions a block for rates.
#pragma once

#include "_core/stage.h"
#include "online/bank.h"
#include "online/lanes16.h"

namespace rta::online {
namespace {

constexpr float kLargestSample = 1e18f;

template <class S>
struct BankMath {
  using L = Lanes16<S>;

  struct Step {
    const BankBlock& block;
    L present;  // 1 where there is a sample, else 0
    L running;  // 1 / (t + 1)
    L before;   // t
    L chosen(const L& yes, const L& no) const { return L::where_less(L::zero(), present, yes, no); }
    // What a node keeps in `state` and gives: the new value where there is a sample.
    L kept(const L& value, float* state) const {
      const L result = chosen(value, L::load(state));
      result.store(state);
      return result;
    }
  };

  // of - m, for the mean m in `state`.
  static L above(const L& of, const float* state) {
    return L::sub(L::sub(of, L::load(state)), L::load(state + kCells));
  }

  // m += by, and m.
  static L moved(const Step& step, const L& by, float* state) {
    const L m = L::load(state), whole = L::add(L::load(state + kCells), by), sum = L::add(m, whole);
    const L added = L::sub(sum, m);
    step.kept(L::add(L::sub(m, L::sub(sum, added)), L::sub(whole, added)), state + kCells);
    return step.kept(sum, state);
  }

  static L towards(const Step& step, const L& of, const L& rate, float* state) {
    return moved(step, L::mul(rate, above(of, state)), state);
  }

  static L ewma(const Step& step, const L& of, float rate, float* state) {
    const L fixed = L::all(rate);
    return towards(step, of, L::where_less(fixed, step.running, step.running, fixed), state);
  }

  static L first(const Step& step, const L& of, float length, float* state) {
    return towards(step, of, L::where_less(step.before, L::all(length), step.running, L::zero()), state);
  }

  template <bool least>
  static L extreme(const Step& step, const L& of, float* state) {
    const L m = L::load(state), best = least ? L::where_less(of, m, of, m) : L::where_less(m, of, of, m);
    return step.kept(L::where_less(step.before, L::all(0.5f), of, best), state);
  }

  // Weighted means and moments of age and value around them: nothing large cancels.
  static L slope(const Step& step, const L& of, float rate, float* state) {
    float *weight = state, *age = state + kCells, *mean = age + kCells, *spread = mean + 2 * kCells,
          *cross = spread + kCells;
    const L keep = L::all(1.0f - rate), one = L::all(1.0f), zero = L::zero(), half = L::all(0.5f);
    const auto unless_first = [&](const L& value) { return L::where_less(step.before, half, zero, value); };
    const L total = L::add(L::mul(keep, L::load(weight)), one), older = L::add(L::load(age), one);
    const L by_age = L::sub(zero, older), new_age = L::add(older, L::div(by_age, total));
    const L new_spread = L::sub(L::mul(keep, L::load(spread)), L::mul(by_age, new_age));
    moved(step, L::div(above(of, mean), total), mean);
    const L new_cross = L::add(L::mul(keep, L::load(cross)), L::mul(by_age, above(of, mean)));
    step.kept(total, weight);
    step.kept(unless_first(new_age), age);
    const L spreads = step.kept(unless_first(new_spread), spread);
    const L crosses = step.kept(unless_first(new_cross), cross);
    return unless_first(L::div(L::sub(zero, crosses), spreads));
  }

  // A ring of `length` samples for each cell, at its own number of samples.
  static void lag(const Step& step, const float* x, const float* of, int32_t length, float* ring, float* to) {
    const uint32_t size = static_cast<uint32_t>(length);
    for (int l = 0; l < kCells; ++l) {
      if (!there(x[l])) continue;
      const uint32_t n = static_cast<uint32_t>(step.block.samples[l]);
      float* at = ring + static_cast<int64_t>(n % size) * kCells + l;
      to[l] = n >= size ? *at : n ? ring[l] : of[l];
      *at = of[l];
    }
  }

  // Means, what rounding took from them, and how often they were seen, by step modulo length.
  static void season(const Step& step, const float* x, const float* of, const BankNode& node, float* state, float* to) {
    for (int l = 0; l < kCells; ++l) {
      if (!there(x[l])) continue;
      const int64_t phase = step.block.steps[l] % static_cast<uint32_t>(node.length);
      const int64_t apart = static_cast<int64_t>(node.length) * kCells;
      float *mean = state + phase * kCells + l, *rest = mean + apart, *seen = rest + apart;
      const float running = 1.0f / (*seen + 1.0f), rate = running > node.rate ? running : node.rate;
      const float by = *rest + rate * (of[l] - *mean - *rest), sum = *mean + by, added = sum - *mean;
      *rest = (*mean - (sum - added)) + (by - added);
      *mean = sum;
      *seen += 1.0f;
      to[l] = sum;
    }
  }

  static bool there(float x) { return x < kLargestSample && x > -kLargestSample; }

  static void step(const BankNode* nodes, int count, const BankBlock& block, const float* x) {
    alignas(64) float before[kCells];
    for (int l = 0; l < kCells; ++l) before[l] = static_cast<float>(block.samples[l]);
    const L value = L::load(x), zero = L::zero(), one = L::all(1.0f), most = L::all(kLargestSample);
    const L small = L::where_less(value, most, one, zero);
    const Step s{block, L::where_less(L::sub(zero, most), value, small, zero),
                 L::div(one, L::add(L::load(before), one)), L::load(before)};
    for (int k = 0; k < count; ++k) {
      const BankNode& node = nodes[k];
      const float* from = block.held + node.of * kCells;
      float *state = block.slots + static_cast<int64_t>(node.slot) * kCells, *held = block.held + k * kCells;
      switch (node.kind) {
        case BankKind::kValue: s.kept(value, held); break;
        case BankKind::kEwma: put(s, ewma(s, L::load(from), node.rate, state), held); break;
        case BankKind::kMin: put(s, extreme<true>(s, L::load(from), state), held); break;
        case BankKind::kMax: put(s, extreme<false>(s, L::load(from), state), held); break;
        case BankKind::kMean: put(s, towards(s, L::load(from), s.running, state), held); break;
        case BankKind::kFirst: put(s, first(s, L::load(from), static_cast<float>(node.length), state), held); break;
        case BankKind::kLag: lag(s, x, from, node.length, state, held); break;
        case BankKind::kSlope: put(s, slope(s, L::load(from), node.rate, state), held); break;
        case BankKind::kSeason: season(s, x, from, node, state, held); break;
        case BankKind::kMinus: put(s, L::sub(L::load(from), L::load(block.held + node.other * kCells)), held); break;
      }
    }
    for (int l = 0; l < kCells; ++l) {
      block.samples[l] += there(x[l]) && block.samples[l] != INT32_MAX;
      block.steps[l] += 1;
    }
  }

  static void put(const Step& step, const L& value, float* held) { step.kept(value, held); }
};

}  // namespace

template <class S>
static void register_kernels() {
  add_bank_kernel(S::kIsa, BankMath<S>::step);
}

}  // namespace rta::online

namespace rta {
using online::register_kernels;
}
