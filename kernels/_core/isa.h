// Instruction sets by name, and which of them may be used here. The table is isa.def, detection is in isa.cc.
#pragma once

#include <cstdint>

namespace rta {

// A set and everything it needs are one enumerator. Later is preferred; it need not include what comes before it.
enum class Isa : int {
#define RTA_ISA(enumerator, name, parent, processor, present) enumerator,
#include "_core/isa.def"
#undef RTA_ISA
  kCount
};

const char* isa_name(Isa isa);

// Whether this CPU, an x86-64, has instructions for sha256. What CPUID says is kept here.
bool cpu_has_sha256();

// NULL where this CPU has the set and RTACCEL_CPU_ISA allows it, else the reason why not (valid until the next call in
// this thread). The variable is read once.
const char* isa_missing(Isa isa);

// The sets that may be used, for `kernel->isa > isa_level()`: true where the kernel's set is not one of them.
struct IsaSet {
  uint32_t bits;
};
IsaSet isa_level();
bool operator>(Isa isa, IsaSet allowed);

}  // namespace rta
