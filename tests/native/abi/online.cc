// The objects of rta_online.h through their C ABI: saved and loaded, with inputs that no one means, under the
// sanitizers.
#include <cmath>
#include <limits>
#include <vector>

#include "native/harness.h"
#include "rta_online.h"

namespace check {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Numbers of all sizes, some of them not finite.
float wild(Random& random) {
  const int kind = random.between(0, 19);
  if (kind == 0) return kNan;
  if (kind == 1) return random.between(0, 1) ? INFINITY : -INFINITY;
  return random.normal() * std::pow(10.0f, static_cast<float>(random.between(-30, kind == 2 ? 37 : 3)));
}

void check_head(Report& report, bool kalman) {
  constexpr int n = 19, outputs = 3;
  rta_ud* head = rta_ud_create(n, outputs, 0.1f, kalman ? 0.5f : 0.99f, kalman ? 1.0f : 0.99f, 100.0f);
  rta_ud* other = rta_ud_create(n, outputs, 0.1f, kalman ? 0.5f : 0.99f, kalman ? 1.0f : 0.99f, 100.0f);
  const std::vector<float> noise(n, 1e-3f);
  if (kalman)
    for (rta_ud* h : {head, other})
      report.expect(rta_ud_process_noise(h, noise.data(), 3) == RTA_ONLINE_OK, "process noise");
  Random random(31);
  Guarded in(n * 4), label(outputs * 4), out(outputs * 4), of_u(n * n * 4), of_d(n * 4), of_w(outputs * n * 4);
  std::vector<float> phi(n), y(outputs);
  int64_t counts[3], total = 0;
  float* said = static_cast<float*>(out.place(outputs * 4));
  for (int step = 0; step < 400; ++step) {
    for (float& x : phi) x = step % 3 ? random.normal() : wild(random);
    for (float& x : y) x = step % 5 ? random.normal() : wild(random);
    rta_ud_learn(head, in.put(phi.data(), n), label.put(y.data(), outputs), said);
    ++total;
  }
  rta_ud_counts(head, counts);
  report.expect(counts[0] + counts[1] == total && counts[0] > 0 && counts[1] > 0, "counts %ld %ld",
                static_cast<long>(counts[0]), static_cast<long>(counts[1]));
  float *u = static_cast<float*>(of_u.place(n * n * 4)), *d = static_cast<float*>(of_d.place(n * 4)),
        *w = static_cast<float*>(of_w.place(outputs * n * 4));
  rta_ud_save(head, u, d, w, counts);
  bool finite = true;
  for (int i = 0; i < n * n; ++i) finite &= std::isfinite(u[i]);
  for (int i = 0; i < outputs * n; ++i) finite &= std::isfinite(w[i]);
  for (int i = 0; i < n; ++i) finite &= d[i] >= 0 && d[i] <= 100;
  report.expect(finite, "U, D and w stay finite");
  report.expect(rta_ud_load(other, u, d, w, counts) == RTA_ONLINE_OK, "a state that was saved");
  for (int step = 0; step < 20; ++step) {
    for (float& x : phi) x = random.normal();
    std::vector<float> a(outputs), b(outputs);
    rta_ud_learn(head, phi.data(), y.data(), a.data());
    rta_ud_learn(other, phi.data(), y.data(), b.data());
    report.expect(a == b, "a head that was loaded goes on");
  }
  d[3] = kNan;
  report.expect(rta_ud_load(other, u, d, w, counts) == RTA_ONLINE_INVALID, "a state that is none");
  report.expect(!rta_ud_create(0, 1, 0.1f, 1, 1, 100) && !rta_ud_create(4, 1, 0.1f, 1, 2, 100), "no head");
  rta_ud_destroy(head);
  rta_ud_destroy(other);
}

void check_banks(Report& report) {
  const rta_bank_node nodes[] = {{RTA_BANK_VALUE, 0, 0, 0, 0},     {RTA_BANK_EWMA, 0, 0, 0.1f, 0},
                                 {RTA_BANK_LAG, 1, 0, 0, 7},       {RTA_BANK_SLOPE, 0, 0, 0.3f, 0},
                                 {RTA_BANK_SEASON, 2, 0, 0.5f, 5}, {RTA_BANK_MINUS, 1, 4, 0, 0}};
  const rta_bank_output outputs[] = {{1, 1}, {-1, 0.5f}, {5, 1}, {3, 1}, {-2, 1}};
  for (const int streams : {1, 3, 16, 33})
    for (const int channels : {1, 5, 16, 17}) {
      rta_bank* bank = rta_bank_create(streams, channels, nodes, 6, outputs, 5);
      const int64_t width = rta_bank_width(bank), cells = streams * channels;
      report.expect(width == 3 * channels + 2, "width");
      Guarded in(static_cast<size_t>(cells) * 4), out(static_cast<size_t>(streams * width) * 4);
      Random random(37);
      std::vector<float> x(static_cast<size_t>(cells));
      bool right = true;
      for (int step = 0; step < 60; ++step) {
        for (float& v : x) v = step % 4 ? random.normal() : wild(random);
        float* y = static_cast<float*>(out.place(static_cast<size_t>(streams * width) * 4));
        rta_bank_step(bank, in.put(x.data(), x.size()), y);
        right &= in.intact() && out.intact();
        for (int64_t s = 0; s < streams; ++s) right &= y[s * width + channels] == 0.5f * static_cast<float>(step + 1);
      }
      report.expect(right, "%d streams of %d channels", streams, channels);
      rta_bank_reset(bank, streams - 1, 1);
      rta_bank_destroy(bank);
    }
  const rta_bank_node ahead[] = {{RTA_BANK_EWMA, 1, 0, 0.1f, 0}, {RTA_BANK_VALUE, 0, 0, 0, 0}};
  report.expect(!rta_bank_create(1, 1, ahead, 2, outputs, 1), "a node that reads one behind it");
  report.expect(!rta_bank_create(1, 1, nodes, 1, outputs, 1), "an output that is no node");
}

void check_records(Report& report) {
  rta_records *one = rta_records_create(3, 0.005, 800, 8000), *other = rta_records_create(3, 0.005, 800, 8000);
  Random random(41);
  std::vector<double> values(3), a(3), b(3);
  std::vector<unsigned char> state(3 * rta_records_stream_bytes());
  int64_t missing = 0;
  for (int step = 0; step < 3000; ++step) {
    for (double& v : values) {
      v = static_cast<double>(step % 7 ? random.normal() : wild(random));
      missing += !(std::fabs(v) < 1e300);
    }
    const double seconds = step % 11 ? 1e9 + 700.0 * step : static_cast<double>(wild(random));
    rta_records_score(one, values.data(), seconds, a.data());
    for (int s = 0; s < 3; ++s)
      report.expect(a[static_cast<size_t>(s)] >= 0 || !(std::fabs(values[static_cast<size_t>(s)]) < 1e300), "a score");
    if (step == 1500) {
      rta_records_save(one, state.data());
      report.expect(rta_records_load(other, state.data()) == RTA_ONLINE_OK, "a state that was saved");
    } else if (step > 1500) {
      rta_records_score(other, values.data(), seconds, b.data());
      for (size_t s = 0; s < 3; ++s) report.expect(a[s] == b[s] || std::isnan(a[s]), "a detector that goes on");
    }
  }
  int64_t counted = 0;
  for (int s = 0; s < 3; ++s) counted += rta_records_missing(one, s);
  report.expect(counted == missing, "missing values");
  for (unsigned char& byte : state) byte = 0xff;
  report.expect(rta_records_load(other, state.data()) == RTA_ONLINE_INVALID, "bytes that are no state");
  rta_records_destroy(one);
  rta_records_destroy(other);
}

void check_sparse(Report& report) {
  rta_ftrl* head = rta_ftrl_create(50, 0.1f, 1, 0.1f, 0.1f, RTA_FTRL_LOGISTIC);
  Random random(43);
  float said;
  for (int step = 0; step < 2000; ++step) {
    std::vector<int64_t> indices(static_cast<size_t>(random.between(0, 6)));
    std::vector<float> values(indices.size());
    for (int64_t& i : indices) i = random.between(step % 50 ? 0 : -2, step % 50 ? 49 : 52);
    for (float& v : values) v = step % 20 ? random.normal() : wild(random);
    rta_ftrl_learn(head, indices.data(), values.data(), static_cast<int64_t>(indices.size()), step % 2, 1, &said);
  }
  std::vector<float> z(50), n(50);
  int64_t counts[2];
  rta_ftrl_save(head, z.data(), n.data(), counts);
  bool finite = true;
  for (size_t i = 0; i < 50; ++i) finite &= std::isfinite(z[i]) && std::isfinite(n[i]);
  report.expect(finite && counts[0] > 1000 && counts[1] > 0 && counts[0] + counts[1] == 2000, "sparse state");
  report.expect(rta_ftrl_load(head, z.data(), n.data(), counts) == RTA_ONLINE_OK, "a state that was saved");
  z[7] = kNan;
  report.expect(rta_ftrl_load(head, z.data(), n.data(), counts) == RTA_ONLINE_INVALID, "a state that is none");
  rta_ftrl_destroy(head);
}

// Heads, banks and detectors that were not made.
void check_no_head(Report& report) {
  const float numbers[4] = {1, 1, 1, 1};
  float u[1] = {7}, d[1] = {7}, w[1] = {7};
  int64_t counts[3] = {7, 7, 7};
  report.expect(rta_ud_process_noise(nullptr, numbers, 1) == RTA_ONLINE_INVALID, "process noise");
  report.expect(rta_ud_learn(nullptr, numbers, numbers, w) == RTA_ONLINE_INVALID, "learning");
  rta_ud_predict(nullptr, numbers, w);
  report.expect(std::isnan(rta_ud_variance(nullptr, numbers)), "a variance");
  report.expect(rta_ud_inflate(nullptr, 2) == RTA_ONLINE_INVALID, "inflated");
  rta_ud_counts(nullptr, counts);
  report.expect(counts[0] == 0 && counts[1] == 0 && counts[2] == 0, "counts");
  counts[0] = counts[1] = counts[2] = 7;
  rta_ud_save(nullptr, u, d, w, counts);
  rta_ud_weights(nullptr, w);
  report.expect(counts[0] == 0 && counts[2] == 0 && u[0] == 7 && d[0] == 7 && w[0] == 7, "a state");
  report.expect(rta_ud_load(nullptr, numbers, numbers, numbers, counts) == RTA_ONLINE_INVALID,
                "a state that is loaded");
  rta_ud_destroy(nullptr);

  const int64_t index = 0;
  float said = 7;
  report.expect(std::isnan(rta_ftrl_predict(nullptr, &index, numbers, 1)), "a prediction of sparse features");
  report.expect(rta_ftrl_learn(nullptr, &index, numbers, 1, 1, 1, &said) == RTA_ONLINE_INVALID && std::isnan(said),
                "learning sparse features");
  counts[0] = counts[1] = 7;
  rta_ftrl_save(nullptr, u, d, counts);
  report.expect(counts[0] == 0 && counts[1] == 0 && u[0] == 7 && d[0] == 7, "a sparse state");
  report.expect(rta_ftrl_load(nullptr, u, d, counts) == RTA_ONLINE_INVALID, "a sparse state that is loaded");
  report.expect(rta_ftrl_weights(nullptr, w) == 0 && w[0] == 7, "weights");
  rta_ftrl_destroy(nullptr);
}

void check_no_streams(Report& report) {
  float x[2] = {7, 7};
  uint32_t whole[1] = {7};
  int64_t floats = 7, integers = 7;
  report.expect(!rta_bank_create(1, 1, nullptr, 1, nullptr, 1) && rta_bank_width(nullptr) == 0, "a bank of nothing");
  rta_bank_step(nullptr, x, x + 1);
  rta_bank_reset(nullptr, 0, 1);
  rta_bank_state_size(nullptr, &floats, &integers);
  report.expect(floats == 0 && integers == 0, "sizes of a state");
  rta_bank_save(nullptr, x, whole);
  rta_bank_load(nullptr, x, whole);
  report.expect(x[0] == 7 && x[1] == 7 && whole[0] == 7, "features or a state");
  rta_bank_destroy(nullptr);

  const double values[2] = {1, 2};
  double scores[3] = {7, 7, 7};
  unsigned char state[1] = {7};
  rta_records_score(nullptr, values, 0, scores);
  report.expect(scores[0] == 7, "scores of unknown streams");
  rta_records_series(nullptr, 0, values, nullptr, 2, scores);
  report.expect(std::isnan(scores[0]) && std::isnan(scores[1]) && scores[2] == 7, "scores of a series");
  rta_records_reset(nullptr, 0, 1);
  report.expect(rta_records_missing(nullptr, 0) == 0, "missing values");
  rta_records_save(nullptr, state);
  report.expect(state[0] == 7 && rta_records_load(nullptr, state) == RTA_ONLINE_INVALID, "a state of no detector");
  rta_records_destroy(nullptr);
}

}  // namespace

void check_online_abi(Report& report) {
  running("online", "abi", "without an object");
  check_no_head(report);
  check_no_streams(report);
  running("online", "abi", "");
  check_head(report, false);
  check_head(report, true);
  check_banks(report);
  check_records(report);
  check_sparse(report);
}

}  // namespace check
