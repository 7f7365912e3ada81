#include "pointwise/cpu_kernel.h"
#include "simd_avx512vnni.h"

namespace rta {
static const Register kPointwise({"pointwise", "cpu_avx512vnni", 2, 2, nullptr, create_pointwise<Avx512Vnni>});
}
