/* A packed library in memory that the caller gives: packed MODEL OTHER, x on standard input, outputs of each step on
 * standard output. OTHER is the same model with other weights. Compiled with -include of the library's header. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLES 3
static unsigned char memory[POLICY_MEMORY_BYTES + 64];
static float x[SAMPLES * POLICY_INPUT_0_ELEMENTS], y[SAMPLES * POLICY_OUTPUT_0_ELEMENTS];

static int step(rta_model* model) {
  const void* in[] = {x};
  void* out[] = {y};
  memset(y, 0xFF, sizeof y);
  if (rta_model_step(model, in, out, SAMPLES) != 0) return 1;
  return fwrite(y, sizeof y, 1, stdout) != 1;
}

static int failed(int line) {
  fprintf(stderr, "line %d: %d %s\n", line, (int)rta_error_code(), rta_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3 || fread(x, sizeof x, 1, stdin) != 1) return 2;
  memset(memory, 0xA5, sizeof memory);
  for (int offset = 0; offset < 64; offset += 21) {
    for (size_t less = 1; less < POLICY_MEMORY_BYTES; less += 997)
      if (policy_open(memory + offset, POLICY_MEMORY_BYTES - 128 - less % (POLICY_MEMORY_BYTES - 128)) ||
          rta_error_code() != RTA_CANNOT_READ)
        return failed(__LINE__);
    rta_model* model = policy_open(memory + offset, POLICY_MEMORY_BYTES);
    if (!model || step(model)) return failed(__LINE__);
    if (rta_model_prefault(model) <= 0) return failed(__LINE__);
    for (int i = 0; i < 3; ++i) { /* new weights, back, and new ones that no step took */
      if (rta_model_swap(model, argv[2], 0) != 0 || step(model)) return failed(__LINE__);
      if (rta_model_swap(model, "/dev/null", 0) == 0 || rta_error_code() != RTA_CANNOT_READ) return failed(__LINE__);
      if (rta_model_rollback(model) != 0 || step(model)) return failed(__LINE__);
      if (rta_model_swap(model, argv[2], 0) != 0 || rta_model_rollback(model) != 0) return failed(__LINE__);
    }
    rta_model* beside = rta_model_open(argv[1], 0);
    if (!beside || step(beside) || step(model)) return failed(__LINE__);
    rta_model_close(beside);
    rta_model_close(model);
  }
  if (rta_model_open_threaded(argv[1], 0, 2)) return 4; /* built for one */
  const void* in[] = {x};
  void* out[] = {y};
  if (policy_open(NULL, POLICY_MEMORY_BYTES) || rta_error_code() != RTA_BAD_ARGUMENT) return failed(__LINE__);
  if (rta_model_within(NULL, 9, 0, 1, memory, sizeof memory) || rta_error_code() != RTA_BAD_ARGUMENT)
    return failed(__LINE__);
  if (rta_model_step(NULL, in, out, 1) != -1 || rta_error_code() != RTA_BAD_ARGUMENT || rta_model_memory(NULL))
    return failed(__LINE__);
  return 0;
}
