// The state of an online linear model in UD form, and the kernels that move it: one row for each instruction set.
//
// P = U D U', U unit upper triangular: the covariance of the weights over the variance of the noise. It is stored in
// block columns of 16 columns; block column j has j + 1 blocks of 16 rows, each of them 16 vectors of 16 rows, one for
// each column. The diagonal is stored too (ones), and zeros below it: so every block is treated alike.
// Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, chapter V.
#pragma once

#include <cstddef>
#include <cstdint>

#include "_core/isa.h"

namespace rta::online {

constexpr int64_t kBlock = 16;  // columns of a block column, and rows of a block
constexpr int64_t kBlockFloats = kBlock * kBlock;
constexpr float kLargest = 1e18f;  // numbers beyond it count as not finite: their squares would not be

// Of block (row block i, column block j), in floats.
static constexpr int64_t block_at(int64_t i, int64_t j) { return (j * (j + 1) / 2 + i) * kBlockFloats; }

// Pointers are aligned to 64 bytes; arrays of features are padded with zeros to whole blocks.
struct UdState {
  int64_t features, outputs, blocks;
  float start;  // of alpha: the forgetting factor of least squares, the noise of a Kalman filter
  float forget, d_max;
  float *u, *d, *w;  // w [outputs][16 * blocks]
  float *phi, *b;    // scratch: the features, padded; P phi
  float *error, *x;  // scratch: of each output; one column
};

enum class Outcome : int { kLearned = 0, kRejected = 1 };

struct UdKernels {
  Isa isa;
  // y [outputs] and phi [features] in; prediction [outputs] out, as it was before learning.
  Outcome (*learn)(UdState& state, const float* phi, const float* y, float* prediction);
  void (*predict)(const UdState& state, const float* phi, float* prediction);
  float (*variance)(UdState& state, const float* phi);       // phi' P phi; NaN where phi is not finite
  void (*add_noise)(UdState& state, const float* variance);  // P += diag(variance), [features]
};

// Called before main, in what was compiled for a set that this CPU may not have: pointers go in registers, as a struct
// of them would be filled by vectors.
void add_ud_kernels(Isa isa, decltype(UdKernels::learn) learn, decltype(UdKernels::predict) predict,
                    decltype(UdKernels::variance) variance, decltype(UdKernels::add_noise) add_noise);

int ud_kernel_count();
const UdKernels& ud_kernel(int index);
const UdKernels& best_ud_kernel();  // of those that this CPU has and RTACCEL_CPU_ISA allows

}  // namespace rta::online
