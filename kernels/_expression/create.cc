#include "_expression/create.h"

#ifndef RTA_PACKED
namespace rta {
namespace expression {

Create& creator(Isa isa) {
  static Create made[static_cast<int>(Isa::kCount)];
  return made[static_cast<int>(isa)];
}

}  // namespace expression
}  // namespace rta
#endif
