// What `rtaccel pack` links for its report: opens a model, steps it once on zeros, and writes how much memory it takes.
#include <stdio.h>

#include "packed/rta_packed.h"

alignas(64) static char inputs[64], outputs[64];

int main(int argc, char** argv) {
  rta_model* model = argc > 1 ? rta_model_open(argv[1], 0) : rta_model_within(inputs, 0, 0, 1, outputs, sizeof outputs);
  if (!model) {
    fprintf(stderr, "%s\n", rta_error());
    return 1;
  }
  if (argc > 2) {  // never so: keeps the code of a step
    const void* in[] = {inputs};
    void* out[] = {outputs};
    if (rta_model_step(model, in, out, 0) != 0) return 1;
  }
  printf("%zu\n", rta_model_memory(model));
  rta_model_close(model);
  return 0;
}
