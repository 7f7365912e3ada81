/* A door to a batcher for other processes of the machine: they put samples and take answers through shared memory.
 *
 * Each client has a lane with `depth` places. A put writes its sample into a free place and says so; a thread of the
 * batcher's process takes it to the batcher, and writes the answer into the same place. A client that dies at any
 * instruction leaves a put that was said, which is stepped, or one that was not, which never was; its lane is free
 * again when the last of its answers is there. No lock is held across processes. Times are nanoseconds of
 * CLOCK_MONOTONIC, which processes share. An answer counts as in time if it was in its place before its deadline.
 *
 * Where the client is NULL, as one that did not connect, puts and answers are RTA_DOOR_BAD; sizes and counts of what is
 * NULL are 0.
 */
#ifndef RTA_DOOR_H
#define RTA_DOOR_H

#include "rta_batcher.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_DOOR_NOTE_BYTES 256
#define RTA_DOOR_MOST_LANES 1024
#define RTA_DOOR_MOST_DEPTH (1 << 20)

/* Instead of a place, of rta_door_put and rta_door_take; those of rta_put_error besides. */
typedef enum {
  RTA_DOOR_GONE = -5, /* the batcher's process has ended, or has stopped it */
  RTA_DOOR_BAD = -6   /* no such place; or the client was made before a fork */
} rta_door_error;

typedef struct {
  rta_batcher* batcher; /* with tickets, that has not been started; it is to outlive the door */
  const char* name;     /* 1 to 200 letters, digits, '_', '-' or '.' */
  int64_t lanes, depth; /* clients at once, and places of each, which become a power of two */
  /* What clients are told about samples and answers, as bytes of their own. */
  char note[RTA_DOOR_NOTE_BYTES];
} rta_door_config;

typedef struct {
  int64_t put;           /* samples that came through the door and were taken by the batcher */
  int64_t refused;       /* that it did not take */
  int64_t answered;      /* that were given to a living client's place */
  int64_t late_at_door;  /* of those that were in time until the door, and late behind it */
  int64_t died, clients; /* clients that ended without a word; that are there now */
} rta_door_stats;

typedef struct rta_door rta_door;
typedef struct rta_door_client rta_door_client;

/* NULL with rta_batcher_error_text(): a name that a living process has, no memory. What a dead one left is replaced. */
rta_door* rta_door_open(const rta_door_config* config);
/* After rta_batcher_wait_stopped: gives the last answers, tells the clients, and ends the thread. */
void rta_door_close(rta_door* door);
void rta_door_statistics(const rta_door* door, rta_door_stats* stats);

/* NULL with rta_batcher_error_text(): nobody is there, or no lane is free. */
rta_door_client* rta_door_connect(const char* name);
void rta_door_leave(rta_door_client* client);
const rta_door_config* rta_door_described(const rta_door_client* client); /* its batcher is NULL */
void rta_door_sizes(const rta_door_client* client, int64_t* streams, size_t* in_bytes, size_t* out_bytes);

/* n samples, each of in_bytes: handles >= 0, or what became of a put. stamps: of each; NULL: now. From any thread. */
void rta_door_put(rta_door_client* client, int64_t n, const int64_t* streams, const void* x, const int64_t* stamps,
                  int64_t* handles);
/* 1: answered; 0: not within the time; RTA_DOOR_GONE, RTA_DOOR_BAD. */
int rta_door_wait(rta_door_client* client, int64_t handle, int64_t timeout_ns);
/* The rta_answer, or an rta_put_error of what the batcher did not take; RTA_DOOR_BAD: not answered, or taken before. y
 * is written for OK and LATE alone. */
int rta_door_take(rta_door_client* client, int64_t handle, void* y, int64_t* lateness_ns);
/* Nobody will take it. */
void rta_door_forget(rta_door_client* client, int64_t handle);

#ifdef __cplusplus
}
#endif
#endif
