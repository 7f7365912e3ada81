// The C ABI of linear models in UD form (rta_online.h).
#include "rta_online.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "online/ud.h"

using namespace rta::online;

struct rta_ud {
  UdState state;
  const UdKernels* kernels;
  float* memory;  // one block: everything the state points to
  float* noise;   // of a process, [features], `every` times its variance; NULL without
  int64_t every;
  int64_t learned, rejected, since;
};

namespace {

constexpr int64_t kMaxOutputs = 65536;

float* aligned(int64_t floats) {
  const size_t bytes = (static_cast<size_t>(floats) * sizeof(float) + 63) / 64 * 64;
  void* memory = std::aligned_alloc(64, bytes);
  if (memory) std::memset(memory, 0, bytes);
  return static_cast<float*>(memory);
}

// Where element (row, column) of U lies.
float* element(const UdState& s, int64_t row, int64_t column) {
  return s.u + block_at(row / kBlock, column / kBlock) + column % kBlock * kBlock + row % kBlock;
}

bool finite(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!std::isfinite(values[i])) return false;
  return true;
}

bool usable(const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!(std::fabs(values[i]) < kLargest)) return false;
  return true;
}

}  // namespace

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_ud* rta_ud_create(int64_t features, int64_t outputs, float p0, float noise, float forget, float d_max) {
  const auto positive = [](float v) { return v > 0.0f && std::isfinite(v); };
  if (features < 1 || features > RTA_UD_MAX_FEATURES || outputs < 1 || outputs > kMaxOutputs || !positive(p0) ||
      !positive(noise) || !positive(forget) || forget > 1.0f || !positive(d_max) || p0 > d_max)
    return nullptr;
  rta_ud* head = new (std::nothrow) rta_ud{};
  if (!head) return nullptr;
  UdState& s = head->state;
  s.features = features;
  s.outputs = outputs;
  s.blocks = (features + kBlock - 1) / kBlock;
  s.start = noise;
  s.forget = forget;
  s.d_max = d_max;
  const int64_t padded = s.blocks * kBlock, of_u = block_at(0, s.blocks);
  const int64_t of_error = (outputs + kBlock - 1) / kBlock * kBlock;
  head->memory = aligned(of_u + padded * (outputs + 4) + of_error);
  if (!head->memory) {
    delete head;
    return nullptr;
  }
  s.u = head->memory;
  s.d = s.u + of_u;
  s.phi = s.d + padded;
  s.b = s.phi + padded;
  s.x = s.b + padded;
  s.w = s.x + padded;
  s.error = s.w + padded * outputs;
  for (int64_t i = 0; i < padded; ++i) *element(s, i, i) = 1.0f;
  for (int64_t i = 0; i < features; ++i) s.d[i] = p0;
  head->kernels = &best_ud_kernel();
  head->every = 1;
  return head;
}

RTA_API void rta_ud_destroy(rta_ud* head) {
  if (!head) return;
  std::free(head->noise);
  std::free(head->memory);
  delete head;
}

RTA_API int rta_ud_process_noise(rta_ud* head, const float* variances, int64_t every) {
  if (!head) return RTA_ONLINE_INVALID;
  const int64_t n = head->state.features;
  if (every < 1 || !finite(variances, n)) return RTA_ONLINE_INVALID;
  for (int64_t i = 0; i < n; ++i)
    if (variances[i] < 0.0f || !std::isfinite(variances[i] * static_cast<float>(every))) return RTA_ONLINE_INVALID;
  float* noise = head->noise ? head->noise : aligned(n);
  if (!noise) return RTA_ONLINE_INVALID;
  for (int64_t i = 0; i < n; ++i) noise[i] = variances[i] * static_cast<float>(every);
  head->noise = noise;
  head->every = every;
  return RTA_ONLINE_OK;
}

RTA_API int rta_ud_learn(rta_ud* head, const float* phi, const float* y, float* prediction) {
  if (!head) return RTA_ONLINE_INVALID;
  const UdState& s = head->state;
  if (head->noise && usable(phi, s.features) && usable(y, s.outputs) && ++head->since >= head->every) {
    head->kernels->add_noise(head->state, head->noise);
    head->since = 0;
  }
  if (head->kernels->learn(head->state, phi, y, prediction) == Outcome::kRejected) {
    ++head->rejected;
    return RTA_ONLINE_REJECTED;
  }
  ++head->learned;
  return RTA_ONLINE_OK;
}

RTA_API void rta_ud_predict(const rta_ud* head, const float* phi, float* prediction) {
  if (head) head->kernels->predict(head->state, phi, prediction);
}

RTA_API float rta_ud_variance(rta_ud* head, const float* phi) {
  return head ? head->kernels->variance(head->state, phi) : std::numeric_limits<float>::quiet_NaN();
}

RTA_API int rta_ud_inflate(rta_ud* head, float factor) {
  if (!head || !(factor > 0.0f) || !std::isfinite(factor)) return RTA_ONLINE_INVALID;
  UdState& s = head->state;
  for (int64_t i = 0; i < s.features; ++i) {
    const float d = s.d[i] * factor;
    s.d[i] = d < s.d_max ? d : s.d_max;
  }
  return RTA_ONLINE_OK;
}

RTA_API void rta_ud_counts(const rta_ud* head, int64_t counts[3]) {
  counts[0] = head ? head->learned : 0;
  counts[1] = head ? head->rejected : 0;
  counts[2] = head ? head->since : 0;
}

RTA_API void rta_ud_weights(const rta_ud* head, float* w) {
  if (!head) return;
  const UdState& s = head->state;
  for (int64_t o = 0; o < s.outputs; ++o)
    std::memcpy(w + o * s.features, s.w + o * s.blocks * kBlock, static_cast<size_t>(s.features) * sizeof(float));
}

RTA_API void rta_ud_save(const rta_ud* head, float* u, float* d, float* w, int64_t counts[3]) {
  rta_ud_counts(head, counts);
  if (!head) return;
  const UdState& s = head->state;
  for (int64_t row = 0; row < s.features; ++row)
    for (int64_t column = 0; column < s.features; ++column)
      u[row * s.features + column] = row <= column ? *element(s, row, column) : 0.0f;
  std::memcpy(d, s.d, static_cast<size_t>(s.features) * sizeof(float));
  rta_ud_weights(head, w);
}

RTA_API int rta_ud_load(rta_ud* head, const float* u, const float* d, const float* w, const int64_t counts[3]) {
  if (!head) return RTA_ONLINE_INVALID;
  UdState& s = head->state;
  const int64_t n = s.features;
  if (!finite(u, n * n) || !finite(d, n) || !finite(w, s.outputs * n)) return RTA_ONLINE_INVALID;
  for (int64_t row = 0; row < n; ++row) {
    if (u[row * n + row] != 1.0f || d[row] < 0.0f || d[row] > s.d_max) return RTA_ONLINE_INVALID;
    for (int64_t column = 0; column < row; ++column)
      if (u[row * n + column] != 0.0f) return RTA_ONLINE_INVALID;
  }
  if (counts[0] < 0 || counts[1] < 0 || counts[2] < 0) return RTA_ONLINE_INVALID;
  for (int64_t row = 0; row < n; ++row)
    for (int64_t column = row + 1; column < n; ++column) *element(s, row, column) = u[row * n + column];
  std::memcpy(s.d, d, static_cast<size_t>(n) * sizeof(float));
  for (int64_t o = 0; o < s.outputs; ++o)
    std::memcpy(s.w + o * s.blocks * kBlock, w + o * n, static_cast<size_t>(n) * sizeof(float));
  head->learned = counts[0];
  head->rejected = counts[1];
  head->since = counts[2];
  return RTA_ONLINE_OK;
}
}
