// A persistent kernel on the GPU and answers every word of a message as soon as that word is there: the round trip over
// the link, and nothing else. What a persistent model takes beyond it is its own doing.
//
// Why this is CUDA C++. A Triton program is one thread of control over tiles: what ends its polling loop must be a sum
// over all threads, so every look at the mailbox passes through shared memory and barriers, and no word can be answered
// before the last one has come. Numba's subset here (what its simulator runs) has no loads and stores of system scope.
// In CUDA a lane polls a word of its own, answers it, and waits for nobody.
//
// The words are those of rta_mailbox.h: 8 bytes of payload and sequence number, whole or not there, two slots in turn.
// So relaxed loads and stores of system scope are enough, and there is no fence. control, as for the Triton kernels:
// [0] abort, from the host; [1] state; [2] looks since the last message, of the first lane.
//
// One warp, up to 32 words. The last two parameters are scratch memory, which every stored kernel is passed and this
// one has no use for.

namespace {

constexpr int kSpinsPerLook = 1024;
constexpr long long kRunning = 1, kAborted = 2, kIdle = 3;

__device__ unsigned long long load(const unsigned long long* from) {
  unsigned long long word;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}

__device__ void store(unsigned long long* to, unsigned long long word) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

}  // namespace

extern "C" __global__ void __launch_bounds__(32)
    rtaccel_echo(const unsigned long long* request, unsigned long long* reply, unsigned long long* control, int words,
                 int idle_looks, void*, void*) {
  const int lane = threadIdx.x;
  if (lane == 0) store(control + 1, kRunning);
  if (lane >= words) return;

  long long end = 0;
  for (unsigned sequence = 1; end == 0; ++sequence) {
    const int at = (sequence & 1) * words + lane;
    int spins = 0, looks = 0;
    unsigned long long word = load(request + at);
    while (static_cast<unsigned>(word >> 32) != sequence && end == 0) {
      if (++spins == kSpinsPerLook) {
        spins = 0;
        ++looks;
        if (lane == 0) store(control + 2, looks);
        if (load(control) != 0)
          end = kAborted;
        else if (idle_looks > 0 && looks >= idle_looks)
          end = kIdle;
      }
      word = load(request + at);
    }
    if (end == 0) store(reply + at, word);
  }
  if (lane == 0) store(control + 1, end);
}
