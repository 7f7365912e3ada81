/* A loop: every period, on a native thread, the freshest value goes through a model and its result is left for others.
 *
 * A cycle that is due at grid point d: sleep until d - spin, run the model for nothing to bring it back into the
 * caches, spin until d, take the newest value, look at its age, run, publish, count. Nothing in it allocates, locks or
 * makes a system call but the sleep (and the reading of the clock, which needs none on Linux). The result is in time
 * where it is published at most deadline_ns after d. The grid is start + k * period for ever: a cycle that ends after
 * the next points skips them and counts them (or catches up, where asked).
 *
 * Every function that gives int: 0 or more for success, negative for failure with rta_loop_error_text(). A loop that is
 * NULL, as one that was not made, is such a failure; it has no statistics.
 */
#ifndef RTA_LOOP_H
#define RTA_LOOP_H

#include "rta_latest.h"
#include "rta_model.h"
#include "rta_plan.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One step of a chain: reads in[0], writes out[0]; one of several tensors (rta_step_ports) reads and writes more. 0 for
 * success; anything else ends the loop. */
typedef int (*rta_step_fn)(void* self, const void* const* in, void* const* out);

typedef struct {
  rta_step_fn step;
  void* self;
  size_t in_bytes, out_bytes;
  size_t state_bytes; /* 0: it has no past, or load and save are not given */
  void (*save)(void* self, void* to);
  int (*load)(void* self, const void* from);
  void (*reset)(void* self);        /* may be NULL */
  const char* (*error)(void* self); /* why the last step failed, or NULL */
  const void* identity;             /* what two running loops may not share; NULL: anything goes */
  int warm;                         /* 1: it may be run for nothing, with save and load around it where it has a past */
  /* Once, on the loop's thread with its priority, before the first cycle: 0, or why not is said and the loop goes on.
   * May be NULL. A plan makes its memory resident, and gives its threads that priority. */
  int (*prepare)(void* self);
} rta_step;

#define RTA_LOOP_PORTS 16

/* As spin_ns: learned from how late sleeps end, and from what warm runs take; at most half of the period. */
#define RTA_SPIN_AUTO (-1)

/* Tensors of a step that has several; in_bytes and out_bytes of its rta_step are not read then. */
typedef struct {
  int inputs, outputs; /* 1 to RTA_LOOP_PORTS */
  size_t in_bytes[RTA_LOOP_PORTS], out_bytes[RTA_LOOP_PORTS];
} rta_step_ports;

/* A plan with one input and one output as a step. The struct must live as long as the loop. */
typedef struct {
  rta_plan* plan;
  int64_t samples, state_samples;
} rta_plan_step;
rta_step rta_step_of_plan(rta_plan_step* plan, size_t in_bytes, size_t out_bytes);
/* A model from a file as a step, for a batch of so many (0: the least that it takes, one at least; a stream steps all
 * its streams). Fills kept (which must live as long as the loop, as the model), step and ports; identity and memory are
 * those of the model's plan. 0, or -1 for a batch that it does not take and for more than RTA_LOOP_PORTS tensors. */
int rta_step_of_model(rta_model* model, int64_t batch, rta_plan_step* kept, rta_step* step, rta_step_ports* ports);

/* What happens with a result that comes late, and with the grid points that it covered. */
typedef enum {
  RTA_MISS_HOLD = 0,     /* the last result stays, marked MISSED; points are skipped */
  RTA_MISS_LATE = 1,     /* the late result is published, marked MISSED; points are skipped */
  RTA_MISS_CATCH_UP = 2, /* as LATE, and the points are run through one after another */
  RTA_MISS_RAISE = 3     /* the loop ends */
} rta_on_miss;

/* What happens where the newest value is older than max_age_ns. */
typedef enum { RTA_STALE_HOLD = 0, RTA_STALE_FALLBACK = 1, RTA_STALE_RAISE = 2, RTA_STALE_FORECAST = 3 } rta_on_stale;
/* Where it is young enough but was used already: run again (a zero-order hold), or keep the last result. */
typedef enum { RTA_OLD_STEP = 0, RTA_OLD_HOLD = 1 } rta_on_old;
/* At the first fresh value after a stale one: states go on, or are reset. */
typedef enum { RTA_GAP_STEP = 0, RTA_GAP_RESET = 1 } rta_on_gap;

/* Of a published result (rta_latest_sample.origin). Its stamp is that of the value it was computed from. */
typedef enum {
  RTA_ORIGIN_PUT = 0,
  RTA_ORIGIN_FRESH = 1,
  RTA_ORIGIN_HELD = 2,
  RTA_ORIGIN_FALLBACK = 3,
  RTA_ORIGIN_FORECAST = 4,
  RTA_ORIGIN_MISSED = 5
} rta_loop_origin;

/* Another clock than this machine's, for tests: all three in nanoseconds of its own. Waits return the time. */
typedef struct {
  int64_t (*now)(void* self);
  int64_t (*sleep_until)(void* self, int64_t ns);
  int64_t (*spin_until)(void* self, int64_t ns);
  void* self;
} rta_loop_clock;

typedef struct {
  rta_latest *read, *write;
  const rta_step* steps; /* run one after another: preprocessing, the model, postprocessing */
  int step_count;
  const rta_step* fallback;
  int fallback_count;
  const rta_step* forecast; /* from an input to the next one */
  int forecast_count;
  int64_t period_ns, deadline_ns, max_age_ns, spin_ns; /* spin_ns: before its time; or RTA_SPIN_AUTO */
  int on_miss, on_stale, on_old, on_gap;
  int priority; /* SCHED_FIFO 1..99; 0: as the caller */
  int cpu;      /* -1: any */
  int warm, lock_memory, strict;
  const char* name;            /* of the statistics in shared memory; NULL: of this process */
  const rta_loop_clock* clock; /* NULL: CLOCK_MONOTONIC */
} rta_loop_config;

#define RTA_LOOP_MAGIC "RTALOOPS"
#define RTA_LOOP_VERSION 2
#define RTA_LOOP_SUB_BITS 5
#define RTA_LOOP_BUCKETS 1184

/* Log-linear: below 32 ns a bucket is one nanosecond; above, each power of two has 32. The last one takes the rest. */
typedef struct {
  int64_t max_ns, sum_ns;
  int64_t counts[RTA_LOOP_BUCKETS];
} rta_loop_histogram;

typedef enum { RTA_LOOP_MADE = 0, RTA_LOOP_RUNNING = 1, RTA_LOOP_STOPPED = 2, RTA_LOOP_FAILED = 3 } rta_loop_state;

typedef enum { RTA_FAILED_NOT = 0, RTA_FAILED_STALE = 1, RTA_FAILED_LATE = 2, RTA_FAILED_STEP = 3 } rta_loop_failed_by;

/* In shared memory "/rta.loop.NAME", or of this process. Written by the loop alone, one relaxed store each. */
typedef struct {
  char magic[8];
  uint32_t version, bytes;
  uint64_t owner;                                      /* as in rta_latest_header */
  int64_t state;                                       /* rta_loop_state */
  int64_t period_ns, deadline_ns, max_age_ns, spin_ns; /* spin_ns: as it is now */
  int64_t fifo, locked;                                /* what the system allowed */
  int64_t started_ns, updated_ns;
  int64_t cycles;                 /* grid points that were run */
  int64_t skipped;                /* grid points that were not */
  int64_t fresh;                  /* results of the model */
  int64_t repeated;               /* of those, of a value that had been used before */
  int64_t waiting;                /* cycles before the first value */
  int64_t stale;                  /* cycles whose newest value was too old */
  int64_t held;                   /* last results published again */
  int64_t fallback;               /* results of the fallback */
  int64_t forecast;               /* results of a forecast input */
  int64_t misses;                 /* results after their deadline */
  int64_t caught_up;              /* cycles that began a period late, to catch up */
  int64_t streak, longest_streak; /* cycles in a row that were late or stale: now, and most */
  int64_t clock_back;             /* values with a stamp after now */
  int64_t overwritten;            /* values that were replaced before a cycle saw them */
  int64_t warm_runs, warm_skipped;
  int64_t every_runs;
  int64_t failed_by; /* rta_loop_failed_by */
  int64_t reserved[7];
  rta_loop_histogram wake_error; /* start of a cycle after its grid point */
  rta_loop_histogram work;       /* from there to the published result */
  rta_loop_histogram response;   /* both: what the deadline is for */
  rta_loop_histogram age;        /* of the value, at the start of a cycle */
  rta_loop_histogram latency;    /* from the stamp of a new value to its published result */
} rta_loop_stats;

/* What goes beyond one tensor in and one out. A cycle takes the newest value of each slot, one after the other: they
 * are no snapshot of one moment. The age of the input is that of the oldest value, and so is the stamp of the results;
 * but for those of `any_age`, which may be as old as they like (a set point). It is used again where none of the values
 * is new, and a cycle waits while one has never been put. A forecast gives as many tensors as it takes. */
typedef struct {
  size_t bytes;            /* sizeof(rta_loop_ports): later versions have more at the end */
  rta_latest* const* read; /* in the order of the first step's inputs */
  int read_count;
  rta_latest* const* write; /* in the order of the last step's outputs */
  int write_count;
  uint64_t any_age;            /* bit i: input i; not all of them */
  const rta_step_ports* steps; /* one for each step; NULL: in_bytes and out_bytes of the steps */
  const rta_step_ports* fallback;
  const rta_step_ports* forecast;
} rta_loop_ports;

typedef struct rta_loop rta_loop;

/* NULL with rta_loop_error_text() where something does not fit. Slots and steps stay the caller's, and must live on. */
rta_loop* rta_loop_create(const rta_loop_config* config);
/* The same with several slots: read and write of the config are not read. */
rta_loop* rta_loop_create_ports(const rta_loop_config* config, const rta_loop_ports* ports);
/* Another chain, run after the first in every n-th period. read NULL: the loop's own input. Before the start. */
int rta_loop_every(rta_loop* loop, int64_t n, const rta_step* steps, int count, rta_latest* read, rta_latest* write);
/* The same with several slots; of ports read (NULL: the loop's own inputs), write and steps are read. */
int rta_loop_every_ports(rta_loop* loop, int64_t n, const rta_step* steps, int count, const rta_loop_ports* ports);
/* Measures the fallback (one slower than the deadline is refused), takes the slots, and starts the thread. */
int rta_loop_start(rta_loop* loop);
/* What the system did not allow, a sentence; empty where it allowed all. */
const char* rta_loop_refused(const rta_loop* loop);
/* In this thread instead, until so many more grid points were run: for simulated clocks. */
int rta_loop_run(rta_loop* loop, int64_t cycles);
void rta_loop_stop(rta_loop* loop); /* asks; at most 20 ms and a cycle until it has ended. Nothing before the start */
/* 1: it has ended, and its slots are given back; 0: not yet; -1: a step of the loop asked, which may stop it alone */
int rta_loop_wait(rta_loop* loop, int64_t timeout_ns);
void rta_loop_destroy(rta_loop* loop);              /* stops it first; not from one of its steps */
const char* rta_loop_failure(const rta_loop* loop); /* why it ended by itself, or NULL */
const rta_loop_stats* rta_loop_statistics(const rta_loop* loop);
const char* rta_loop_error_text(void);

/* Statistics of a loop by name, from any process; unmap with rta_loop_stats_close. */
const rta_loop_stats* rta_loop_stats_open(const char* name);
void rta_loop_stats_close(const rta_loop_stats* stats);
int rta_loop_alive(const rta_loop_stats* stats); /* whether the process that runs it lives */
/* The largest value of the bucket that holds this share of all, 0..1; at most the maximum. -1 for an empty one. */
int64_t rta_loop_quantile(const rta_loop_histogram* histogram, double share);
int rta_loop_bucket(int64_t ns);
int64_t rta_loop_bucket_end(int bucket); /* its largest value */

#ifdef __cplusplus
}
#endif
#endif
