// Scores of answers in vectors of four, which every processor has: the order of operations is fixed, nothing is fused,
// so the bits are the same everywhere. Exponentials of what is at most 0, to 2 ulp.
#include "exit_scores.h"

#include <cstring>
#include <limits>

#include "log_of.h"

namespace rta_cascades {
namespace {

typedef float Four __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Four all(float v) { return Four{v, v, v, v}; }
// Where a is a NaN, b; where b is, b as well.
Four larger(Four a, Four b) { return a > b ? a : b; }
Four smaller(Four a, Four b) { return a < b ? a : b; }
float larger(float a, float b) { return a > b ? a : b; }
float smaller(float a, float b) { return a < b ? a : b; }

// Places i .. i + 3; those behind the end are -inf. No part of a vector is written through memory, which would wait.
Four load(const float* y, int64_t i, int64_t width) {
  Four v;
  if (i + 4 <= width) {
    std::memcpy(&v, y + i, sizeof v);
    return v;
  }
  const auto rest = static_cast<int32_t>(width - i);
  if (width < 4) return Four{y[0], rest > 1 ? y[1] : -kInfinity, rest > 2 ? y[2] : -kInfinity, -kInfinity};
  std::memcpy(&v, y + width - 4, sizeof v);
  const Mask behind = Mask{0, 1, 2, 3} >= Mask{4 - rest, 4 - rest, 4 - rest, 4 - rest};
  return behind ? v : all(-kInfinity);
}

// exp(x) for x <= 0, by 2^k exp(f); 0 below -87, of no weight beside the exp(0) that is in every sum. NaN stays NaN.
// What f is of an x far below is of no account.
Four exp_of(Four x) {
  const Four shift = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const Four k = (x * all(1.44269504f) + shift) - shift;
  const Four f = (x - k * all(0.693145752f)) - k * all(1.42860677e-6f);
  // 1 + f + a f^2 + .. + e f^6, the polynomial nearest to exp(f) for |f| <= ln 2 / 2, to 4e-9 of it: in two halves that
  // do not wait for one another.
  const Four f2 = f * f;
  const Four low = (all(1.0f) + f) + f2 * (all(4.99999940e-1f) + f * all(1.66665211e-1f));
  const Four high = (all(4.16683890e-2f) + f * all(8.36871099e-3f)) + f2 * all(1.38146104e-3f);
  const Four p = low + (f2 * f2) * high;
  const Mask bits = (__builtin_convertvector(larger(k, all(-126.0f)), Mask) + 127) << 23;
  Four scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < all(-87.0f) ? all(0) : p * scale;
}

// The largest of what is no NaN; -inf where there is nothing else.
float first_of(const float* y, int64_t width) {
  Four f = all(-kInfinity);
  for (int64_t i = 0; i < width; i += 4) f = larger(load(y, i, width), f);
  return larger(larger(f[0], f[1]), larger(f[2], f[3]));
}

struct Top {
  float first, second;
};

// The two largest of what is no NaN.
Top top_of(const float* y, int64_t width) {
  Four f = all(-kInfinity), s = f;
  for (int64_t i = 0; i < width; i += 4) {
    const Four v = load(y, i, width);
    s = larger(smaller(v, f), s);
    f = larger(v, f);
  }
  const float high = larger(f[0], f[1]), low = smaller(f[0], f[1]);
  const float high2 = larger(f[2], f[3]), low2 = smaller(f[2], f[3]);
  const float second = larger(smaller(high, high2), larger(low, low2));
  return {larger(high, high2), larger(second, larger(larger(s[0], s[1]), larger(s[2], s[3])))};
}

float sum(Four v) { return (v[0] + v[1]) + (v[2] + v[3]); }

struct Sums {
  float exps, weighted;  // of exp(y - top), and of it times (y - top)
};

template <bool kWeighted>
Sums sums_of(const float* y, int64_t width, float top) {
  Four exps = all(0), products = all(0);
  for (int64_t i = 0; i < width; i += 4) {
    const Four x = load(y, i, width) - all(top);
    const Four e = exp_of(x);
    exps += e;
    if (kWeighted) products += e * larger(all(-87.0f), x);
  }
  return {sum(exps), sum(products)};
}

// 0, or NaN where something is not finite.
float marked(const float* y, int64_t width) {
  float sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += y[i] - y[i];
  return sum;
}

}  // namespace

float score(rta_exit_test test, int64_t index, const float* y, int64_t width) {
  if (test == RTA_EXIT_VALUE) return y[index] + marked(y, width);
  const Top top = test == RTA_EXIT_MARGIN ? top_of(y, width) : Top{first_of(y, width), 0};
  const Sums sums =
      test == RTA_EXIT_ENTROPY
          ? sums_of<true>(y, width, top.first)
          : sums_of<false>(y, width, top.first);  // NaN where y has a NaN, an infinity, or nothing above -inf
  if (!(sums.exps >= 1)) return std::numeric_limits<float>::quiet_NaN();
  switch (test) {
    case RTA_EXIT_CONFIDENCE: return 1.0f / sums.exps;
    case RTA_EXIT_MARGIN: return (1.0f - exp_of(all(top.second - top.first))[0]) / sums.exps;
    case RTA_EXIT_ENTROPY:
      return static_cast<float>(log_of(sums.exps) -
                                static_cast<double>(sums.weighted) / static_cast<double>(sums.exps));
    case RTA_EXIT_ENERGY: return static_cast<float>(static_cast<double>(top.first) + log_of(sums.exps));
    default: return std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace rta_cascades
