/* rtaccel's native core: a C ABI without torch and without Python.
 *
 * A plan is a list of stages over values. A value is a matrix of rows (the batch, any number of them) by a
 * fixed width. Build once: create, values, stages, finish. Then run: no allocation, no lookup, no lock.
 * A plan owns its packed weights and its scratch, so one thread runs it at a time; make one plan per thread.
 *
 * Functions that return int give 0 for success and -1 for failure; rta_error() then holds the reason.
 */
#ifndef RTACCEL_H
#define RTACCEL_H

#include <stddef.h>
#include <stdint.h>

#define RTA_ABI_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { RTA_FLOAT32 = 0, RTA_INT8 = 1 } rta_dtype;

typedef enum { RTA_INNER = 0, RTA_INPUT = 1, RTA_OUTPUT = 2 } rta_role;

typedef enum { RTA_ATTR_INT = 0, RTA_ATTR_FLOAT = 1, RTA_ATTR_TEXT = 2, RTA_ATTR_TENSOR = 3 } rta_attr_kind;

/* One named number, text or tensor of a stage. Tensors are contiguous and only read while the stage is made. */
typedef struct {
  const char* name;
  rta_attr_kind kind;
  int64_t integer;
  double real;
  const char* text;
  const void* data; /* tensor: float32 or int8 */
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
const char* rta_isa(void); /* the preferred instruction set of those in use, say "portable" or "avx2" */

int rta_kernel_count(void);
rta_kernel rta_kernel_at(int index);
/* NULL where the kernel can compute it, else the reason why not. Tensors are described by their dtype alone. */
const char* rta_kernel_reject(const char* op, const char* name, const rta_attr* attrs, int attr_count);

/* weight_bytes: at least the bytes of all packed weights; unused pages are never touched. */
rta_plan* rta_plan_create(size_t weight_bytes);
void rta_plan_destroy(rta_plan* plan);
/* Id of the new value, or -1. Inputs and outputs of the plan are numbered in the order they are declared. */
int rta_plan_value(rta_plan* plan, rta_dtype dtype, int64_t width, rta_role role);
int rta_plan_stage(rta_plan* plan, const char* op, const char* kernel, const int* inputs, int input_count,
                   const int* outputs, int output_count, const rta_attr* attrs, int attr_count);
int rta_plan_finish(rta_plan* plan);

/* inputs[i], outputs[i]: contiguous rows. An output must not overlap an input or another output. */
void rta_plan_run(rta_plan* plan, const void* const* inputs, void* const* outputs, int64_t rows);

size_t rta_plan_packed_bytes(const rta_plan* plan);
size_t rta_plan_scratch_bytes(const rta_plan* plan);

#ifdef __cplusplus
}
#endif
#endif
