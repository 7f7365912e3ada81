/* The freshest value: one writer leaves a value, a reader takes the newest whole one. Neither ever waits for the other.
 *
 * readers = RTA_LATEST_ONE: three buffers and one word that says whose they are. A put is a copy and a compare-exchange
 * that fails at most once; a get is one atomic add. The reader keeps its buffer until its next get, so the value is a
 * view. The word holds the whole state, so either side may die at any instruction and another may take its place.
 * readers = RTA_LATEST_MANY: eight buffers taken in turn, each with its number. A get copies the newest into memory of
 * its own and looks whether it was written over meanwhile, at most RTA_LATEST_TRIES times; then it keeps the value it
 * had (status OLD).
 *
 * Layout, in a process's own memory or in shared memory (all numbers little endian, as the machine has them):
 *     0  rta_latest_header, 512 bytes: what a reader of another language needs is in its first 192
 *   512  buffers, `stride` bytes each: rta_latest_stamp, 64 bytes, then `payload_bytes` of data, padded to 64
 * Times are nanoseconds of CLOCK_MONOTONIC of this machine.
 *
 * Functions that return int give 0 or more for success, and a negative rta_latest_error; the state is then as before.
 * A slot that is NULL, as one that was not made, is RTA_LATEST_BAD; addresses of it are NULL, and a sample that is
 * taken of it is RTA_LATEST_NONE.
 */
#ifndef RTA_LATEST_H
#define RTA_LATEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_LATEST_MAGIC "RTALATST"
#define RTA_LATEST_VERSION 1
#define RTA_LATEST_DIMS 8
#define RTA_LATEST_TRIES 64

typedef enum { RTA_LATEST_ONE = 1, RTA_LATEST_MANY = 8 } rta_latest_readers;
typedef enum { RTA_LATEST_NONE = 0, RTA_LATEST_NEW = 1, RTA_LATEST_OLD = 2 } rta_latest_status;
typedef enum { RTA_LATEST_WRITER = 0, RTA_LATEST_READER = 1 } rta_latest_role;
typedef enum { RTA_LATEST_NAN_PASS = 0, RTA_LATEST_NAN_REFUSE = 1 } rta_latest_nan;

typedef enum {
  RTA_LATEST_OLDER = -1,   /* the stamp is before that of the value that is there: dropped and counted */
  RTA_LATEST_FUTURE = -2,  /* the stamp is after now */
  RTA_LATEST_TAKEN = -3,   /* another living process, handle or loop has this side */
  RTA_LATEST_HAS_NAN = -4, /* NaN in a float value of a slot that refuses it */
  RTA_LATEST_BAD = -5      /* arguments, files or systems: rta_latest_error_text() says what */
} rta_latest_error;

/* dtypes: the first six are those of rta_dtype. */
typedef enum {
  RTA_LATEST_FLOAT32 = 0,
  RTA_LATEST_INT8 = 1,
  RTA_LATEST_INT64 = 2,
  RTA_LATEST_INT32 = 3,
  RTA_LATEST_UINT8 = 4,
  RTA_LATEST_BFLOAT16 = 5,
  RTA_LATEST_FLOAT64 = 16,
  RTA_LATEST_FLOAT16 = 17,
  RTA_LATEST_INT16 = 18,
  RTA_LATEST_BOOL = 19
} rta_latest_dtype;

typedef struct {
  int64_t seq;      /* 1 for the first value; 0: never written */
  int64_t stamp_ns; /* when it was measured */
  int64_t put_ns;   /* when it was put */
  int64_t origin;   /* of a loop's outputs: an rta_loop_origin; 0 for other values */
  int64_t reserved[4];
} rta_latest_stamp;

typedef struct {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes; /* 512 */
  uint64_t total_bytes;
  uint64_t payload_bytes;
  uint64_t stride;
  uint32_t readers; /* rta_latest_readers */
  uint32_t buffers; /* 3 or 8 */
  uint32_t dtype;
  uint32_t ndim;
  uint32_t nan;
  uint32_t ready; /* 1 once the rest of the header is valid */
  int64_t shape[RTA_LATEST_DIMS];
  uint64_t unused[8];
  /* 192: owners, pid << 32 | the low half of its start time in ticks since boot; 0: nobody */
  uint64_t writer, reader;
  uint64_t line2[6];
  /* 256. ONE: bits 0..1 the writer's buffer w; bit 2 the middle buffer is new; bit 31 p. Of the other two buffers a <
     b, the middle one is a where p is 0. MANY: unused */
  uint32_t word;
  uint32_t line3[15];
  /* 320. MANY: number of the newest whole value, in buffer (seq - 1) % 8 */
  int64_t latest;
  uint64_t line4[7];
  /* 384: counted by the writer */
  int64_t dropped, clock_back;
  uint64_t line5[6];
  uint64_t line6[8];
} rta_latest_header;

typedef struct rta_latest rta_latest;

typedef struct {
  const void* data; /* one reader: valid until the next get; many: of this handle, until its next get */
  int64_t seq, stamp_ns, put_ns, origin;
  int status; /* rta_latest_status */
} rta_latest_sample;

/* name NULL: memory of this process. Else POSIX shared memory, made where it does not exist and checked against the
 * arguments where it does. NULL with rta_latest_error_text() where that fails. */
rta_latest* rta_latest_create(const char* name, uint32_t dtype, int ndim, const int64_t* shape,
                              rta_latest_readers readers, rta_latest_nan nan);
/* What is there under a name. */
rta_latest* rta_latest_open(const char* name);
/* Frees the handle and gives up its sides; shared memory stays until unlinked. */
void rta_latest_close(rta_latest* slot);
/* Gives up the sides of a handle, which may take them again later. */
void rta_latest_leave(rta_latest* slot);
int rta_latest_unlink(const char* name);
const char* rta_latest_error_text(void); /* of this thread */

const rta_latest_header* rta_latest_describe(const rta_latest* slot);
const void* rta_latest_buffer(const rta_latest* slot, int index); /* data of a buffer; of MANY the handle's own copy */

/* stamp_ns 0: now. The number of the value, or an error. The first put and the first get of a handle claim their side.
 */
int64_t rta_latest_put(rta_latest* slot, const void* data, int64_t stamp_ns);
int rta_latest_get(rta_latest* slot, rta_latest_sample* sample);

/* Gives one side of a handle to a loop, which then is the only one to use it; 0 or RTA_LATEST_TAKEN. */
int rta_latest_lend(rta_latest* slot, rta_latest_role role);
void rta_latest_take_back(rta_latest* slot, rta_latest_role role);
/* As put and get, for whoever borrowed the side, with the time given and without looking at the stamp. data NULL: the
 * value was written into rta_latest_next() already. */
void* rta_latest_next(rta_latest* slot);
int64_t rta_latest_publish(rta_latest* slot, const void* data, int64_t stamp_ns, int64_t now_ns, int64_t origin);
int64_t rta_latest_put_at(rta_latest* slot, const void* data, int64_t stamp_ns, int64_t now_ns);
void rta_latest_take(rta_latest* slot, rta_latest_sample* sample);

int rta_latest_lock_memory(rta_latest* slot); /* mlock: 0, or -1 */
int64_t rta_latest_now_ns(void);              /* CLOCK_MONOTONIC */

#ifdef __cplusplus
}
#endif
#endif
