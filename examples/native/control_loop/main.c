/* A control loop in C: a policy at a fixed rate with SCHED_FIFO where the system allows it.
 *
 *   control_loop MODEL [HZ] [SECONDS]
 *
 * The plant is a stand-in: the first output is integrated and fed back as the first input. Replace read_sensors and
 * write_actuators. Ends with the wake-up error and the time of a step, and with 1 where a deadline was missed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "rtaccel.h"

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sleep_until(int64_t ns) {
  const struct timespec t = {.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
  }
}

static void read_sensors(float* x, int64_t count, float position) {
  for (int64_t i = 0; i < count; ++i) x[i] = sinf(0.1f * (float)i + position);
}

static float write_actuators(const float* y, float position, float period_s) { return position + y[0] * period_s; }

static int compare(const void* a, const void* b) {
  const int64_t p = *(const int64_t*)a, q = *(const int64_t*)b;
  return (p > q) - (p < q);
}

static void report(const char* what, int64_t* ns, int64_t count) {
  qsort(ns, (size_t)count, sizeof *ns, compare);
  printf("%-14s p50 %8.2f us   p99 %8.2f us   max %8.2f us\n", what, 1e-3 * (double)ns[count / 2],
         1e-3 * (double)ns[count * 99 / 100], 1e-3 * (double)ns[count - 1]);
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "control_loop MODEL [HZ] [SECONDS]\n");
    return 2;
  }
  const double hz = argc > 2 ? atof(argv[2]) : 1000.0, seconds = argc > 3 ? atof(argv[3]) : 1.0;
  if (!(hz > 0) || !(seconds > 0)) return 2;
  const int64_t period = (int64_t)(1e9 / hz), cycles = (int64_t)(seconds * hz) + 1;

  rta_model* model = rta_model_open(argv[1], 0);
  rta_tensor in, out;
  if (!model || rta_model_tensor(model, 0, 0, &in) != 0 || rta_model_tensor(model, 1, 0, &out) != 0) {
    fprintf(stderr, "%s\n", rta_error());
    return 2;
  }
  if (rta_model_count(model, 0) != 1 || in.dtype != RTA_FLOAT32 || out.dtype != RTA_FLOAT32) {
    fprintf(stderr, "%s: this loop takes a policy with one float32 input\n", rta_model_name(model));
    return 2;
  }
  float* x = malloc((size_t)in.sample_elements * sizeof *x);
  float* y = malloc((size_t)out.sample_elements * sizeof *y);
  int64_t* late = malloc((size_t)cycles * sizeof *late);
  int64_t* took = malloc((size_t)cycles * sizeof *took);
  if (!x || !y || !late || !took) return 2;
  memset(late, 0, (size_t)cycles * sizeof *late); /* touched, so that the loop faults on no page */
  memset(took, 0, (size_t)cycles * sizeof *took);

  const struct sched_param priority = {.sched_priority = 50};
  if (sched_setscheduler(0, SCHED_FIFO, &priority) != 0)
    fprintf(stderr, "SCHED_FIFO: %s (ulimit -r, or CAP_SYS_NICE); going on without\n", strerror(errno));
  if (mlockall(MCL_CURRENT) != 0) fprintf(stderr, "mlockall: %s (ulimit -l)\n", strerror(errno));
  rta_model_prefault(model);

  const void* inputs[] = {x};
  void* outputs[] = {y};
  float position = 0.0f;
  int64_t missed = 0, next = now_ns() + period;
  for (int64_t i = 0; i < cycles; ++i, next += period) {
    sleep_until(next);
    const int64_t begin = now_ns();
    read_sensors(x, in.sample_elements, position);
    if (rta_model_step(model, inputs, outputs, 1) != 0) {
      fprintf(stderr, "%s\n", rta_error());
      return 2;
    }
    position = write_actuators(y, position, (float)(1e-9 * (double)period));
    const int64_t end = now_ns();
    late[i] = begin - next;
    took[i] = end - begin;
    if (end > next + period) { /* go on at the next point of the grid, without a burst */
      const int64_t skipped = (end - next) / period;
      missed += skipped;
      next += skipped * period;
    }
  }
  printf("%s at %g Hz, %lld cycles, %lld missed\n", rta_model_name(model), hz, (long long)cycles, (long long)missed);
  report("wake-up error", late, cycles);
  report("cycle", took, cycles);
  rta_model_close(model);
  free(x), free(y), free(late), free(took);
  return missed != 0;
}
