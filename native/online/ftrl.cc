// A sparse linear model learned by FTRL-proximal, in scalar code: a sample touches a few places of a large memory, and
// waits for these.
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#include "rta_online.h"

struct rta_ftrl {
  struct Coordinate {
    float z, n;  // beside one another: one cache line serves both
  };
  std::vector<Coordinate> at;
  float alpha, beta, l1, l2;
  rta_ftrl_loss loss;
  int64_t learned, rejected;

  double weight(const Coordinate& c) const {
    const double z = static_cast<double>(c.z), l = static_cast<double>(l1);
    if (std::fabs(z) <= l) return 0.0;
    const double rate = (static_cast<double>(beta) + std::sqrt(static_cast<double>(c.n))) / static_cast<double>(alpha);
    return -(z - std::copysign(l, z)) / (rate + static_cast<double>(l2));
  }
};

namespace {

constexpr float kLargest = 1e9f;  // of values and errors: squares of gradients stay in float32
constexpr double kMost = 1e38;    // where sums end
constexpr int64_t kMaxDimensions = int64_t{1} << 33;

bool valid(const rta_ftrl& head, const int64_t* indices, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (indices[i] < 0 || static_cast<uint64_t>(indices[i]) >= head.at.size() || !(std::fabs(values[i]) < kLargest))
      return false;
  return true;
}

double predicted(const rta_ftrl& head, const int64_t* indices, const float* values, int64_t count) {
  double sum = 0;
  for (int64_t i = 0; i < count; ++i)
    sum += head.weight(head.at[static_cast<size_t>(indices[i])]) * static_cast<double>(values[i]);
  return head.loss == RTA_FTRL_LOGISTIC ? 1.0 / (1.0 + std::exp(-sum)) : sum;
}

}  // namespace

extern "C" {
#define RTA_API __attribute__((visibility("default")))

RTA_API rta_ftrl* rta_ftrl_create(int64_t dimensions, float alpha, float beta, float l1, float l2, rta_ftrl_loss loss) {
  const auto right = [](float v) { return v >= 0 && v < kLargest; };
  if (dimensions < 1 || dimensions > kMaxDimensions || !right(alpha) || alpha == 0 || !right(beta) || !right(l1) ||
      !right(l2) || (beta == 0 && l2 == 0) || (loss != RTA_FTRL_LOGISTIC && loss != RTA_FTRL_SQUARED))
    return nullptr;
  try {
    rta_ftrl made{{}, alpha, beta, l1, l2, loss, 0, 0};
    made.at.resize(static_cast<size_t>(dimensions));
    return new rta_ftrl(std::move(made));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

RTA_API void rta_ftrl_destroy(rta_ftrl* head) { delete head; }

RTA_API float rta_ftrl_predict(const rta_ftrl* head, const int64_t* indices, const float* values, int64_t count) {
  if (!head || !valid(*head, indices, values, count)) return std::numeric_limits<float>::quiet_NaN();
  return static_cast<float>(predicted(*head, indices, values, count));
}

RTA_API int rta_ftrl_learn(rta_ftrl* head, const int64_t* indices, const float* values, int64_t count, float y,
                           float weight, float* prediction) {
  if (!head) [[unlikely]] {
    *prediction = std::numeric_limits<float>::quiet_NaN();
    return RTA_ONLINE_INVALID;
  }
  const bool fits = valid(*head, indices, values, count);
  const double said = fits ? predicted(*head, indices, values, count) : std::numeric_limits<double>::quiet_NaN();
  *prediction = static_cast<float>(said);
  const bool label = head->loss == RTA_FTRL_LOGISTIC ? y == 0.0f || y == 1.0f : std::fabs(y) < kLargest;
  const double error = (said - static_cast<double>(y)) * static_cast<double>(weight);
  if (!fits || !label || !(weight >= 0 && weight < kLargest) || !(std::fabs(error) < static_cast<double>(kLargest))) {
    ++head->rejected;
    return RTA_ONLINE_REJECTED;
  }
  // The gradient of an index that comes twice is taken where it comes: each part with the weight that it then has.
  const double alpha = static_cast<double>(head->alpha);
  for (int64_t i = 0; i < count; ++i) {
    rta_ftrl::Coordinate& c = head->at[static_cast<size_t>(indices[i])];
    const double g = error * static_cast<double>(values[i]), n = static_cast<double>(c.n);
    const double sigma = (std::sqrt(n + g * g) - std::sqrt(n)) / alpha;
    const double z = static_cast<double>(c.z) + g - sigma * head->weight(c);
    c.z = static_cast<float>(std::fmax(-kMost, std::fmin(kMost, z)));
    c.n = static_cast<float>(std::fmin(kMost, n + g * g));
  }
  ++head->learned;
  return RTA_ONLINE_OK;
}

RTA_API void rta_ftrl_save(const rta_ftrl* head, float* z, float* n, int64_t counts[2]) {
  counts[0] = head ? head->learned : 0;
  counts[1] = head ? head->rejected : 0;
  if (!head) return;
  for (size_t i = 0; i < head->at.size(); ++i) {
    z[i] = head->at[i].z;
    n[i] = head->at[i].n;
  }
}

RTA_API int rta_ftrl_load(rta_ftrl* head, const float* z, const float* n, const int64_t counts[2]) {
  if (!head) return RTA_ONLINE_INVALID;
  for (size_t i = 0; i < head->at.size(); ++i)
    if (!std::isfinite(z[i]) || !std::isfinite(n[i]) || n[i] < 0) return RTA_ONLINE_INVALID;
  if (counts[0] < 0 || counts[1] < 0) return RTA_ONLINE_INVALID;
  for (size_t i = 0; i < head->at.size(); ++i) head->at[i] = {z[i], n[i]};
  head->learned = counts[0];
  head->rejected = counts[1];
  return RTA_ONLINE_OK;
}

RTA_API int64_t rta_ftrl_weights(const rta_ftrl* head, float* w) {
  if (!head) return 0;
  int64_t nonzero = 0;
  for (size_t i = 0; i < head->at.size(); ++i) {
    const float value = static_cast<float>(head->weight(head->at[i]));
    nonzero += value != 0.0f;
    if (w) w[i] = value;
  }
  return nonzero;
}
}
