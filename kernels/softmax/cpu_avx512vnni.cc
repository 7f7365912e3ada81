#include "softmax/cpu_kernel.h"
#include "simd_avx512vnni.h"

namespace rta {
static const Register kSoftmax({"softmax", "cpu_avx512vnni", 2, 2, nullptr, create_softmax<Avx512Vnni>});
}
