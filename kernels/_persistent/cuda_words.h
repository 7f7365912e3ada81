// What kernels in CUDA C++ that stay on the GPU need of the machine: loads and stores of whole words that others write
// and read at the same time, loads of weights that the compiler may neither repeat nor move, products and sums that
// round one by one. tests/cuda_checks/cuda_on_host.h has the same names for a CPU.
//
// Relaxed is enough: a word holds its payload and its number, so there is nothing to order (rta_mailbox.h).
#pragma once

using Word = unsigned long long;

// Scope of the system: memory of the host.
static __device__ __forceinline__ Word load_system(const Word* from) {
  Word word;
  asm volatile("ld.relaxed.sys.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
static __device__ __forceinline__ void store_system(Word* to, Word word) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Scope of the card: between its multiprocessors, by the L2 cache.
static __device__ __forceinline__ Word load_card(const Word* from) {
  Word word;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
  return word;
}
static __device__ __forceinline__ void store_card(Word* to, Word word) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
}

// Of a cluster: words in the shared memory of each of its blocks. `own` is the word's place in the caller's block, and
// so in all others. A barrier of the cluster stands behind the clearing of those words, and one before a block ends.
static __device__ __forceinline__ unsigned in_shared(const Word* own) {
  return static_cast<unsigned>(__cvta_generic_to_shared(own));
}
static __device__ __forceinline__ void store_cluster(const Word* own, int block, Word word) {
  unsigned there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(in_shared(own)), "r"(block));
  asm volatile("st.relaxed.cluster.shared::cluster.u64 [%0], %1;" ::"r"(there), "l"(word) : "memory");
}
static __device__ __forceinline__ Word load_cluster(const Word* own) {
  Word word;
  asm volatile("ld.relaxed.cluster.shared::cta.u64 %0, [%1];" : "=l"(word) : "r"(in_shared(own)) : "memory");
  return word;
}
static __device__ __forceinline__ void meet_cluster() {  // of its threads, those that have ended are not waited for
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// What the sender of a word had written before it is seen by every load behind this, in caches too.
static __device__ __forceinline__ void fence_system() { asm volatile("fence.acq_rel.sys;" ::: "memory"); }

// Of a block alone. threads: those that meet at a barrier of theirs, whole warps, where others of the block do not.
static __device__ __forceinline__ void fence_block() { asm volatile("fence.acq_rel.cta;" ::: "memory"); }
template <int barrier, int threads>
static __device__ __forceinline__ void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(barrier), "n"(threads) : "memory");
}
template <int barrier, int threads>
static __device__ __forceinline__ void arrive() {  // is counted at a barrier, and does not wait
  asm volatile("bar.arrive %0, %1;" ::"n"(barrier), "n"(threads) : "memory");
}
static __device__ __forceinline__ unsigned compare_and_swap(unsigned* at, unsigned expected, unsigned made) {
  return atomicCAS(at, expected, made);
}
static __device__ __forceinline__ unsigned cycles() { return static_cast<unsigned>(clock()); }

// Of a warp: the value that a lane has, and whether something holds in all lanes.
static __device__ __forceinline__ unsigned of_lane(unsigned v, int lane) { return __shfl_sync(0xffffffffu, v, lane); }
static __device__ __forceinline__ bool all_lanes(bool v) { return __all_sync(0xffffffffu, v); }

// 16 bytes that change only before a word says so, behind whose fence they are read. Volatile: an ordinary load could
// be made again in every moment instead of kept in registers, or kept instead of made again.
static __device__ __forceinline__ uint4 load_weights(const uint4* from) {
  uint4 line;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(line.x), "=r"(line.y), "=r"(line.z), "=r"(line.w)
               : "l"(from)
               : "memory");
  return line;
}

// v, of which the compiler knows nothing: what is unpacked of it is unpacked where it is used, and not before the loop
// over all moments, where it would take registers twice.
static __device__ __forceinline__ unsigned opaque(unsigned v) {
  unsigned same;
  asm volatile("mov.b32 %0, %1;" : "=r"(same) : "r"(v));
  return same;
}

static __device__ __forceinline__ float add_rn(float a, float b) { return __fadd_rn(a, b); }
static __device__ __forceinline__ float mul_rn(float a, float b) { return __fmul_rn(a, b); }
static __device__ __forceinline__ float fma_rn(float a, float b, float c) { return __fmaf_rn(a, b, c); }
static __device__ __forceinline__ float div_rn(float a, float b) { return __fdiv_rn(a, b); }
// Near e^v, to 2^-21 and |v| 2^-24 of it, and near a / b, to 2^-22: float32 results that no bit is promised of.
static __device__ __forceinline__ float exp_near(float v) { return __expf(v); }
static __device__ __forceinline__ float quotient_near(float a, float b) { return __fdividef(a, b); }
static __device__ __forceinline__ int rounded(float v) { return __float2int_rn(v); }
static __device__ __forceinline__ unsigned bits_of(float v) { return __float_as_uint(v); }
static __device__ __forceinline__ float float_of(unsigned v) { return __uint_as_float(v); }

// What a block was given when it was launched.
static __device__ __forceinline__ uint4* shared_memory() {
  extern __shared__ uint4 memory[];
  return memory;
}
