#include "quantize/cpu_kernel.h"
#include "simd_portable.h"

namespace rta {
static const Register kQuantize({"quantize", "cpu_portable", 0, 0, nullptr, create_quantize<Portable>});
}
