/* A model that stays on a GPU, in C: without Python, torch, a compiler or the CUDA toolkit. NVIDIA's driver is opened
 * when it is asked for (libcuda.so.1); a program that links this library runs where there is none, and is told so.
 *
 * The file is one that rt.save(..., persistent=["sm_90"]) wrote. Beside the model for the CPU it holds, for each card,
 * the machine code of a persistent kernel, the weights as that kernel reads them, and how it is launched. One launch
 * serves all calls: the host writes x into pinned memory and spins until y is there (rta_mailbox.h). The bits are the
 * CPU's.
 *
 * While such a kernel runs, whatever waits for the whole device does not return: loading code, freeing memory,
 * cuCtxSynchronize. So open all models before the first step of one. rta_gpu_open refuses to load code beside a kernel
 * of this library.
 *
 * What returns a pointer gives NULL for failure, what returns int -1; rta_error() then says why, and rta_error_code()
 * of which kind it is. One thread uses a model at a time. No card has run this yet.
 *
 * A model that is NULL, as one that was not opened, is RTA_BAD_ARGUMENT; its states have 0 bytes, and what describes it
 * is zeros.
 */
#ifndef RTA_GPU_H
#define RTA_GPU_H

#include "rta_model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rta_gpu rta_gpu;

typedef struct {
  int64_t inputs, outputs; /* float32 numbers of x, and of y */
  int blocks;              /* of the kernel; each has a multiprocessor for itself */
  int capability;          /* that its code is for, times ten: 90 for 9.0 */
  int streams;             /* 1 where the kernel keeps states from call to call, else 0 */
  const char* kernel;      /* its name; lives as long as the model */
} rta_gpu_about;

/* Loads code and weights onto a device, counted as the driver counts them. Nothing runs yet.
 * key: the ed25519 public key that must have signed the file, for which libsodium has to be there. NULL: code from a
 * file that nobody signed is put onto the card; only its digest is checked. */
rta_gpu* rta_gpu_open(const char* path, const unsigned char* key, int device);
/* The bytes are copied. */
rta_gpu* rta_gpu_from_memory(const void* data, size_t size, const unsigned char* key, int device);
/* From here on no code of a file is put onto a card: it comes from a build of one's own, a folder of KEY.fatbin, and
 * what is not there is not opened (RTA_NO_KERNEL). docs/how-to/gpu-from-c.md says how CMake makes it. Weights and sizes
 * are still the file's. NULL: the file's code again. */
int rta_gpu_code(const char* folder);
/* Ends the kernel and gives everything back; kernels of models that are open end with the process. Where another kernel
 * of this library runs, memory is given back when the last one has ended. */
void rta_gpu_close(rta_gpu* gpu);

/* Launches the kernel, where it does not run. A step does that too: call it where the first step is not to wait. */
int rta_gpu_start(rta_gpu* gpu);
/* x to y. No call of the driver where the kernel runs. Gives up after timeout_ns nanoseconds (0: never); then the
 * kernel is ended, y holds anything, and every later call fails with RTA_NO_ANSWER. */
int rta_gpu_step(rta_gpu* gpu, const float* x, float* y, int64_t timeout_ns);
/* The next step finds the states as they were after opening. Nothing for a model without states. */
void rta_gpu_reset(rta_gpu* gpu);
/* What a recurrent kernel in CUDA C++ remembers, float32: h of all layers, then c of an LSTM; NaN where the stream is
 * corrupted. 0 bytes where the kernel gives its past to nobody. Saving and loading are messages to the kernel: no time
 * step, and it is started where it does not run. */
size_t rta_gpu_state_bytes(const rta_gpu* gpu);
int rta_gpu_save_state(rta_gpu* gpu, void* to);
int rta_gpu_load_state(rta_gpu* gpu, const void* from);
/* Other weights for the same kernel, from another file of the same model: checked, copied beside the running kernel
 * into memory that is there for them, and exchanged by the message of the next step; states go on. A swap that no step
 * has taken yet is dropped. -1 with RTA_NO_FIT where the kernel, its sizes or its static scales differ. key: as for
 * opening.
 */
int rta_gpu_swap(rta_gpu* gpu, const char* path, const unsigned char* key);
void rta_gpu_describe(const rta_gpu* gpu, rta_gpu_about* about);

/* For which cards a file has kernels: how many there are, and of the first `most` their compute capabilities times ten.
 * -1 where it is none, or damaged. Asks no driver. */
int rta_gpu_stored(const void* data, size_t size, int* capabilities, int most);

#ifdef __cplusplus
}
#endif
#endif
