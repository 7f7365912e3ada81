#include "linear/cpu_kernel.h"
#include "simd_avx512vnni.h"

namespace rta {
static const Register kLinear({"linear", "cpu_avx512vnni", 2, 2, linear_reject, create_linear<Avx512Vnni>});
}
