#include "simd_avx2.h"
#include "softmax/cpu_kernel.h"

namespace rta {
static const Register kSoftmax({"softmax", "cpu_avx2", 1, 1, nullptr, create_softmax<Avx2>});
}
