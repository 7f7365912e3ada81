// Every kernel of the core that runs on this CPU, held to plain references, with guard pages around all memory.
//
//     rtaccel_native_tests [--quick] [--slack] [--cases FILE] [op ...]
//     rtaccel_native_tests --sets       names the instruction sets that run here
//
// --quick: a part of the sizes. --slack: memory ends 64 bytes before the guard page, for emulators whose masked loads
// touch lanes that are masked out, as processors do not. --cases: replays the conformance cases of all operators too.
// Prints a line per kernel and, last, a hash of all integer outputs (and of float outputs whose bits are promised):
// it is the same on every instruction set and architecture. Exit status 1 where something failed.
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "_core/isa.h"
#include "harness.h"

int main(int argc, char** argv) {
  using namespace check;
  report_faults();
  bool quick = false;
  const char* cases = nullptr;
  std::set<std::string> only;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--sets") == 0) {
      for (int isa = 0; isa < static_cast<int>(rta::Isa::kCount); ++isa)
        if (!rta::isa_missing(static_cast<rta::Isa>(isa))) std::puts(rta::isa_name(static_cast<rta::Isa>(isa)));
      return 0;
    }
    if (std::strcmp(argv[i], "--cases") == 0 && i + 1 < argc)
      cases = argv[++i];
    else if (std::strcmp(argv[i], "--quick") == 0)
      quick = true;
    else if (std::strcmp(argv[i], "--slack") == 0)
      Guarded::slack = 64;
    else
      only.insert(argv[i]);
  }
  const std::map<std::string, void (*)(const char*, Report&)> checks = {{"linear", check_linear},
                                                                        {"quantize", check_quantize},
                                                                        {"pointwise", check_pointwise},
                                                                        {"softmax", check_softmax},
                                                                        {"sparse_linear", check_sparse_linear}};

  int failures = 0;
  std::map<std::string, uint64_t> integers;  // by op and kind of kernel: its name without the instruction set
  std::set<std::string> unchecked;
  const auto conclude = [&](const std::string& op, const char* kernel, const Report& report) {
    std::printf("%-10s %-18s %7ld cases, %d failed, integers %016llx\n", op.c_str(), kernel, report.cases,
                report.failures, static_cast<unsigned long long>(report.integers.value()));
    std::fflush(stdout);
    failures += report.failures;
    const std::string name = kernel;
    const std::string kind = op == "vectors" || op == "online" ? op : op + "/" + name.substr(0, name.rfind('_'));
    const auto [at, first] = integers.emplace(kind, report.integers.value());
    if (!first && at->second != report.integers.value()) {
      std::printf("  FAILED: %s %s differs from the kernels before it\n", op.c_str(), kernel);
      ++failures;
    }
  };

  std::printf("instruction set %s\n", rta_isa());
  if (only.empty() || only.count("vectors"))
    for (const auto& [isa, report] : check_vectors()) conclude("vectors", isa.c_str(), report);
  if (only.empty() || only.count("online")) {
    for (const auto& [isa, report] : check_online(quick)) conclude("online", isa.c_str(), report);
    Report abi;
    check_online_abi(abi);
    conclude("online_abi", "abi", abi);
  }
  const std::pair<const char*, void (*)(Report&)> of_the_library[] = {
      {"frames", check_frames},     {"endpoint", check_endpoint},
      {"cascade", check_cascade},   {"workers", check_workers},
      {"door", check_door},         {"threads", check_threads},
      {"realtime", check_realtime}, {"plan", check_plan},
      {"batcher", check_batcher},   {"gpu", check_gpu}};
  for (const auto& [name, checked] : of_the_library) {
    if (!only.empty() && !only.count(name)) continue;
    Report report;
    checked(report);
    conclude(name, "abi", report);
  }
  for (int i = 0; i < rta_kernel_count(); ++i) {
    const rta_kernel kernel = rta_kernel_at(i);
    if (!only.empty() && !only.count(kernel.op)) continue;
    const auto found = checks.find(kernel.op);
    if (found == checks.end()) {
      unchecked.insert(kernel.op);
      continue;
    }
    rta_attr dtype{};
    dtype.name = "weight_dtype";
    dtype.kind = RTA_ATTR_TEXT;
    dtype.text = "int8";
    const char* reason = rta_kernel_reject(kernel.op, kernel.name, &dtype, 1);
    if (reason && (std::strstr(reason, "this CPU") || std::strstr(reason, "RTACCEL_CPU_ISA"))) {
      std::printf("%-10s %-18s not run: %s\n", kernel.op, kernel.name, reason);
      continue;
    }
    Report report;
    report.quick = quick;
    running(kernel.op, kernel.name, "");
    found->second(kernel.name, report);
    if (report.cases)
      conclude(kernel.op, kernel.name, report);
    else  // of a kind of weights that only the conformance cases have
      unchecked.insert(kernel.op);
  }
  if (cases) {
    std::map<std::pair<std::string, std::string>, Report> reports;
    replay_cases(cases, reports);
    for (const auto& [kernel, report] : reports) {
      std::printf("%-10s %-18s %7ld results of conformance cases, %d failed\n", kernel.first.c_str(),
                  kernel.second.c_str(), report.cases, report.failures);
      failures += report.failures;
      unchecked.erase(kernel.first);
    }
  }
  for (const std::string& op : unchecked)
    std::printf("%-10s %s\n", op.c_str(),
                cases ? "has no conformance case that a kernel takes" : "is not checked without --cases");
  if (cases && !unchecked.empty()) ++failures;
  Hash all;
  for (const auto& [op, value] : integers) all.add(&value, sizeof value);
  std::printf("%s %016llx\n", failures ? "FAILED" : "integers", static_cast<unsigned long long>(all.value()));
  return failures ? 1 : 0;
}
