/* Many streams of one plan: samples are put one by one by any thread, and a worker thread steps them in batches.
 *
 * Every stream has one slot. A put writes its sample there; where one waits already the newer one stays, and the
 * earlier one is answered "replaced". The worker lets a batch of all that wait leave when the slack of the oldest one
 * (its stamp + deadline - now) has come down to what the batch will cost, a + b n + a margin, which it learns while it
 * runs; or at once where every stream waits. Nothing grows: without a free ticket or place for results a put is "full".
 *
 * tickets > 0: a put gives a ticket, which is waited for and taken once. tickets 0: results come batch by batch from
 * rta_batcher_next. Times are nanoseconds of CLOCK_MONOTONIC. No function but create, start and destroy allocates.
 *
 * Where the batcher is NULL, as one that was not made, puts and changes of streams give RTA_PUT_STOPPED; other results
 * are -1 with rta_batcher_error_text(), and counts 0.
 */
#ifndef RTA_BATCHER_H
#define RTA_BATCHER_H

#include "rta_loop.h"
#include "rta_plan.h"
#include "rta_workers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What has become of a sample. The stream has moved by it in the first two cases alone. */
typedef enum {
  RTA_ANSWER_OK = 0,       /* stepped, and answered in time */
  RTA_ANSWER_LATE = 1,     /* stepped, and answered after stamp + deadline */
  RTA_ANSWER_REPLACED = 2, /* there was a sample of its stream with a newer stamp before its batch left */
  RTA_ANSWER_DROPPED = 3,  /* late when its batch left, of a batcher that drops these */
  RTA_ANSWER_REFUSED = 4   /* the model refuses its numbers (an index out of range) */
} rta_answer;

/* Instead of a ticket. */
typedef enum {
  RTA_PUT_FULL = -1,    /* no free ticket; or no place for results, as the last batches were not taken yet */
  RTA_PUT_STOPPED = -2, /* before the start, or after the stop */
  RTA_PUT_STAMP = -3,   /* a stamp after now, or below 0 */
  RTA_PUT_STREAM = -4   /* a stream that there is not */
} rta_put_error;

/* What put gives without tickets. */
typedef enum { RTA_PUT_QUEUED = 0, RTA_PUT_REPLACING = 1, RTA_PUT_OVERTAKEN = 2 } rta_put_result;

typedef enum { RTA_LATE_ANSWER = 0, RTA_LATE_DROP = 1 } rta_batcher_late;

#define RTA_STAMP_NOW INT64_MIN
#define RTA_MOST_RESULTS 4096

typedef struct {
  rta_plan* plan; /* with states, one input and one output; nobody else may call it until the batcher has ended */
  int64_t streams;
  size_t in_bytes, out_bytes; /* of one stream */
  int64_t deadline_ns;
  int64_t max_batch;    /* 1..streams: of more that wait those with the earliest deadlines leave */
  int64_t tickets;      /* 0: results come by rta_batcher_next */
  int64_t spin_ns;      /* the worker sleeps until so long before a batch leaves, and then looks at the clock */
  int late;             /* rta_batcher_late */
  int cpu;              /* -1: any; of its own thread alone */
  int manual;           /* 1: no thread and no clock; rta_batcher_turn or rta_workers_turn, for tests */
  rta_workers* workers; /* threads that it shares with other batchers; NULL: one of its own */
  int64_t results;      /* without tickets: batches that may wait for rta_batcher_next, 1..RTA_MOST_RESULTS; 0: 16 */
} rta_batcher_config;

/* A batch of results. status: rta_answer, here never REPLACED: the put that replaces says so. y: a row of out_bytes for
 * each; of what was not stepped all its bits are set, NaN in float32. */
typedef struct {
  int64_t count;
  const int64_t* streams;
  const int64_t* stamps_ns;
  const void* y;
  const uint8_t* status;
} rta_batch;

/* Every put that was not refused is, once it is answered, in one of ok, late, replaced, dropped and failed. */
typedef struct {
  int64_t put, full; /* taken; and refused, as there was no place */
  int64_t ok, late, replaced, dropped, failed;
  int64_t batches;
  int64_t waiting;             /* streams that the worker has seen with a sample */
  int64_t overran, overran_ns; /* batches that took longer than a + b n + the margin used; by how much, in all */
  int64_t held_up, held_up_ns; /* batches whose latest start passed while their worker ran another model's batch */
  double cost_a_ns, cost_b_ns; /* of a batch of n: a + b n */
  double cost_margin_ns; /* few batches take longer than the line and this; at most a quarter of the deadline is used */
  rta_loop_histogram batch;         /* samples of a batch */
  rta_loop_histogram queue_ns;      /* from put until its batch leaves */
  rta_loop_histogram lateness_ns;   /* after the deadline; 0 in time */
  rta_loop_histogram batch_took_ns; /* from leaving to the last answer */
} rta_batcher_stats;

typedef struct rta_batcher rta_batcher;

/* NULL with rta_batcher_error_text() where something does not fit. */
rta_batcher* rta_batcher_create(const rta_batcher_config* config);
/* Measures what a batch costs (states are as before), and starts the thread. 0, or -1. */
int rta_batcher_start(rta_batcher* batcher);
/* Puts are refused from now on, and what waits leaves at once. */
void rta_batcher_stop(rta_batcher* batcher);
/* After a stop: 1 once everything is answered and the thread has ended, 0: not yet. Without tickets it ends when the
 * last batch has been taken. */
int rta_batcher_wait_stopped(rta_batcher* batcher, int64_t timeout_ns);
void rta_batcher_destroy(rta_batcher* batcher); /* stops it first; results that nobody took are lost */
const char* rta_batcher_error_text(void);
/* What the system did not allow, a sentence; empty where it allowed all. */
const char* rta_batcher_refused(const rta_batcher* batcher);

/* From any thread: a ticket (>= 0), or what the put came to without tickets, or an rta_put_error. x is copied. */
int64_t rta_batcher_put(rta_batcher* batcher, int64_t stream, const void* x, int64_t stamp_ns);
/* As many puts, row by row; what each came to is in `codes`. They share looks at the clock and announcements, so each
 * costs about a third. stamps_ns: a stamp for each, or NULL: stamp_ns is that of all. */
void rta_batcher_put_many(rta_batcher* batcher, int64_t count, const int64_t* streams, const void* x,
                          const int64_t* stamps_ns, int64_t stamp_ns, int64_t* codes);
/* Of one stream, from any thread, while the batcher runs; nothing waits for it. reset: it starts anew with the next
 * sample that is put. remove: puts of it give RTA_PUT_STREAM from now on, and a batch does not wait for it. add: it is
 * taken again, and starts anew. A sample that waits is taken out by reset and remove, and answered RTA_ANSWER_REPLACED.
 * 1 where one was, 0; or RTA_PUT_STREAM for a stream that there is not (of add: that was not removed), or
 * RTA_PUT_STOPPED. */
int rta_batcher_reset(rta_batcher* batcher, int64_t stream);
int rta_batcher_remove(rta_batcher* batcher, int64_t stream);
int rta_batcher_add(rta_batcher* batcher, int64_t stream);
/* 1: it is answered; 0: not yet; -1: not a ticket, or it was taken. One thread waits for a ticket. */
int rta_batcher_wait(rta_batcher* batcher, int64_t ticket, int64_t timeout_ns);
/* The rta_answer of an answered ticket, whose place is then free; -1 where it is not answered or was taken. y is
 * written for OK and LATE alone. lateness_ns: of the answer after its deadline, below 0 in time; may be NULL. */
int rta_batcher_take(rta_batcher* batcher, int64_t ticket, void* y, int64_t* lateness_ns);
/* Nobody will take it. */
void rta_batcher_leave(rta_batcher* batcher, int64_t ticket);

/* The next batch of results, one thread: 1; 0 after the timeout; -1: there will be none. Valid until given back. */
int rta_batcher_next(rta_batcher* batcher, int64_t timeout_ns, rta_batch* batch);
void rta_batcher_give_back(rta_batcher* batcher);

/* Manual: it is `now_ns`. A batch that is due leaves, and is answered took_ns later: its size, or 0. */
int64_t rta_batcher_turn(rta_batcher* batcher, int64_t now_ns, int64_t took_ns);

/* As of now, while it runs. */
void rta_batcher_statistics(const rta_batcher* batcher, rta_batcher_stats* stats);

#ifdef __cplusplus
}
#endif
#endif
