/* Threads that several batchers share, each of another model: earliest deadline first.
 *
 * A batch that waits has a deadline (of its oldest sample) and a cost, a + b n + a margin, which its batcher learns.
 * From the last deadline backwards each batch gets the latest start that leaves room for those behind it; the batch
 * whose latest start is first goes first, when that has come. One that is whole (every stream waits, or max_batch do)
 * goes before its time where it will have ended by the first latest start of the others. Batches are not interrupted.
 *
 * A batch that takes longer than its cost makes others late; both sides are counted (rta_batcher_stats: overran,
 * held_up). Deadlines of what waits come nearer and those of new samples do not, so none waits for ever.
 *
 * One worker at a time chooses, and waits for the time of the batch it has chosen; the others run batches or sleep
 * until it has gone. A put takes no lock of theirs.
 *
 * Where the workers are NULL, as those that were not made, a stop is -1 with rta_batcher_error_text(), counts are 0,
 * and no batch has its turn.
 */
#ifndef RTA_WORKERS_H
#define RTA_WORKERS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RTA_MOST_WORKERS 64

typedef struct rta_workers rta_workers;
struct rta_batcher;

typedef struct {
  int threads;      /* 1..RTA_MOST_WORKERS */
  const int* cores; /* by thread, -1: any; NULL: any for all */
  int priority;     /* 1..99: SCHED_FIFO; 0: as the thread that makes them */
  int manual;       /* 1: no threads and no clock; rta_workers_turn, for tests */
} rta_workers_config;

typedef struct {
  int64_t batchers; /* that they serve now */
  int64_t batches;
  int64_t busy_ns; /* in batches, of all threads together */
} rta_workers_stats;

/* Starts the threads. NULL with rta_batcher_error_text() where something does not fit. A batcher joins when it starts,
 * with rta_batcher_config.workers, and leaves when it has stopped. */
rta_workers* rta_workers_create(const rta_workers_config* config);
/* What the system did not allow, a sentence; empty where it allowed all. */
const char* rta_workers_refused(const rta_workers* workers);
/* Ends the threads: 0; or -1 while batchers are served, and nothing has changed. */
int rta_workers_stop(rta_workers* workers);
/* Stops them first. Every batcher of theirs must have been destroyed, or have stopped. */
void rta_workers_destroy(rta_workers* workers);
void rta_workers_statistics(const rta_workers* workers, rta_workers_stats* stats);

/* Manual, one worker: it is `now_ns`. The batch whose turn it is leaves, and is answered took_ns later: its batcher, or
 * NULL. `until`, where not NULL: when it would look again if nothing came; INT64_MAX: never. */
struct rta_batcher* rta_workers_turn(rta_workers* workers, int64_t now_ns, int64_t took_ns, int64_t* until);

#ifdef __cplusplus
}
#endif
#endif
