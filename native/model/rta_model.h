/* A model from a file: what rt.save wrote, without Python and without torch.
 *
 * Open once, then step: no allocation, no lock, no system call. A model owns its weights, scratch and states, so one
 * thread steps it at a time; open one per thread. rta_model_swap may be called from another thread while it steps.
 *
 * What returns a pointer gives NULL for failure, what returns int -1; rta_error() then says why, and rta_error_code()
 * of which kind it is. Whatever fails, an open model stays as it was. No address where one is needed, that of a model
 * that was not opened among them, is RTA_BAD_ARGUMENT.
 */
#ifndef RTA_MODEL_H
#define RTA_MODEL_H

#include "rta_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_FORMAT_VERSION 2

typedef struct rta_model rta_model;

typedef enum {
  RTA_OK = 0,
  RTA_CANNOT_READ = 1, /* no such file, not a regular one, changed while it was read, too large for the memory */
  RTA_BAD_FORMAT = 2,  /* not such a file, truncated, or what it says does not fit together */
  RTA_NEWER = 3,       /* a later version of the format */
  RTA_BAD_DIGEST = 4,  /* its bytes are not those that were written */
  RTA_BAD_KEY = 5,     /* not signed, or with another key */
  RTA_NO_KERNEL = 6,   /* no kernel of this build, on this machine, computes a stage */
  RTA_NO_FIT = 7,      /* swap: not the same model with other weights */
  RTA_BAD_ARGUMENT = 8,
  RTA_OTHER = 9,
  RTA_NO_DEVICE = 10,     /* rta_gpu: no driver, no such device, or one on which no kernel may stay */
  RTA_DEVICE_FAILED = 11, /* rta_gpu: the driver said no */
  RTA_NO_ROOM =
      12, /* rta_gpu: other persistent kernels have the multiprocessors or queues, or run while code is loaded */
  RTA_NO_ANSWER = 13 /* rta_gpu: the kernel did not start or answer in time, and was ended */
} rta_code;

/* Of rta_model_open. Others are refused. */
enum {
  RTA_UNCHECKED = 1, /* the digest is not computed: for files that were verified before */
  RTA_LARGE = 2,     /* lets the plan ask for more than 256 times the file's size, and 64 MiB, of memory */
  RTA_IN_PLACE = 4   /* the file or the bytes stay as they are while the model is open, and are not copied; weights that
                        are packed in them for these kernels are read there. A file that is cut short meanwhile ends the
                        process, as with a program's own: put a new one in its place by rename */
};

typedef struct {
  const char* name; /* of the model, lives as long as it does */
  rta_dtype dtype;
  int rank;
  int lead;                /* so many first dimensions are samples: their product is the `samples` of a step */
  int64_t shape[8];        /* -1: any size, of some of those */
  int64_t sample_elements; /* of one sample; a step reads or writes samples times that many */
} rta_tensor;

/* Of the last failure in this thread. */
rta_code rta_error_code(void);

rta_model* rta_model_open(const char* path, unsigned flags);
/* The bytes are copied where they are needed: they may go after the call. With RTA_IN_PLACE they may not, and are
 * copied where they do not lie at a multiple of 64. */
rta_model* rta_model_from_memory(const void* data, size_t size, unsigned flags);
/* The same with at most so many threads a step, the calling one included, as rta_plan_threads. */
rta_model* rta_model_open_threaded(const char* path, unsigned flags, int threads);
rta_model* rta_model_from_memory_threaded(const void* data, size_t size, unsigned flags, int threads);
void rta_model_close(rta_model* model);

const char* rta_model_name(const rta_model* model);
int rta_model_count(const rta_model* model, int outputs); /* of inputs, or of outputs */
int rta_model_tensor(const rta_model* model, int output, int index, rta_tensor* tensor);
/* Sizes of the batch that a step may have, the first dimension; *most is -1 for any. A stream has one: its streams. */
void rta_model_batch(const rta_model* model, int64_t* least, int64_t* most);
int64_t rta_model_streams(const rta_model* model); /* samples with a state of their own; 0 for a model without states */

/* One call, or for a stream one time step. in[i], out[i]: contiguous, in the order of the model; an output must not
 * overlap an input or another output. 0, or -1 as rta_plan_run. */
int rta_model_step(rta_model* model, const void* const* in, void* const* out, int64_t samples);
/* The same for some of the streams: row i is of streams[i], none twice. */
int rta_model_step_some(rta_model* model, const void* const* in, void* const* out, int64_t samples,
                        const int64_t* streams);
/* States of samples first .. first + count - 1 as they were after opening. */
int rta_model_reset(rta_model* model, int64_t first, int64_t count);
size_t rta_model_state_bytes(const rta_model* model);
void rta_model_save_state(const rta_model* model, void* to);
int rta_model_load_state(rta_model* model, const void* from);

/* Other weights for the same model, from another file: read, checked and packed beside it, and exchanged when the next
 * step begins, at the cost of some pointers; states go on. What an earlier swap gave and no step has taken yet is
 * dropped. -1 with RTA_NO_FIT where shapes, dtypes or stages differ. One thread swaps at a time; it may be another than
 * the one that steps. */
int rta_model_swap(rta_model* model, const char* path, unsigned flags);
/* The same from bytes in memory, which may go after the call. */
int rta_model_swap_memory(rta_model* model, const void* data, size_t size, unsigned flags);
/* The weights before the last swap, in the same way. -1 where there are none. */
int rta_model_rollback(rta_model* model);
/* 1 while a swap or rollback waits for the next step, else 0. */
int rta_model_pending(const rta_model* model);

/* A stage by its number: 0, or -1 after the last. kernel: the one that was chosen on this machine. */
int rta_model_stage(const rta_model* model, int stage, const char** name, const char** op, const char** kernel);

/* Bytes of packed weights that the file had ready for the kernels of this machine: 0 where all were packed here. why:
 * NULL, or receives NULL or the reason why what the file has ready was not taken. */
size_t rta_model_prepacked(const rta_model* model, const char** why);
/* Packed weights of this model, for files read by machines that take the same kernels: the bytes of an image (see
 * docs/reference/artifact.md), 0 where there are none, as of stages whose packed form is more than numbers, and in a
 * library of rtaccel pack. to: NULL, or room for as many. */
size_t rta_model_pack(const rta_model* model, void* to);

/* As rta_plan_prefault and rta_plan_lock. */
int64_t rta_model_prefault(rta_model* model);
int rta_model_lock(rta_model* model);
/* The plan within, for rta_loop and rta_plan_profile. It belongs to the model. */
rta_plan* rta_model_plan(rta_model* model);

/* sha256 of a file as rta_model_open computes it: of every byte behind the signature. */
int rta_model_digest(const char* path, unsigned char digest[32]);
/* Whether a file is whole and signed (ed25519) with the secret half of this public key: 0, or -1. Uses libsodium where
 * the system has it, and says so where it has not. */
int rta_model_verify(const char* path, const unsigned char key[32]);
/* The same with the caller's own function, with the signature of crypto_sign_verify_detached: 0 where it is good. */
int rta_model_verify_with(const char* path, const unsigned char key[32],
                          int (*verify)(const unsigned char* signature, const unsigned char* message,
                                        unsigned long long bytes, const unsigned char* key));

#ifdef __cplusplus
}
#endif
#endif
