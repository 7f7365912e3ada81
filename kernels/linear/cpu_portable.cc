#include "linear/cpu_kernel.h"
#include "simd_portable.h"

namespace rta {

const char* linear_reject(const Attrs& attrs) {
  if (attrs.text_is("weight_dtype", "float32") || attrs.text_is("weight_dtype", "int8")) return nullptr;
  return "takes float32 and int8 weights";
}

static const Register kLinear({"linear", "cpu_portable", 0, 0, linear_reject, create_linear<Portable>});

}  // namespace rta
