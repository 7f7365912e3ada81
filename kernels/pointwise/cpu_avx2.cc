#include "pointwise/cpu_kernel.h"
#include "simd_avx2.h"

namespace rta {
static const Register kPointwise({"pointwise", "cpu_avx2", 1, 1, nullptr, create_pointwise<Avx2>});
}
