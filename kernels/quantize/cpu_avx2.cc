#include "quantize/cpu_kernel.h"
#include "simd_avx2.h"

namespace rta {
static const Register kQuantize({"quantize", "cpu_avx2", 1, 1, nullptr, create_quantize<Avx2>});
}
