// Draw on the CPU: numbers of Philox 4x32-10, by the number of the sample and of the block. The contract is in
// contract.py.
//
// Blocks are computed kLanes at a time, word by word, which compilers make vectors of. Floor: ten rounds of two
// products of 32 bits for four numbers.
//
// The stage counts the samples that it gave; threads that share a batch take their numbers from one counter.
#pragma once

#include "_common/checks.h"

namespace rta {

template <class S>
class DrawStage final : public Stage {
 public:
  explicit DrawStage(const StageSpec& spec) : y_(spec.out(0)), width_(spec.output(0).width) {
    expect_ports(spec, 1, 1);
    elements_ = spec.output(0).steps * width_;
    expect(elements_ > 0 && elements_ < kMost, "%lld numbers", static_cast<long long>(elements_));
    expect(spec.output(0).dtype == RTA_FLOAT32, "y in float32 alone");
    seed_ = static_cast<uint64_t>(between(spec.attrs, "seed", 0, INT64_MAX));
    place_ = static_cast<uint32_t>(between(spec.attrs, "place", 0, kMost - 1));
    blocks_ = (elements_ + 3) / 4;
  }

  void run(const Run& run) const override {
    const int64_t first = __atomic_fetch_add(&given_, run.samples, __ATOMIC_RELAXED);
    for (int64_t s = 0; s < run.samples; ++s) sample(run, s, static_cast<uint64_t>(first + s) * blocks_);
  }

 private:
  static constexpr int64_t kMost = int64_t{1} << 31;
  static constexpr int kLanes = 32;

  void sample(const Run& run, int64_t s, uint64_t first) const {
    uint32_t words[4][kLanes];
    int64_t row = s * y_.steps, column = 0;
    float* to = reinterpret_cast<float*>(y_.row(run, row));
    for (int64_t at = 0; at < elements_; at += 4 * kLanes) {
      philox(first + static_cast<uint64_t>(at / 4), words);
      const int64_t left = elements_ - at < 4 * kLanes ? elements_ - at : 4 * kLanes;
      for (int64_t i = 0; i < left; ++i) {
        if (column == width_) {
          column = 0;
          to = reinterpret_cast<float*>(y_.row(run, ++row));
        }
        to[column++] = static_cast<float>(words[i % 4][i / 4] >> 8) * 0x1p-24f;
      }
    }
  }

  void philox(uint64_t block, uint32_t (&w)[4][kLanes]) const {
    for (int i = 0; i < kLanes; ++i) {
      w[0][i] = static_cast<uint32_t>(block + static_cast<uint64_t>(i));
      w[1][i] = static_cast<uint32_t>((block + static_cast<uint64_t>(i)) >> 32);
      w[2][i] = place_;
      w[3][i] = 0;
    }
    uint32_t key0 = static_cast<uint32_t>(seed_), key1 = static_cast<uint32_t>(seed_ >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int i = 0; i < kLanes; ++i) {
        const uint64_t left = uint64_t{0xD2511F53} * w[0][i], right = uint64_t{0xCD9E8D57} * w[2][i];
        w[0][i] = static_cast<uint32_t>(right >> 32) ^ w[1][i] ^ key0;
        w[1][i] = static_cast<uint32_t>(right);
        w[2][i] = static_cast<uint32_t>(left >> 32) ^ w[3][i] ^ key1;
        w[3][i] = static_cast<uint32_t>(left);
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
  }

  GraphIO y_;
  int64_t width_, elements_ = 0;
  uint64_t seed_ = 0, blocks_ = 0;
  uint32_t place_ = 0;
  mutable int64_t given_ = 0;
};

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "draw", "cpu", nullptr, create_stage<DrawStage<S>>);
}

}  // namespace rta
