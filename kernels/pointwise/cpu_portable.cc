#include "pointwise/cpu_kernel.h"
#include "simd_portable.h"

namespace rta {
static const Register kPointwise({"pointwise", "cpu_portable", 0, 0, nullptr, create_pointwise<Portable>});
}
