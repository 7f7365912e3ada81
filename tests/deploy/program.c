/* Runs a model from a file on raw inputs: program MODEL SAMPLES CALLS INPUT... writes every output, call by call, to
 * standard output. Inputs hold CALLS calls, one after the other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rtaccel.h"

static size_t bytes_of(rta_dtype dtype) {
  if (dtype == RTA_BFLOAT16 || dtype == RTA_FLOAT16 || dtype == RTA_INT16) return 2;
  return dtype == RTA_INT64 ? 8 : dtype == RTA_FLOAT32 || dtype == RTA_INT32 ? 4 : 1;
}

static int failed(void) {
  fprintf(stderr, "%d %s\n", (int)rta_error_code(), rta_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc < 4) return 2;
  rta_model* model = rta_model_open(argv[1], 0);
  if (!model) return failed();
  const long samples = atol(argv[2]), calls = atol(argv[3]);
  const int inputs = rta_model_count(model, 0), outputs = rta_model_count(model, 1);
  if (argc != 4 + inputs) return 2;
  const void* in[128];
  void* out[128];
  size_t in_bytes[128], out_bytes[128];
  for (int i = 0; i < inputs; ++i) {
    rta_tensor t;
    if (rta_model_tensor(model, 0, i, &t) != 0) return failed();
    in_bytes[i] = (size_t)(t.sample_elements * samples) * bytes_of(t.dtype);
    FILE* file = fopen(argv[4 + i], "rb");
    char* data = malloc(in_bytes[i] * (size_t)calls + 1);
    if (!file || !data || fread(data, 1, in_bytes[i] * (size_t)calls, file) != in_bytes[i] * (size_t)calls) return 3;
    fclose(file);
    in[i] = data;
  }
  for (int i = 0; i < outputs; ++i) {
    rta_tensor t;
    if (rta_model_tensor(model, 1, i, &t) != 0) return failed();
    out_bytes[i] = (size_t)(t.sample_elements * samples) * bytes_of(t.dtype);
    out[i] = malloc(out_bytes[i] + 1);
    if (!out[i]) return 3;
  }
  for (long c = 0; c < calls; ++c) {
    for (int i = 0; i < outputs; ++i) memset(out[i], 0xFF, out_bytes[i]);
    if (rta_model_step(model, in, out, samples) != 0) return failed();
    for (int i = 0; i < outputs; ++i) fwrite(out[i], 1, out_bytes[i], stdout);
    for (int i = 0; i < inputs; ++i) in[i] = (const char*)in[i] + in_bytes[i];
  }
  rta_model_close(model);
  return 0;
}
