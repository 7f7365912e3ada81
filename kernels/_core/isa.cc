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
#ifndef HWCAP_ASIMDDP
#define HWCAP_ASIMDDP (1 << 20)
#endif
#if defined(__APPLE__)  // all of Apple's have it
#define AT_HWCAP 16
static unsigned long getauxval(unsigned long) { return HWCAP_ASIMDDP; }
#else
#include <sys/auxv.h>
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

#if defined(__x86_64__)
// A bit of CPUID; state: the registers that the system has to save for it (XCR0). Read here and not by the compiler's
// __builtin_cpu_supports, whose runtime library finds nothing in some toolchains.
struct Feature {
  const char* name;
  unsigned leaf, subleaf;
  int reg;  // eax, ebx, ecx, edx
  int bit;
  unsigned state;
};
constexpr unsigned kYmm = 0x6, kZmm = 0xe6;
constexpr Feature kKnown[] = {
    {"fma", 1, 0, 2, 12, kYmm},       {"avx2", 7, 0, 1, 5, kYmm},       {"avxvnni", 7, 1, 0, 4, kYmm},
    {"avx512f", 7, 0, 1, 16, kZmm},   {"avx512dq", 7, 0, 1, 17, kZmm},  {"avx512bw", 7, 0, 1, 30, kZmm},
    {"avx512vl", 7, 0, 1, 31, kZmm},  {"avx512vbmi", 7, 0, 2, 1, kZmm}, {"avx512vnni", 7, 0, 2, 11, kZmm},
    {"avx512bf16", 7, 1, 0, 5, kZmm},
};

// What CPUID says, asked once: in a virtual machine each question leaves it, which took 4 us here (2026-11), and one
// for each feature took a third of a first load.
struct Leaves {
  unsigned one[4] = {}, seven[4] = {}, more[4] = {};  // leaf 1; leaf 7; its subleaf 1
  unsigned saved = 0;                                 // XCR0: the registers that the system saves

  Leaves() {
    unsigned most, b, c, d;
    __cpuid(0, most, b, c, d);
    if (most < 7) return;
    __cpuid(1, one[0], one[1], one[2], one[3]);
    __cpuid_count(7, 0, seven[0], seven[1], seven[2], seven[3]);
    if (seven[0] >= 1) __cpuid_count(7, 1, more[0], more[1], more[2], more[3]);
    constexpr unsigned kSaves = 1u << 27;  // OSXSAVE
    if (one[2] & kSaves) __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
  }
};

const Leaves& leaves() {
  static const Leaves asked;
  return asked;
}

bool has(const char* name) {
  for (const Feature& f : kKnown) {
    if (std::strcmp(f.name, name) != 0) continue;
    const Leaves& all = leaves();
    const unsigned* reg = f.leaf == 1 ? all.one : f.subleaf ? all.more : all.seven;
    return (reg[f.reg] >> f.bit & 1) && (all.saved & f.state) == f.state;
  }
  return false;
}
#endif

// The tiles of AMX with int8. Their 8 KiB of state are not part of a thread until the process has asked Linux for them;
// that can be refused, by an old kernel or because a signal stack is too small to hold them.
[[maybe_unused]] bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  const unsigned d = leaves().seven[3];
  if (!(d & kTile) || !(d & kInt8)) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// present is compiled where it can be: for its own kind of processor.
#define RTA_HAS(feature) has(feature)
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
  uint32_t found = 0;
  for (int i = 0; i < static_cast<int>(Isa::kCount); ++i) {
    const Isa isa = static_cast<Isa>(i), parent = row(isa).parent;
    if ((isa == parent || (found & bit(parent))) && row(isa).present()) found |= bit(isa);
  }
  return found;
}

const char* wanted_set() {
#if defined(__wasm__)
  return nullptr;  // a page has no environment
#else
  return std::getenv("RTACCEL_CPU_ISA");
#endif
}

// An unknown name allows only the portable set: rtaccel.backends.cpu refuses it by name before that matters.
uint32_t allowed() {
  const char* wanted = wanted_set();
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

#if defined(__x86_64__)
bool cpu_has_sha256() {
  constexpr unsigned kSha = 1u << 29, kSse41 = 1u << 19;
  return (leaves().seven[1] & kSha) && (leaves().one[2] & kSse41);
}
#endif

const char* isa_name(Isa isa) { return row(isa).name; }

const char* isa_missing(Isa isa) {
  if (usable_sets() & bit(isa)) return nullptr;
  static thread_local char text[160];
  const char* wanted = wanted_set();
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
