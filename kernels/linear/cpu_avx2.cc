#include "linear/cpu_kernel.h"
#include "simd_avx2.h"

namespace rta {
static const Register kLinear({"linear", "cpu_avx2", 1, 1, linear_reject, create_linear<Avx2>});
}
