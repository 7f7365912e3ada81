// The kernels of the bank that were compiled, and which of them is used here.
#include "online/bank.h"

#include <vector>

namespace rta::online {
namespace {

std::vector<BankKernel>& all() {
  static std::vector<BankKernel> rows;
  return rows;
}

}  // namespace

void add_bank_kernel(Isa isa, decltype(BankKernel::step) step) { all().push_back({isa, step}); }

int bank_kernel_count() { return static_cast<int>(all().size()); }
const BankKernel& bank_kernel(int index) { return all()[static_cast<size_t>(index)]; }

const BankKernel& best_bank_kernel() {
  const IsaSet allowed = isa_level();
  const BankKernel* best = nullptr;
  for (const BankKernel& row : all())
    if (!(row.isa > allowed) && (!best || static_cast<int>(row.isa) > static_cast<int>(best->isa))) best = &row;
  return *best;
}

}  // namespace rta::online
