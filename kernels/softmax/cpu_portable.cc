#include "simd_portable.h"
#include "softmax/cpu_kernel.h"

namespace rta {
static const Register kSoftmax({"softmax", "cpu_portable", 0, 0, nullptr, create_softmax<Portable>});
}
