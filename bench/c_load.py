"""What opening a model takes in a C program: the first time in a process, and later times.

    python -m bench.c_load [--processes 20]

The file is the MLPerf Tiny autoencoder's shape in int8: as `rt.save` writes it, and with packed weights beside. Each way of
opening has processes of its own, turn by turn, that open it 100 times. The first is the median of all processes, later ones
the least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import rtaccel as rt
import rtaccel._native as native
from bench import networks

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include "rtaccel.h"
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static long faults(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_minflt;
}
int main(int argc, char** argv) {
  double first = 0, least = 1e9;
  long first_faults = 0;
  for (int i = 0; argc == 3 && i < 100; ++i) {
    const long before = faults();
    double took = now();
    rta_model* model = rta_model_open(argv[1], (unsigned)atoi(argv[2]));
    took = now() - took;
    if (!model) { fprintf(stderr, "%s\n", rta_error()); return 1; }
    if (i == 0) first = took, first_faults = faults() - before;
    else if (took < least) least = took;
    rta_model_close(model);
  }
  printf("[%.1f, %.1f, %ld]\n", first, least, first_faults);
  return 0;
}
"""

UNCHECKED, IN_PLACE = 1, 4
WAYS = {
    "a copy, with its digest": (False, 0),
    "in place, with its digest": (False, IN_PLACE),
    "packed weights, in place, with its digest": (True, IN_PLACE),
    "packed weights, in place, verified before": (True, IN_PLACE | UNCHECKED),
}
"""Name -> (whether the file has packed weights, flags of rta_model_open)."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    data, package = torch.randn(64, 640), Path(str(native.__file__)).parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        fast = rt.compile(networks.autoencoder(), data[:1], "w8a8", calibration=[data])
        files = {packed: rt.save(fast, folder / f"{packed}.rta", prepacked=packed) for packed in (False, True)}
        (folder / "load.c").write_text(PROGRAM)
        flags = [f"-I{package / 'include'}", f"-L{package}", "-lrtaccel", f"-Wl,-rpath,{package}"]
        subprocess.run(["cc", "-O2", "load.c", *flags, "-o", "load"], cwd=folder, check=True)
        told: dict[str, list[list[float]]] = {name: [] for name in WAYS}
        for _ in range(given.processes):
            for name, (packed, bits) in WAYS.items():
                done = subprocess.run(
                    [folder / "load", files[packed], str(bits)], capture_output=True, text=True, check=True
                )
                told[name].append(json.loads(done.stdout))
        for name, rounds in told.items():
            first, least = statistics.median(r[0] for r in rounds), min(r[1] for r in rounds)
            size = files[WAYS[name][0]].stat().st_size
            print(f"{name}, {size} B: {first:.0f} us the first time ({rounds[0][2]} page faults), {least:.0f} us later")
    return 0


if __name__ == "__main__":
    sys.exit(main())
