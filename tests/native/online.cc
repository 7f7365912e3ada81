// Linear models in UD form and streaming features on each instruction set: against double, and the same bits
// everywhere.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#include "harness.h"
#include "online/bank.h"
#include "online/ud.h"

namespace check {
namespace {

using namespace rta::online;

// The state of a head with memory of its own, as rta_ud_create lays it out; and the same model in double, by columns.
class Head {
 public:
  Head(int64_t n, int64_t outputs, float noise, float forget)
      : n_(n),
        outputs_(outputs),
        u_(static_cast<size_t>(n * n)),
        d_(static_cast<size_t>(n), 0.1),
        w_(static_cast<size_t>(n * outputs)) {
    const int64_t blocks = (n + kBlock - 1) / kBlock, padded = blocks * kBlock, of_u = block_at(0, blocks);
    const size_t floats = static_cast<size_t>(of_u + padded * (outputs + 4) + outputs + 16);
    memory_ = static_cast<float*>(std::aligned_alloc(64, (floats * 4 + 63) / 64 * 64));
    std::memset(memory_, 0, floats * 4);
    float* d = memory_ + of_u;
    state = {n,
             outputs,
             blocks,
             noise,
             forget,
             100.0f,
             memory_,
             d,
             d + 4 * padded,
             d + padded,
             d + 2 * padded,
             d + (4 + outputs) * padded,
             d + 3 * padded};
    for (int64_t i = 0; i < padded; ++i) *element(i, i) = 1.0f;
    for (int64_t i = 0; i < n; ++i) {
      state.d[i] = 0.1f;
      u_[static_cast<size_t>(i * n + i)] = 1.0;
    }
  }
  ~Head() { std::free(memory_); }
  Head(const Head&) = delete;
  Head& operator=(const Head&) = delete;

  float* element(int64_t row, int64_t column) const {
    return state.u + block_at(row / kBlock, column / kBlock) + column % kBlock * kBlock + row % kBlock;
  }

  void learn_in_double(const float* phi, const float* y) {
    const size_t n = static_cast<size_t>(n_);
    std::vector<double> b(n);
    double alpha = static_cast<double>(state.start);
    for (size_t j = 0; j < n; ++j) {
      double f = 0;
      for (size_t i = 0; i <= j; ++i) f += u_[i * n + j] * static_cast<double>(phi[i]);
      const double v = d_[j] * f, after = alpha + f * v, p = -f / alpha;
      d_[j] = std::fmin(d_[j] * alpha / (after * static_cast<double>(state.forget)), 100.0);
      for (size_t i = 0; i < j; ++i) {
        const double x = u_[i * n + j];
        u_[i * n + j] = x + b[i] * p;
        b[i] += x * v;
      }
      b[j] = v;
      alpha = after;
    }
    for (size_t o = 0; o < static_cast<size_t>(outputs_); ++o) {
      double e = static_cast<double>(y[o]);
      for (size_t i = 0; i < n; ++i) e -= w_[o * n + i] * static_cast<double>(phi[i]);
      for (size_t i = 0; i < n; ++i) w_[o * n + i] += e / alpha * b[i];
    }
  }

  // The largest difference of U, D over D, and w.
  double error() const {
    double worst = 0;
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = i; j < n_; ++j)
        worst = std::fmax(worst, std::fabs(static_cast<double>(*element(i, j)) - u_[static_cast<size_t>(i * n_ + j)]));
      worst = std::fmax(worst, std::fabs(static_cast<double>(state.d[i]) / d_[static_cast<size_t>(i)] - 1));
      for (int64_t o = 0; o < outputs_; ++o)
        worst = std::fmax(worst, std::fabs(static_cast<double>(state.w[o * state.blocks * kBlock + i]) -
                                           w_[static_cast<size_t>(o * n_ + i)]));
    }
    return worst;
  }

  void add_to(Hash& hash) const {
    hash.add(state.u, static_cast<size_t>(block_at(0, state.blocks)) * 4);
    hash.add(state.d, static_cast<size_t>(n_) * 4);
    hash.add(state.w, static_cast<size_t>(outputs_ * state.blocks * kBlock) * 4);
  }

  UdState state;

 private:
  int64_t n_, outputs_;
  std::vector<double> u_, d_, w_;
  float* memory_;
};

void check_heads(const UdKernels& kernels, Report& report) {
  Guarded in(4 * 130), label(4 * 16), out(4 * 16);
  Random random(23);
  for (const int n : {1, 2, 15, 16, 17, 31, 33, 48, 65, 129})
    for (const int outputs : {1, 3, 12}) {
      if (report.quick && n > 33) continue;
      const bool kalman = outputs == 3;
      Head head(n, outputs, kalman ? 0.5f : 0.98f, kalman ? 1.0f : 0.98f);
      std::vector<float> phi(static_cast<size_t>(n)), y(static_cast<size_t>(outputs));
      for (int step = 0; step < 60; ++step) {
        for (float& x : phi) x = random.normal();
        for (float& x : y) x = random.normal();
        float* said = static_cast<float*>(out.place(y.size() * 4));
        const Outcome got =
            kernels.learn(head.state, in.put(phi.data(), phi.size()), label.put(y.data(), y.size()), said);
        head.learn_in_double(phi.data(), y.data());
        report.expect(got == Outcome::kLearned && in.intact() && label.intact() && out.intact(), "learn, n %d", n);
        report.integers.add(said, y.size() * 4);
      }
      report.expect(head.error() < 2e-5, "UD of n %d, %d outputs: %g", n, outputs, head.error());
      const float variance = kernels.variance(head.state, in.put(phi.data(), phi.size()));
      report.integers.add(&variance, 4);
      head.add_to(report.integers);
      const Hash before = report.integers;
      Hash state, again;
      head.add_to(state);
      phi[static_cast<size_t>(n) - 1] = std::numeric_limits<float>::quiet_NaN();
      float* said = static_cast<float*>(out.place(y.size() * 4));
      const Outcome got = kernels.learn(head.state, in.put(phi.data(), phi.size()), y.data(), said);
      head.add_to(again);
      report.expect(got == Outcome::kRejected && state.value() == again.value(), "NaN, n %d", n);
      report.integers = before;
      if (kalman) {
        const std::vector<float> noise(static_cast<size_t>(n), 0.01f);
        kernels.add_noise(head.state, noise.data());
        head.add_to(report.integers);
      }
    }
}

void check_bank(const BankKernel& kernel, Report& report) {
  const BankNode nodes[] = {
      {BankKind::kValue, 0, 0, 0, 0, 0},  {BankKind::kEwma, 0, 0, 0.1f, 0, 0},   {BankKind::kMin, 0, 0, 0, 0, 2},
      {BankKind::kMax, 1, 0, 0, 0, 3},    {BankKind::kMean, 0, 0, 0, 0, 4},      {BankKind::kFirst, 0, 0, 0, 5, 6},
      {BankKind::kLag, 0, 0, 0, 3, 8},    {BankKind::kSlope, 0, 0, 0.2f, 0, 11}, {BankKind::kSeason, 0, 0, 0.3f, 4, 17},
      {BankKind::kMinus, 1, 4, 0, 0, 29},
  };
  constexpr int kNodes = sizeof nodes / sizeof *nodes, kSlots = 29;
  std::vector<float> slots(kSlots * kCells), held(kNodes * kCells, 0.0f);
  std::vector<int32_t> samples(kCells);
  std::vector<uint32_t> steps(kCells);
  const BankBlock block{samples.data(), steps.data(), slots.data(), held.data()};
  Guarded in(kCells * 4);
  Random random(29);
  double mean[kCells] = {};
  for (int step = 0; step < 200; ++step) {
    std::vector<float> x(kCells);
    for (int l = 0; l < kCells; ++l) {
      const bool missing = random.between(0, 9) == 0;
      x[static_cast<size_t>(l)] = missing ? std::numeric_limits<float>::quiet_NaN() : random.normal();
      if (!missing)
        mean[l] += (static_cast<double>(x[static_cast<size_t>(l)]) - mean[l]) / (samples[static_cast<size_t>(l)] + 1);
    }
    kernel.step(nodes, kNodes, block, in.put(x.data(), x.size()));
    for (int l = 0; l < kCells; ++l)
      report.expect(std::fabs(static_cast<double>(held[static_cast<size_t>(4 * kCells + l)]) - mean[l]) < 1e-5,
                    "mean of cell %d at step %d", l, step);
    report.integers.add(held.data(), held.size() * 4);
  }
  report.integers.add(slots.data(), slots.size() * 4);
}

}  // namespace

std::vector<std::pair<std::string, Report>> check_online(bool quick) {
  std::vector<std::pair<std::string, Report>> reports;
  for (int i = 0; i < ud_kernel_count(); ++i) {
    const rta::Isa isa = ud_kernel(i).isa;
    if (rta::isa_missing(isa)) continue;
    Report report;
    report.quick = quick;
    running("online", rta::isa_name(isa), "");
    check_heads(ud_kernel(i), report);
    for (int k = 0; k < bank_kernel_count(); ++k)
      if (bank_kernel(k).isa == isa) check_bank(bank_kernel(k), report);
    reports.emplace_back(rta::isa_name(isa), report);
  }
  return reports;
}

}  // namespace check
