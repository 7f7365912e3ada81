// What a transform reads: its lengths, its roots of unity, its window. The tables are made in plan.py.
#pragma once

#include "_common/checks.h"
#include "fourier/butterflies.h"

namespace rta {

template <class S>
struct FourierTables {
  enum class Kind { kReal, kComplex, kToReal };  // in the order of their words

  explicit FourierTables(const StageSpec& spec) {
    read_sizes(spec);
    wide_p = padded(p), wide_q = padded(q);
    m = p * q;
    scale = spec.attrs.floats("scale", 1)[0];
    down = read_chain(spec, "radices_p", "roots_p", p);
    across = read_chain(spec, "radices_q", "roots_q", q);
    turn_re = rotated(spec, "turn_re"), turn_im = rotated(spec, "turn_im");
    half = paired ? read_constant(spec, "half", 2 * (m + 1)) : nullptr;
    window = spec.attrs.has("window") ? read_constant(spec, "window", n) : nullptr;
  }

  static int64_t padded(int64_t n) { return (n + S::kLanes - 1) / S::kLanes * S::kLanes; }
  int64_t made() const { return kind == Kind::kToReal ? n : 2 * wanted; }  // numbers of a line of y

  Kind kind;
  bool inverse, paired;
  int64_t n, wanted, count, along, p, q, wide_p, wide_q, m;
  float scale;
  Chain down, across;
  const float *turn_re, *turn_im;  // [p, wide_q]
  const float *half, *window;

 private:
  static constexpr int64_t kMaxLength = 1 << 28, kMaxRadix = 64;

  void read_sizes(const StageSpec& spec) {
    const Attrs& attrs = spec.attrs;
    expect_ports(spec, 1, 1);
    kind = static_cast<Kind>(word(attrs, "kind", "real|complex|to_real"));
    inverse = flag(attrs, "inverse") || kind == Kind::kToReal;
    paired = flag(attrs, "paired");
    n = between(attrs, "n", 1, kMaxLength);
    p = between(attrs, "p", 1, n), q = between(attrs, "q", 1, n);
    expect(product(p, q, paired ? 2 : 1) == n && !(paired && kind == Kind::kComplex), "%lld numbers as %lld by %lld%s",
           static_cast<long long>(n), static_cast<long long>(p), static_cast<long long>(q), paired ? " pairs" : "");
    wanted = between(attrs, "wanted", 1, kind == Kind::kReal ? n / 2 + 1 : n);
    count = between(attrs, "count", 0, kMaxElements);
    const int64_t given = kind == Kind::kReal ? n : kind == Kind::kComplex ? 2 * n : 2 * (n / 2 + 1);
    along = between(attrs, "along", given, given);
    expect(!attrs.has("window") || kind == Kind::kReal, "a window of a transform that is not of real numbers");
    const Value& y = spec.output(0);
    expect(elements(y) == product(count, made()) && y.width > 0 && (y.width % made() == 0 || made() % y.width == 0),
           "%lld lines of %lld for y of %lld rows of %lld", static_cast<long long>(count),
           static_cast<long long>(made()), static_cast<long long>(y.steps), static_cast<long long>(y.width));
  }

  // Butterflies of a transform of `length`: their radices multiply to it, and as many roots are there as they read.
  static Chain read_chain(const StageSpec& spec, const char* radices, const char* roots, int64_t length) {
    const int64_t count = spec.attrs.count(radices);
    const int32_t* given = spec.attrs.ints(radices, count);
    expect_within(given, count, 2, kMaxRadix + 1, radices);
    int64_t left = length, numbers = 0;
    for (int64_t k = 0; k < count; ++k) {
      expect(left % given[k] == 0, "%s do not multiply to %lld", radices, static_cast<long long>(length));
      left /= given[k];
      numbers += 2 * given[k] * (1 + left);
    }
    expect(left == 1, "%s do not multiply to %lld", radices, static_cast<long long>(length));
    int32_t* own = static_cast<int32_t*>(spec.arena->take(static_cast<size_t>(count) * sizeof(int32_t)));
    for (int64_t k = 0; k < count; ++k) own[k] = given[k];
    return {own, count, read_constant(spec, roots, numbers)};
  }

  // [p, q] with padded rows.
  float* rotated(const StageSpec& spec, const char* name) const {
    const float* given = spec.attrs.floats(name, p * q);
    float* own = static_cast<float*>(spec.arena->take(static_cast<size_t>(p * wide_q) * sizeof(float)));
    for (int64_t r = 0; r < p; ++r)
      for (int64_t c = 0; c < wide_q; ++c) own[r * wide_q + c] = c < q ? given[r * q + c] : 0.0f;
    return own;
  }
};

}  // namespace rta
