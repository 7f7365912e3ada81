/* rtaccel's native core: a C ABI without torch and without Python.
 *
 * A plan is a list of stages over values. A value holds, for each sample of the batch (any number of them), `steps`
 * rows of a fixed width: positions of an image, time_steps of a window; one where there is no such axis.
 * Build once: create, values, stages, finish. Then run: no allocation, no lookup, no lock.
 * A plan owns its packed weights, its scratch and its state, so one thread calls it at a time; make one per thread.
 *
 * Functions that return int give 0 for success and -1 for failure; rta_error() then holds the reason. A plan that is
 * NULL, as one that was not made, is such a failure; what counts gives 0 for it, and what returns nothing does nothing.
 */
#ifndef RTA_PLAN_H
#define RTA_PLAN_H

#include <stddef.h>
#include <stdint.h>

#define RTA_ABI_VERSION 3

#ifdef __cplusplus
extern "C" {
#endif

/* Values are float32, int8 or int64; an input or output may be int32, int16, bfloat16, float16, or uint8 (bytes, and
   truth values as 1 and 0). */
typedef enum {
  RTA_FLOAT32 = 0,
  RTA_INT8 = 1,
  RTA_INT64 = 2,
  RTA_INT32 = 3,
  RTA_UINT8 = 4,
  RTA_BFLOAT16 = 5,
  RTA_FLOAT16 = 6,
  RTA_INT16 = 7
} rta_dtype;

/* A state belongs to the plan and lives from call to call, one for each sample of the batch. */
typedef enum { RTA_INNER = 0, RTA_INPUT = 1, RTA_OUTPUT = 2, RTA_STATE = 3 } rta_role;

typedef enum { RTA_ATTR_INT = 0, RTA_ATTR_FLOAT = 1, RTA_ATTR_TEXT = 2, RTA_ATTR_TENSOR = 3 } rta_attr_kind;

/* One named number, text or tensor of a stage. Tensors are contiguous and only read while the stage is made. */
typedef struct {
  const char* name;
  rta_attr_kind kind;
  int64_t integer;
  double real;
  const char* text;
  const void* data; /* tensor */
  rta_dtype dtype;
  int64_t count; /* tensor: elements */
} rta_attr;

typedef struct rta_plan rta_plan;

/* A kernel of the core: `op` it computes, its `name`, and `rank` (the larger is preferred). */
typedef struct {
  const char* op;
  const char* name;
  int rank;
} rta_kernel;

int rta_abi_version(void);
const char* rta_error(void);
const char* rta_isa(void);           /* the preferred instruction set of those in use, say "portable" or "avx2" */
const char* rta_isa_name(int index); /* of this kind of processor, the preferred ones last; NULL after the last */

int rta_kernel_count(void);
rta_kernel rta_kernel_at(int index);
/* NULL where the kernel can compute it, else the reason why not. Tensors are described by their dtype alone. */
const char* rta_kernel_reject(const char* op, const char* name, const rta_attr* attrs, int attr_count);

/* The same for any processor: NULL where the kernel could compute it on one that has its instruction set. */
const char* rta_kernel_unsuited(const char* op, const char* name, const rta_attr* attrs, int attr_count);

/* weight_bytes: at least the bytes of all packed weights; unused pages are never touched. */
rta_plan* rta_plan_create(size_t weight_bytes);
void rta_plan_destroy(rta_plan* plan);
/* Id of the new value, or -1. Inputs and outputs of the plan are numbered in the order they are declared. */
int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t steps, int64_t width, rta_role role);
int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel, const int* inputs, int input_count,
                   const int* outputs, int output_count, const rta_attr* attrs, int attr_count);
/* Lets a plan use `threads` threads, the calling one included: 1 to 32, and at most as many as there are cores that
 * this thread may run on. Before rta_plan_finish, which makes the others where they can pay. Results are the same bits
 * for any number. A forked child runs such a plan on one thread until rta_plan_prefault makes new ones there. */
int rta_plan_threads(rta_plan* plan, int threads);
/* state_samples: for how many samples states are held, 0 for a plan without states. memory: for how many calls a sample
 * that int8 cannot hold (NaN, infinity) lives on in its states, -1 for ever; its float outputs are NaN that long. */
int rta_plan_finish(rta_plan* plan, int64_t state_samples, int64_t memory);

/* inputs[i], outputs[i]: contiguous. An output must not overlap an input or another output. 0, or -1 where a stage
 * refuses an input (an index out of range): then rta_error() says which, nothing was written and no state changed.
 * Where an index that was computed is out of range, or whole numbers are divided by zero, the call ends with -1 as
 * well; what was written to outputs and states by then is worth nothing. samples: at most state_samples where the plan
 * has states. */
int rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples);

/* The same for some of the streams of a plan with states, in any order: row i of inputs and outputs is of streams[i].
 * The others stand still. 0, or -1 as above, or -2 for a stream that there is not or that is listed twice; then nothing
 * was done. */
int rta_plan_run_some(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples,
                      const int64_t* streams);

/* Where the time of a call goes. Makes `calls` pairs of calls, one with its parts timed and one as it is, and writes a
 * row of stages + 4 counts of the processor's counter for each pair: bringing the inputs into place, every stage,
 * handing the outputs over, the whole of the call as it is, and one reading of the counter, which every part includes.
 * A reading waits for what came before it, so the parts add up to more than the whole. Stages that threads share are
 * timed as the caller waits for them; where threads would share the samples, the timed call runs on this thread alone.
 * States move on by 2 * calls. Returns ns per count, or -1 with nothing computed. */
double rta_plan_profile(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t samples, int64_t calls,
                        int64_t* ticks);

/* States as they are after rta_plan_finish, of samples first .. first + count - 1. */
void rta_plan_reset(rta_plan* plan, int64_t first, int64_t count);
/* All states as one block of bytes, in the kernels' own order: to save them and to put them back into such a plan.
 * Loading gives 0, or -1 with nothing changed where the bytes cannot be those of such a plan. */
size_t rta_plan_state_bytes(const rta_plan* plan);
void rta_plan_save_state(const rta_plan* plan, void* to);
int rta_plan_load_state(rta_plan* plan, const void* from);

/* Other weights while it runs. When the next call begins, `plan` and `next` change contents, all but the states, which
 * go on: some pointers are exchanged, nothing is allocated or freed. Afterwards `next` holds what `plan` had; then it
 * can be destroyed, or be offered again to go back. Both must have the same values, stages and threads, and nothing may
 * wait already: else -1. Any thread may offer; it must not touch `next` while rta_plan_pending(plan) is 1. */
int rta_plan_offer(rta_plan* plan, rta_plan* next);
int rta_plan_pending(const rta_plan* plan);
/* Takes an offer back: 1, or 0 where a call has begun with it and `next` holds what `plan` had. */
int rta_plan_withdraw(rta_plan* plan, rta_plan* next);

/* One stream as bytes, to go on with it in another place of such a plan, or on another machine. 0, or -1. */
size_t rta_plan_stream_bytes(const rta_plan* plan);
int rta_plan_save_stream(const rta_plan* plan, int64_t stream, void* to);
int rta_plan_load_stream(rta_plan* plan, int64_t stream, const void* from);

/* Into how many parts a call with so many samples cuts stage number `stage`, or with stage -1 the batch. A call that
 * comes alone, with the threads asleep, is cut only where that makes up for waking them. */
int rta_plan_parts(const rta_plan* plan, int stage, int64_t samples);
/* Threads that stand by, the calling one included: 1 where no call would use more, or after fork(). */
int rta_plan_running_threads(const rta_plan* plan);

/* Makes all memory of a finished plan resident, the way a call uses it, as after fork() or swapping; makes threads that
 * fork() took away; gives threads the scheduling policy and priority of this one. Bytes that are resident, or -1. */
int64_t rta_plan_prefault(rta_plan* plan);
/* Keeps that memory resident (mlock). 0, or -1 where the system does not allow it. fork() does not hand it on. */
int rta_plan_lock(rta_plan* plan);

size_t rta_plan_packed_bytes(const rta_plan* plan);
size_t rta_plan_scratch_bytes(const rta_plan* plan); /* states included */
size_t rta_code_bytes(void);                         /* machine code of the core, shared by all plans */

#ifdef __cplusplus
}
#endif
#endif
