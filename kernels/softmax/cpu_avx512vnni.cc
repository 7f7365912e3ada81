#include "simd_avx512vnni.h"
#include "softmax/cpu_kernel.h"

namespace rta {
static const Register kSoftmax({"softmax", "cpu_avx512vnni", 2, 2, nullptr, create_softmax<Avx512Vnni>});
}
