#include "quantize/cpu_kernel.h"
#include "simd_avx512vnni.h"

namespace rta {
static const Register kQuantize({"quantize", "cpu_avx512vnni", 2, 2, nullptr, create_quantize<Avx512Vnni>});
}
