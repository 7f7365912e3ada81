// Drives the target of fuzz_model.cc where libFuzzer is not: changed files, one after the other.
//
//     rtaccel_fuzz_model [--seconds S] [--runs N] [--seed N] [--keep FILE] [--texts] FOLDER|FILE ...
//
// Every file given is run as it is; then changed ones for so long, or so many. Files that were opened although they
// were changed are changed further. A file that crashes, leaks, or takes more than a minute is written to --keep
// (fuzz-failure.rta), and the program ends with a signal. The same seed gives the same files. --texts: why files were
// refused, how many for each reason.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "fuzz_model.h"
#include "rtaccel.h"

namespace {

constexpr unsigned kMostSeconds = 60;    // of one file
constexpr size_t kMostFurther = 2048;    // opened files that are changed further
constexpr long kMostGrowth = 512 << 10;  // KiB that the program may grow by while it runs

fuzz::Bytes current;
const char* kept = "fuzz-failure.rta";

// Calls of the system alone: it runs within signal handlers.
void keep() {
  const int file = open(kept, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (file < 0) return;
  for (size_t at = 0; at < current.size();) {
    const ssize_t done = write(file, current.data() + at, current.size() - at);
    if (done <= 0) break;
    at += static_cast<size_t>(done);
  }
  close(file);
  constexpr char kText[] = "\nFAILED: the file was kept\n";
  static_cast<void>(!write(STDERR_FILENO, kText, sizeof kText - 1));
}

void ended(int number) {
  keep();
  signal(number, SIG_DFL);
  raise(number);
}

fuzz::Bytes read(const std::string& path) {
  fuzz::Bytes bytes;
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) {
    std::perror(path.c_str());
    std::exit(2);
  }
  uint8_t block[4096];
  for (size_t got; (got = std::fread(block, 1, sizeof block, file)) > 0;) bytes.insert(bytes.end(), block, block + got);
  std::fclose(file);
  return bytes;
}

void collect(const std::string& path, std::vector<std::string>& files) {
  DIR* folder = opendir(path.c_str());
  if (!folder) return files.push_back(path);
  while (const dirent* entry = readdir(folder))
    if (entry->d_name[0] != '.') files.push_back(path + "/" + entry->d_name);
  closedir(folder);
}

// Whether it was opened.
bool run(fuzz::Bytes file) {
  current = std::move(file);
  alarm(kMostSeconds);
  const long before = fuzz::counts.opened;
  const fuzz::Bytes exact(current);  // no room behind its end
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  alarm(0);
  return fuzz::counts.opened > before;
}

// A reason as it is counted: without the name of the stage and without digits.
std::string without_numbers(const char* text) {
  std::string found(text);
  const size_t end = found.find(": ");
  if (end != std::string::npos) found.erase(0, end + 2);
  found.erase(std::remove_if(found.begin(), found.end(), [](char c) { return c >= '0' && c <= '9'; }), found.end());
  return found.substr(0, 70);
}

// KiB in memory now.
long resident() {
  long all = 0, pages = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (!file) return 0;
  if (std::fscanf(file, "%ld %ld", &all, &pages) != 2) pages = 0;
  std::fclose(file);
  return pages * (sysconf(_SC_PAGESIZE) >> 10);
}

}  // namespace

#if defined(__SANITIZE_ADDRESS__)
// Shown to the libraries that read them, as this program hides what it defines.
#define SHOWN extern "C" __attribute__((visibility("default")))
SHOWN const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }
extern "C" void __sanitizer_set_death_callback(void (*)());
SHOWN const char* __asan_default_options() {
  return "max_allocation_size_mb=1024:hard_rss_limit_mb=3000:quarantine_size_mb=32:handle_abort=0";
}
#endif

int main(int argc, char** argv) {
  double seconds = 0;
  long runs = 0;
  uint64_t seed = 1;
  bool texts = false;
  std::map<std::string, long> reasons;
  std::vector<std::string> files;
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* option) { return std::strcmp(argv[i], option) == 0 && i + 1 < argc; };
    if (is("--seconds"))
      seconds = std::atof(argv[++i]);
    else if (is("--runs"))
      runs = std::atol(argv[++i]);
    else if (is("--seed"))
      seed = std::strtoull(argv[++i], nullptr, 10);
    else if (is("--keep"))
      kept = argv[++i];
    else if (std::strcmp(argv[i], "--texts") == 0)
      texts = true;
    else
      collect(argv[i], files);
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fputs("no files to begin with: write them with tests/deploy/write_seeds.py\n", stderr);
    return 2;
  }
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(keep);  // of AddressSanitizer; the other one aborts
#else
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) signal(number, ended);
#endif
  for (int number : {SIGABRT, SIGALRM}) signal(number, ended);

  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<fuzz::Bytes> pool;
  for (const std::string& path : files) {
    pool.push_back(read(path));
    if (!run(pool.back())) std::printf("not opened: %s: %s\n", path.c_str(), rta_error());
  }
  const size_t given = pool.size();
  std::printf("%zu files to begin with, %ld opened\n", given, fuzz::counts.opened);
  fuzz::counts = {};
  fuzz::Random random(seed);
  const long before = resident();
  const auto start = std::chrono::steady_clock::now();
  const auto passed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  while ((runs && fuzz::counts.files < runs) || (seconds > 0 && (fuzz::counts.files % 64 || passed() < seconds))) {
    fuzz::Bytes file = pool[random.below(pool.size())];
    for (uint64_t left = random.one_in(3) ? 1 + random.below(6) : 1; left; --left) fuzz::mutate(file, random);
    if (!run(file)) {
      if (texts) ++reasons[without_numbers(rta_error())];
      continue;
    }
    if (file.size() > 65536) continue;
    if (pool.size() < given + kMostFurther)
      pool.push_back(std::move(file));
    else if (random.one_in(4))
      pool[given + random.below(kMostFurther)] = std::move(file);
  }
  const long grown = resident() - before;
  std::printf(
      "%ld files in %.0f s: %ld opened, %ld steps run, %ld refused their input; %ld with persistent "
      "kernels, and %ld whose are refused; %ld KiB grown, seed %llu\n",
      fuzz::counts.files, passed(), fuzz::counts.opened, fuzz::counts.ran, fuzz::counts.refused_inputs,
      fuzz::counts.launches, fuzz::counts.refused_launches, grown, static_cast<unsigned long long>(seed));
  for (const auto& [text, count] : reasons) std::printf("%8ld %s\n", count, text.c_str());
  if (grown > kMostGrowth) {
    std::puts("FAILED: it grew");
    return 1;
  }
  return 0;
}
