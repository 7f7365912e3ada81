/* A simulated world for a loop: a clock that jumps, a producer that has gaps, bursts, overtaken values and a clock of
 * its own that steps, a host that wakes the loop late and a model that is slow now and then. Seeded, the same every
 * time; a million cycles take some hundred milliseconds. It counts what it injected, and by rules of its own what a
 * loop has to make of it.
 *
 * Of one that is NULL, as one that was not made, clock and step have no functions, which rta_loop_create refuses, and
 * counts are 0.
 */
#ifndef RTA_LOOP_SIM_H
#define RTA_LOOP_SIM_H

#include "rta_loop.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  uint64_t seed;
  int64_t produce_ns; /* between two measurements */
  int64_t delay_ns;   /* a value arrives up to so much later */
  double p_gap;       /* share of measurements that begin a gap */
  int64_t gap_ns;     /* of half to one and a half times this length */
  double p_burst;     /* share of gaps whose values all come at the end; those of others are lost */
  double p_reorder;   /* share of values that the next two overtake */
  double p_clock;     /* share of measurements at which the producer's clock steps, there or back */
  int64_t clock_ns;   /* by so much; negative: into the past */
  int64_t wake_ns;    /* the loop wakes up to so much late */
  double p_stall;     /* share of cycles that begin late */
  int64_t stall_ns;   /* by so much */
  int64_t step_ns;    /* what the model takes */
  double p_slow;      /* share of steps that take slow_ns */
  int64_t slow_ns;
  int64_t sleep_ns; /* a sleep ends up to so much late; what spins after it does not */
} rta_sim_config;

typedef struct {
  int64_t produced, lost, arrived, overtaken, future; /* overtaken, future: refused by the slot */
  int64_t gaps, bursts, clock_steps, stalls, slow_steps;
  int64_t cycles, stale, misses, skipped, fresh, waiting; /* what the loop should count */
} rta_sim_counts;

typedef struct rta_sim rta_sim;

/* Puts into `slot` in simulated time. Values hold the number of the measurement in their first 8 bytes. NULL: the slot
 * is taken, or smaller than 8 bytes. */
rta_sim* rta_sim_create(const rta_sim_config* config, rta_latest* slot);
/* Another slot, with a producer of its own: of the config seed, produce, delay, gaps, bursts, overtaken values and the
 * producer's clock are read. Its measurements are counted with the others, and the age of the input is that of the
 * oldest slot. 0, or -1 where the slot is taken or smaller than 8 bytes. */
int rta_sim_add(rta_sim* sim, const rta_sim_config* config, rta_latest* slot);
/* For the config of a loop, whose period, deadline, max_age and on_stale decide what is to be counted. */
rta_loop_clock rta_sim_clock(rta_sim* sim);
void rta_sim_expect(rta_sim* sim, const rta_loop_config* loop);
/* A model that takes simulated time and gives its input. */
rta_step rta_sim_step(rta_sim* sim, size_t bytes);
/* The same for several tensors, as many out as in and as large. */
rta_step rta_sim_step_ports(rta_sim* sim, const rta_step_ports* ports);
rta_sim_counts rta_sim_counted(const rta_sim* sim);
/* From here on nothing is injected any more: values come in time, and so does the loop. */
void rta_sim_calm(rta_sim* sim);
void rta_sim_destroy(rta_sim* sim);

#ifdef __cplusplus
}
#endif
#endif
