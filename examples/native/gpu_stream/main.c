/* A model that stays on a GPU, driven from C: one launch, then each message is a store and a load. Without a GPU, or
 * with a file that has no kernel for it, the same file runs on the CPU and gives the same bits.
 *
 *   gpu_stream MODEL IN.f32 OUT.f32 [DEVICE]
 *
 * IN.f32: raw float32 numbers, the inputs of one message after another. */
#include <stdio.h>
#include <stdlib.h>

#include "rtaccel.h"

enum { TIMEOUT_NS = 1000000000 };

typedef struct {
  rta_gpu* gpu;
  rta_model* model; /* where there is no gpu */
  size_t inputs, outputs;
} runner;

static int failed(const char* what) {
  fprintf(stderr, "%s: %s (%d)\n", what, rta_error(), (int)rta_error_code());
  return 2;
}

static int open_runner(runner* r, const char* path, int device) {
  r->gpu = rta_gpu_open(path, NULL, device); /* a key here, for files of others */
  if (r->gpu) {
    rta_gpu_about about;
    rta_gpu_describe(r->gpu, &about);
    r->inputs = (size_t)about.inputs;
    r->outputs = (size_t)about.outputs;
    printf("GPU: %s, blocks: %d\n", about.kernel, about.blocks);
    return rta_gpu_start(r->gpu); /* so that the first message does not wait for the launch */
  }
  if (rta_error_code() != RTA_NO_DEVICE && rta_error_code() != RTA_NO_KERNEL) return -1;
  printf("CPU: %s\n", rta_error());
  r->model = rta_model_open(path, 0);
  rta_tensor in, out;
  if (!r->model || rta_model_tensor(r->model, 0, 0, &in) != 0 || rta_model_tensor(r->model, 1, 0, &out) != 0) return -1;
  r->inputs = (size_t)in.sample_elements;
  r->outputs = (size_t)out.sample_elements;
  return 0;
}

static int step(runner* r, const float* x, float* y) {
  const void* in[] = {x};
  void* out[] = {y};
  return r->gpu ? rta_gpu_step(r->gpu, x, y, TIMEOUT_NS) : rta_model_step(r->model, in, out, 1);
}

int main(int argc, char** argv) {
  runner r = {0};
  if (argc != 4 && argc != 5) {
    fprintf(stderr, "gpu_stream MODEL IN.f32 OUT.f32 [DEVICE]\n");
    return 2;
  }
  if (open_runner(&r, argv[1], argc == 5 ? atoi(argv[4]) : 0) != 0) return failed(argv[1]);
  FILE *in = fopen(argv[2], "rb"), *out = fopen(argv[3], "wb");
  float *x = malloc(r.inputs * sizeof *x), *y = malloc(r.outputs * sizeof *y);
  int result = in && out && x && y ? 0 : failed("files or memory");
  long messages = 0;
  for (; result == 0 && fread(x, sizeof *x, r.inputs, in) == r.inputs; ++messages) {
    if (step(&r, x, y) != 0) result = failed("step");
    if (result == 0 && fwrite(y, sizeof *y, r.outputs, out) != r.outputs) result = failed(argv[3]);
  }
  if (out && fclose(out) != 0) result = failed(argv[3]);
  if (in) fclose(in);
  free(x);
  free(y);
  rta_gpu_close(r.gpu);
  rta_model_close(r.model);
  printf("%ld messages\n", messages);
  return result;
}
