// Matmul on the CPU, of two computed values or of one and a parameter. The contract is in contract.py.
#pragma once

#include "_matrices/product.h"

namespace rta {

template <class S>
static void register_kernels() {
  add_kernel(S::kIsa, "matmul", "cpu", nullptr, (create_stage<ProductStage<S, Products<S>>>));
}

}  // namespace rta
