"""A model from a file in a C program beside the bound call in Python: load, first step, later steps, resident memory.

    python -m bench.c_program [--scheme w8a8] [--rounds 20]

Both read one file of the MLPerf Tiny autoencoder's shape. Rounds take turns; a figure is the least of all rounds, as other
programs on the machine only add. The first step is that of a new process after rta_model_prefault.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import rtaccel as rt
from bench import networks
from rtaccel.backends.cpu import isas
from rtaccel.deploy.pack import pack

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "rtaccel.h"
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static float x[640], y[640];
int main(int argc, char** argv) {
  const double begin = now();
  rta_model* model = argc > 1 ? rta_model_open(argv[1], 0) : NULL;
  const double opened = now();
  if (!model) { fprintf(stderr, "%s\n", rta_error()); return 1; }
  rta_model_prefault(model);
  for (int i = 0; i < 640; ++i) x[i] = (float)(i % 7) - 3.0f;
  const void* in[] = {x};
  void* out[] = {y};
  y[0] = 0.0f;
  double first = now();
  if (rta_model_step(model, in, out, 1) != 0) return 2;
  first = now() - first;
  double least = 1e9, single = 1e9;
  for (int batch = 0; batch < 200; ++batch) {
    double start = now();
    rta_model_step(model, in, out, 1);
    start = now() - start;
    if (start < single) single = start;
    start = now();
    for (int i = 0; i < 50; ++i) rta_model_step(model, in, out, 1);
    start = (now() - start) / 50;
    if (start < least) least = start;
  }
  long peak = 0;
  char line[256];
  FILE* status = fopen("/proc/self/status", "r");
  while (status && fgets(line, sizeof line, status)) sscanf(line, "VmHWM: %ld", &peak);
  printf("{\"load_us\": %.1f, \"first_us\": %.3f, \"single_us\": %.3f, \"step_us\": %.3f, \"peak_kb\": %ld}\n", opened - begin,
         first, single, least, peak);
  return 0;
}
"""


def built(folder: Path, file: Path, isa: str) -> Path:
    told = pack(file, folder / "packed", [isa], name="model")
    (folder / "program.c").write_text(PROGRAM)
    flags = ["-O2", f"-I{told.folder}", f"-L{told.folder}", "-lmodel", "-Wl,--gc-sections", "-lm", "-s"]
    subprocess.run(["cc", "program.c", *flags, "-o", "program"], cwd=folder, check=True)
    return folder / "program"


def python_us(file: Path) -> float:
    """The least mean of 50 bound calls."""
    model = rt.load(file)
    x, y = (np.arange(640) % 7 - 3).astype(np.float32)[None], np.empty((1, 640), np.float32)
    step, found = model.bind(x, out=y), []
    for _ in range(200):
        start = time.perf_counter_ns()
        for _ in range(50):
            step()
        found.append((time.perf_counter_ns() - start) / 50e3)
    return min(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scheme", default="w8a8")
    best = next(
        (name for name in ("amx", "avx512vnni", "avxvnni", "avx2", "neondot", "neon") if name in isas()), "portable"
    )
    parser.add_argument(
        "--isa", default=best, help="instruction set of the C program (default: as Python takes, %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = torch.randn(64, 640)
        calibration = None if given.scheme == "float32" else [data]
        fast = rt.compile(networks.autoencoder(), data[:1], given.scheme, calibration=calibration)
        file = rt.save(fast, folder / "model.rta")
        program = built(folder, file, given.isa)
        rounds: list[dict[str, float]] = []
        python = []
        for _ in range(given.rounds):
            done = subprocess.run([program, file], capture_output=True, text=True, check=True)
            rounds.append(json.loads(done.stdout))
            python.append(python_us(file))
    least = {name: min(r[name] for r in rounds) for name in rounds[0]}
    ratios = [r["first_us"] / r["single_us"] for r in rounds]
    print(
        json.dumps(
            {
                **least, "python_us": round(min(python), 3), "c_beside_python": round(least["step_us"] / min(python), 3),
                "first_beside_later": {"median": round(statistics.median(ratios), 2), "least": round(min(ratios), 2)},
                "peak_kb": max(r["peak_kb"] for r in rounds), "rounds": given.rounds,
            }
        )
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
