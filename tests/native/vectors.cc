// The reference of the vector primitives: one number at a time.
#include "native/vectors.h"

#include <cmath>
#include <cstdio>
#include <cstring>

#include "harness.h"

namespace check {
namespace {

struct Entry {
  rta::Isa isa;
  void (*apply)(const VectorInputs&, VectorResults&);
};

std::vector<Entry>& entries() {
  static std::vector<Entry> all;
  return all;
}

float float_of(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
uint32_t bits_of(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  return bits;
}

// Exact in range, so that no subnormal arises: vdpbf16ps would read or write it as 0.
uint16_t bf16(Random& random) {
  return static_cast<uint16_t>(bits_of(random.normal() + 8.0f * random.between(-1, 1)) >> 16);
}

void fill(VectorInputs& in, Random& random) {
  const float special[] = {NAN,  INFINITY, -INFINITY, 0.0f,       -0.0f,       0.5f, 1.5f,
                           2.5f, -0.5f,    -2.5f,     8388607.5f, -8388609.0f, 3e9f};
  for (int i = 0; i < kCount; ++i) {
    const auto number = [&] { return random.between(0, 3) ? random.normal() * 10 : special[random.between(0, 12)]; };
    in.a[i] = number();
    in.b[i] = number();
    in.c[i] = random.normal();
    in.small[i] = random.between(0, 3) ? random.normal() * 1000 : 0.5f * static_cast<float>(random.between(-99, 99));
    in.u[i] = static_cast<int32_t>(random.bits());
    in.v[i] = static_cast<int32_t>(random.bits()) >> random.between(0, 31);
    in.exponents[i] = random.between(-126, 127);
    in.halves[i] = bf16(random);
    in.bytes[i] = static_cast<uint8_t>(random.bits());
    for (int k = 0; k < kDotK; ++k) {
      in.weights[i][k] = random.int8();
      in.bf16_weights[i][k] = bf16(random);
    }
  }
  for (int k = 0; k < kDotK; ++k) {
    in.x[k] = static_cast<uint8_t>(random.int8() + 128);
    in.bf16_x[k] = bf16(random);
  }
}

// Sums and products of int32 wrap.
int32_t wrap(int64_t v) { return static_cast<int32_t>(static_cast<uint32_t>(static_cast<uint64_t>(v))); }

void want(const VectorInputs& in, VectorResults& out) {
  for (int i = 0; i < kCount; ++i) {
    const float a = in.a[i], b = in.b[i], c = in.c[i];
    const int32_t u = in.u[i], v = in.v[i];
    const float floats[] = {a + b,
                            a - b,
                            a * b,
                            a / b,
                            std::fmaf(a, b, c),
                            a > b ? a : b,
                            a < b ? a : b,
                            std::fabs(a),
                            std::copysign(std::fabs(a), b),
                            a < b ? c : a,
                            a == a ? b : c,
                            std::sqrt(std::fabs(a)),
                            1.0f / std::sqrt(std::fabs(b)),
                            std::nearbyintf(a),
                            static_cast<float>(u),
                            float_of(uint32_t{in.halves[i]} << 16)};
    for (int op = 0; op < kDotBf16; ++op) out.floats[op][i] = floats[op];
    int32_t dot = 0;
    float total = c;
    for (int k = 0; k < kDotK; ++k) dot += (in.x[k] - 128) * in.weights[i][k];
    for (int k = 0; k < kDotK; k += 2)
      for (int j = k + 1; j >= k; --j)
        total =
            std::fmaf(float_of(uint32_t{in.bf16_x[j]} << 16), float_of(uint32_t{in.bf16_weights[i][j]} << 16), total);
    out.floats[kDotBf16][i] = total;
    const int32_t ints[] = {static_cast<int32_t>(std::nearbyintf(in.small[i])),
                            wrap(int64_t{u} + v),
                            wrap(int64_t{u} - v),
                            wrap(int64_t{u} * v),
                            u > v ? u : v,
                            u < v ? u : v,
                            u & v,
                            wrap(int64_t{u} << 5),
                            u >> 5,
                            static_cast<int32_t>(bits_of(a) & 0x7fffffff),
                            u,
                            in.bytes[i],
                            static_cast<int8_t>(in.bytes[i]),
                            in.halves[i],
                            dot,
                            static_cast<int32_t>(uint32_t{in.halves[i]} << 16)};
    for (int op = 0; op < kIntOps; ++op) out.ints[op][i] = ints[op];
    const int32_t byte = (u >> 22) + 100;
    out.bytes[i] = static_cast<uint8_t>(byte < 0 ? 0 : byte > 255 ? 255 : byte);
    out.halves[i] = static_cast<uint16_t>(u);
    const uint32_t bits = bits_of(a), odd = bits >> 16 & 1;
    out.bfloats[i] = static_cast<uint16_t>(a == a ? (bits + 0x7fff + odd) >> 16 : 0x7fc0);
  }
}

bool same(float x, float y) { return bits_of(x) == bits_of(y) || (x != x && y != y); }

}  // namespace

void add_vectors(rta::Isa isa, void (*apply)(const VectorInputs&, VectorResults&)) {
  entries().push_back({isa, apply});
}

std::vector<std::pair<std::string, Report>> check_vectors() {
  std::vector<std::pair<std::string, Report>> reports;
  Guarded memory(sizeof(VectorInputs));
  for (const Entry& entry : entries()) {
    const char* name = rta::isa_name(entry.isa);
    if (const char* reason = rta::isa_missing(entry.isa)) {
      std::printf("%-10s %-18s not run: %s\n", "vectors", name, reason);
      continue;
    }
    Report report;
    Random random(23);
    for (int round = 0; round < 50; ++round) {
      VectorInputs& in = *static_cast<VectorInputs*>(memory.place(sizeof(VectorInputs)));
      fill(in, random);
      VectorResults expected{}, got{};
      want(in, expected);
      std::memcpy(got.ints[kBf16Bits], expected.ints[kBf16Bits], sizeof got.ints[kBf16Bits]);
      got.parts_right = true;
      entry.apply(in, got);
      for (int op = 0; op < kFloatOps; ++op)
        for (int i = 0; i < kCount; ++i)
          report.expect(same(got.floats[op][i], expected.floats[op][i]),
                        "%s: float operation %d of %a, %a, %a is %a, not %a", name, op, in.a[i], in.b[i], in.c[i],
                        got.floats[op][i], expected.floats[op][i]);
      for (int op = 0; op < kIntOps; ++op)
        for (int i = 0; i < kCount; ++i)
          report.expect(got.ints[op][i] == expected.ints[op][i], "%s: integer operation %d, lane %d", name, op, i);
      report.expect(std::memcmp(got.bytes, expected.bytes, sizeof got.bytes) == 0, "%s: store_u8", name);
      report.expect(std::memcmp(got.halves, expected.halves, sizeof got.halves) == 0, "%s: store_u16", name);
      report.expect(std::memcmp(got.bfloats, expected.bfloats, sizeof got.bfloats) == 0, "%s: store_bf16", name);
      report.expect(got.parts_right && memory.intact(), "%s: parts of vectors and reductions", name);
      report.integers.add(got.ints, sizeof got.ints);
    }
    reports.emplace_back(name, report);
  }
  return reports;
}

}  // namespace check
