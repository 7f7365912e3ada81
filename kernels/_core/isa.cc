// Which instruction sets this CPU has, and which of them RTACCEL_CPU_ISA allows.
#include "_core/isa.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "_core/rta_plan.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#endif

namespace rta {
namespace {

constexpr uint32_t bit(Isa isa) { return 1u << static_cast<int>(isa); }

struct Row {
  const char* name;
  Isa parent;
  bool here;          // a set of this kind of processor
  bool (*present)();  // beyond what the parent needs
};

// The tiles of AMX with int8. Their 8 KiB of state are not part of a thread until the process has asked Linux for them;
// that can be refused, by an old kernel or because a signal stack is too small to hold them.
bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kFeatures = 7, kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(kFeatures, 0, &a, &b, &c, &d) || !(d & kTile) || !(d & kInt8)) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// present is compiled where it can be: for its own kind of processor.
#define RTA_HAS(feature) __builtin_cpu_supports(feature)
#define RTA_PRESENT(present) true, [] { return static_cast<bool>(present); }
#define RTA_ABSENT(present) false, [] { return false; }
#define RTA_ANY RTA_PRESENT
#if defined(__x86_64__)
#define RTA_X86 RTA_PRESENT
#define RTA_ARM RTA_ABSENT
#elif defined(__aarch64__)
#define RTA_X86 RTA_ABSENT
#define RTA_ARM RTA_PRESENT
#else
#define RTA_X86 RTA_ABSENT
#define RTA_ARM RTA_ABSENT
#endif

constexpr Row kRows[] = {
#define RTA_ISA(enumerator, name, parent, processor, present) {name, Isa::parent, processor(present)},
#include "_core/isa.def"
#undef RTA_ISA
};

const Row& row(Isa isa) { return kRows[static_cast<int>(isa)]; }

uint32_t detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  uint32_t found = 0;
  for (int i = 0; i < static_cast<int>(Isa::kCount); ++i) {
    const Isa isa = static_cast<Isa>(i), parent = row(isa).parent;
    if ((isa == parent || (found & bit(parent))) && row(isa).present()) found |= bit(isa);
  }
  return found;
}

// An unknown name allows only the portable set: rtaccel.backends.cpu refuses it by name before that matters.
uint32_t allowed() {
  const char* wanted = std::getenv("RTACCEL_CPU_ISA");
  if (!wanted || !*wanted) return ~0u;
  uint32_t sets = bit(Isa::kPortable);
  for (int i = 0; i < static_cast<int>(Isa::kCount); ++i)
    if (std::strcmp(wanted, kRows[i].name) == 0)
      for (Isa isa = static_cast<Isa>(i); isa != Isa::kPortable; isa = row(isa).parent) sets |= bit(isa);
  return sets;
}

uint32_t found_sets() {
  static const uint32_t sets = detect();
  return sets;
}

uint32_t usable_sets() {
  static const uint32_t sets = found_sets() & allowed();
  return sets;
}

}  // namespace

const char* isa_name(Isa isa) { return row(isa).name; }

const char* isa_missing(Isa isa) {
  if (usable_sets() & bit(isa)) return nullptr;
  static thread_local char text[160];
  const char* wanted = std::getenv("RTACCEL_CPU_ISA");
  if (found_sets() & bit(isa))
    std::snprintf(text, sizeof text, "RTACCEL_CPU_ISA=%s rules out %s", wanted ? wanted : "", isa_name(isa));
  else
    std::snprintf(text, sizeof text, "this CPU does not have %s", isa_name(isa));
  return text;
}

IsaSet isa_level() { return {usable_sets()}; }
bool operator>(Isa isa, IsaSet allowed) { return !(allowed.bits & bit(isa)); }

}  // namespace rta

extern "C" __attribute__((visibility("default"))) const char* rta_isa(void) {
  int best = 0;
  for (int i = 0; i < static_cast<int>(rta::Isa::kCount); ++i)
    if (rta::usable_sets() & (1u << i)) best = i;
  return rta::isa_name(static_cast<rta::Isa>(best));
}

extern "C" __attribute__((visibility("default"))) const char* rta_isa_name(int index) {
  for (const rta::Row& row : rta::kRows)
    if (row.here && index-- == 0) return row.name;
  return nullptr;
}
