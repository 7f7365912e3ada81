// The kernels of the UD form that were compiled, and which of them is used here.
#include "online/ud.h"

#include <vector>

namespace rta::online {
namespace {

std::vector<UdKernels>& all() {  // filled before main: static objects of several files, in any order
  static std::vector<UdKernels> rows;
  return rows;
}

}  // namespace

void add_ud_kernels(Isa isa, decltype(UdKernels::learn) learn, decltype(UdKernels::predict) predict,
                    decltype(UdKernels::variance) variance, decltype(UdKernels::add_noise) add_noise) {
  all().push_back({isa, learn, predict, variance, add_noise});
}

int ud_kernel_count() { return static_cast<int>(all().size()); }
const UdKernels& ud_kernel(int index) { return all()[static_cast<size_t>(index)]; }

const UdKernels& best_ud_kernel() {
  const IsaSet allowed = isa_level();
  const UdKernels* best = nullptr;
  for (const UdKernels& row : all())
    if (!(row.isa > allowed) && (!best || static_cast<int>(row.isa) > static_cast<int>(best->isa))) best = &row;
  return *best;
}

}  // namespace rta::online
