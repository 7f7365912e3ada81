/* What only a library by `rtaccel pack` has: a model in memory that the caller gives.
 *
 * The library asks for no heap. rta_model_open and rta_model_from_memory map memory of the system; rta_model_within
 * takes yours, and makes no system call. Memory that is NULL is RTA_BAD_ARGUMENT, and a model that is NULL needs 0
 * bytes.
 */
#ifndef RTA_PACKED_H
#define RTA_PACKED_H

#include "rta_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A model in memory[0 .. memory_bytes). Its header has how many bytes it needs; with fewer it is NULL, RTA_CANNOT_READ.
 * The memory is the model's until rta_model_close, which gives nothing back: it is yours again. data: a file's bytes;
 * where they lie at a multiple of 64 they are not copied, and may not change during the call. rta_model_swap maps
 * memory of the system for the other weights. */
rta_model* rta_model_within(const void* data, size_t size, unsigned flags, int threads, void* memory,
                            size_t memory_bytes);
/* Bytes that rta_model_within would need at the least for such a model, wherever they lie. */
size_t rta_model_memory(const rta_model* model);

#ifdef __cplusplus
}
#endif
#endif
