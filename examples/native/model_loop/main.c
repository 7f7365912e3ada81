/* A model from a file in a loop of its own thread: slots for all its inputs and outputs, and what the loop counted.
 *
 *   model_loop MODEL [CYCLES] [PERIOD_US]
 *
 * The inputs are a stand-in: whoever measures something puts it into a slot, from any thread or process. Ends with the
 * statistics and the first numbers of each output.
 */
#define _GNU_SOURCE
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "rtaccel.h"

/* The dtype of a slot for a tensor of a model. */
static uint32_t slot_dtype(rta_dtype dtype) {
  switch (dtype) {
    case RTA_FLOAT32: return RTA_LATEST_FLOAT32;
    case RTA_INT8: return RTA_LATEST_INT8;
    case RTA_INT64: return RTA_LATEST_INT64;
    case RTA_INT32: return RTA_LATEST_INT32;
    case RTA_UINT8: return RTA_LATEST_UINT8;
    case RTA_INT16: return RTA_LATEST_INT16;
    case RTA_FLOAT16: return RTA_LATEST_FLOAT16;
    default: return RTA_LATEST_BFLOAT16;
  }
}

static size_t item_bytes(rta_dtype dtype) {
  switch (dtype) {
    case RTA_INT64: return 8;
    case RTA_FLOAT32:
    case RTA_INT32: return 4;
    case RTA_INT8:
    case RTA_UINT8: return 1;
    default: return 2;
  }
}

/* A slot in this process for each input (0) or output (1): as large as the step's tensor, in one dimension. */
static int make_slots(rta_model* model, int output, const size_t* bytes, rta_latest** slots) {
  const int count = rta_model_count(model, output);
  for (int i = 0; i < count; ++i) {
    rta_tensor tensor;
    rta_model_tensor(model, output, i, &tensor);
    const int64_t elements = (int64_t)(bytes[i] / item_bytes(tensor.dtype));
    slots[i] = rta_latest_create(NULL, slot_dtype(tensor.dtype), 1, &elements, RTA_LATEST_ONE, RTA_LATEST_NAN_PASS);
    if (!slots[i]) return -1;
  }
  return count;
}

static void report(const char* what, const rta_loop_histogram* h) {
  printf("%-10s p50 %9.2f us   p99 %9.2f us   max %9.2f us\n", what, 1e-3 * (double)rta_loop_quantile(h, 0.5),
         1e-3 * (double)rta_loop_quantile(h, 0.99), 1e-3 * (double)h->max_ns);
}

int main(int argc, char** argv) {
  if (argc < 2) {
    fprintf(stderr, "model_loop MODEL [CYCLES] [PERIOD_US]\n");
    return 2;
  }
  const int64_t cycles = argc > 2 ? atoll(argv[2]) : 1000;
  const int64_t period_ns = (int64_t)(1e3 * (argc > 3 ? atof(argv[3]) : 1000.0));

  rta_model* model = rta_model_open(argv[1], 0);
  if (!model) {
    fprintf(stderr, "%s\n", rta_error());
    return 2;
  }
  rta_plan_step kept; /* lives as long as the loop */
  rta_step step;
  rta_step_ports ports;
  if (rta_step_of_model(model, 0, &kept, &step, &ports) != 0) {
    fprintf(stderr, "%s\n", rta_loop_error_text());
    return 2;
  }
  rta_latest *read[RTA_LOOP_PORTS], *write[RTA_LOOP_PORTS];
  if (make_slots(model, 0, ports.in_bytes, read) < 0 || make_slots(model, 1, ports.out_bytes, write) < 0) {
    fprintf(stderr, "%s\n", rta_latest_error_text());
    return 2;
  }

  rta_loop_config config = {.steps = &step, .step_count = 1, .period_ns = period_ns, .deadline_ns = period_ns};
  config.max_age_ns = 100 * period_ns;
  config.spin_ns = period_ns / 12;
  config.on_miss = RTA_MISS_LATE;
  config.cpu = -1;
  config.warm = 1;
  config.lock_memory = 1;
  const rta_loop_ports slots = {.bytes = sizeof slots,
                                .read = read,
                                .read_count = ports.inputs,
                                .write = write,
                                .write_count = ports.outputs,
                                .steps = &ports};
  rta_loop* loop = rta_loop_create_ports(&config, &slots);
  rta_model_prefault(model);
  if (!loop || rta_loop_start(loop) != 0) {
    fprintf(stderr, "%s\n", rta_loop_error_text());
    return 2;
  }
  if (*rta_loop_refused(loop)) fprintf(stderr, "without what the system refused: %s\n", rta_loop_refused(loop));

  /* This thread measures: here a wave in each float32 input, and zeros in the others. */
  size_t most = 0;
  for (int i = 0; i < ports.inputs; ++i)
    if (ports.in_bytes[i] > most) most = ports.in_bytes[i];
  float* x = calloc(1, most);
  if (!x) return 2;
  const rta_loop_stats* stats = rta_loop_statistics(loop);
  for (int64_t n = 0; __atomic_load_n(&stats->cycles, __ATOMIC_RELAXED) < cycles; ++n) {
    if (rta_loop_failure(loop)) break;
    for (int i = 0; i < ports.inputs; ++i) {
      rta_tensor tensor;
      rta_model_tensor(model, 0, i, &tensor);
      for (size_t k = 0; tensor.dtype == RTA_FLOAT32 && k < ports.in_bytes[i] / sizeof *x; ++k)
        x[k] = sinf(0.01f * (float)n + 0.1f * (float)k);
      rta_latest_put(read[i], x, 0);
      for (size_t k = 0; k < most / sizeof *x; ++k) x[k] = 0.0f;
    }
    const struct timespec pause = {.tv_sec = 0, .tv_nsec = 500000};
    nanosleep(&pause, NULL);
  }
  rta_loop_stop(loop);
  while (!rta_loop_wait(loop, 1000000000)) {
  }

  printf("%s every %g us: %lld cycles, %lld skipped, %lld late, %lld stale, %lld results\n", rta_model_name(model),
         1e-3 * (double)period_ns, (long long)stats->cycles, (long long)stats->skipped, (long long)stats->misses,
         (long long)stats->stale, (long long)stats->fresh);
  report("wake-up", &stats->wake_error);
  report("work", &stats->work);
  report("response", &stats->response);
  for (int i = 0; i < ports.outputs; ++i) {
    rta_latest_sample sample;
    rta_tensor tensor;
    rta_model_tensor(model, 1, i, &tensor);
    if (rta_latest_get(write[i], &sample) < 0 || sample.status == RTA_LATEST_NONE) continue;
    printf("%s, result %lld:", tensor.name, (long long)sample.seq);
    for (size_t k = 0; tensor.dtype == RTA_FLOAT32 && k < ports.out_bytes[i] / sizeof(float) && k < 4; ++k)
      printf(" %a", (double)((const float*)sample.data)[k]);
    printf("\n");
  }
  const char* failure = rta_loop_failure(loop);
  if (failure) fprintf(stderr, "%s\n", failure);
  const int code = failure != NULL;
  rta_loop_destroy(loop);
  for (int i = 0; i < ports.inputs; ++i) rta_latest_close(read[i]);
  for (int i = 0; i < ports.outputs; ++i) rta_latest_close(write[i]);
  rta_model_close(model);
  free(x);
  return code;
}
