"""The wheel: small, with C++ only where `rtaccel pack` looks for it, and with a native core that C can call."""

from __future__ import annotations

import shutil
import subprocess
import textwrap
import zipfile
from pathlib import Path

import pytest

from release.wheels import MAX_BYTES

SOURCES_BYTES = 500_000


def test_size_and_contents(wheel: Path) -> None:
    assert wheel.stat().st_size <= MAX_BYTES
    names = zipfile.ZipFile(wheel).namelist()
    assert any(n.startswith("rtaccel/_native") for n in names)
    for needed in (
        "rtaccel/librtaccel.so",
        "rtaccel/include/rtaccel.h",
        "rtaccel/kernels/linear/contract.py",
        "rtaccel/py.typed",
    ):
        assert needed in names
    own = [n for n in names if not n.startswith("rtaccel/source/")]
    assert not [n for n in own if n.endswith((".cc", ".pyc")) or n.startswith(("kernels/", "tests/"))]
    sources = [i for i in zipfile.ZipFile(wheel).infolist() if i.filename.startswith("rtaccel/source/")]
    assert sum(i.compress_size for i in sources) <= SOURCES_BYTES
    kinds = {Path(i.filename).suffix for i in sources}
    assert kinds <= {".cc", ".h", ".hpp", ".def", ".in", ".cmake", ".map", ".txt"}
    requirements = zipfile.ZipFile(wheel).read(next(n for n in names if n.endswith("METADATA"))).decode()
    assert "Requires-Dist: torch>=2.10" in requirements


def test_it_links_neither_torch_nor_python(wheel: Path, tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    for library in (tmp_path / "rtaccel").glob("*.so"):
        text = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
        needed = [line for line in text.splitlines() if "NEEDED" in line]
        assert needed
        assert not [line for line in needed if "torch" in line or "libpython" in line]


C_PROGRAM = r"""
#include <math.h>
#include <stdio.h>
#include <string.h>
#include "rtaccel.h"

int main(void) {
  float weight[2 * 3] = {1, 2, 3, -1, 0, 1}, bias[2] = {0.5f, 0.0f};
  rta_attr attrs[] = {
      {.name = "weight_dtype", .kind = RTA_ATTR_TEXT, .text = "float32"},
      {.name = "activation", .kind = RTA_ATTR_TEXT, .text = "relu"},
      {.name = "activation_parameter", .kind = RTA_ATTR_FLOAT, .real = 0},
      {.name = "weight", .kind = RTA_ATTR_TENSOR, .data = weight, .dtype = RTA_FLOAT32, .count = 6},
      {.name = "bias", .kind = RTA_ATTR_TENSOR, .data = bias, .dtype = RTA_FLOAT32, .count = 2}};
  rta_plan *plan = rta_plan_create(1 << 16);
  int x = rta_plan_value(plan, RTA_FLOAT32, 1, 3, RTA_INPUT), y = rta_plan_value(plan, RTA_FLOAT32, 1, 2, RTA_OUTPUT);
  if (rta_plan_stage(plan, "linear", "no_such_kernel", &x, 1, &y, 1, attrs, 5) != -1) return 2;
  printf("%s\n", rta_error());
  if (rta_plan_stage(plan, "linear", "cpu_portable", &x, 1, &y, 1, attrs, 5) != 0) return 3;
  if (rta_plan_finish(plan, 0, 0) != 0) return 4;
  float in[2 * 3] = {1, 1, 1, 3, 0, 1}, out[4] = {NAN, NAN, NAN, NAN};
  const void *inputs[] = {in};
  void *outputs[] = {out};
  if (rta_plan_run(plan, inputs, outputs, 2) != 0) return 6;
  int64_t ticks[3 * 5]; /* three pairs of calls; inputs, the stage, outputs, the whole, a reading */
  float again[4] = {NAN, NAN, NAN, NAN};
  void *second[] = {again};
  if (!(rta_plan_profile(plan, inputs, second, 2, 3, ticks) > 0)) return 7;
  for (int i = 0; i < 15; ++i)
    if (ticks[i] < 0 || (i % 5 == 3 && ticks[i] == 0)) return 8;
  if (memcmp(out, again, sizeof out) != 0) return 9;
  if (rta_plan_profile(plan, inputs, second, 2, 0, ticks) >= 0) return 10;
  printf("%s\n", rta_error());
  printf("%g %g %g %g\n", out[0], out[1], out[2], out[3]);
  rta_plan_destroy(plan);
  return 0;
}
"""


def test_a_c_program_can_use_it(wheel: Path, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    zipfile.ZipFile(wheel).extractall(tmp_path)
    package = tmp_path / "rtaccel"
    (tmp_path / "main.c").write_text(textwrap.dedent(C_PROGRAM))
    command = ["cc", "-std=c11", "-Wall", "-Werror", f"-I{package / 'include'}", str(tmp_path / "main.c")]
    link = [f"-L{package}", "-lrtaccel", f"-Wl,-rpath,{package}", "-o", str(tmp_path / "main")]
    built = subprocess.run(command + link, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "no_such_kernel" in done.stdout
    assert "a profile takes samples and calls" in done.stdout
    assert done.stdout.splitlines()[-1] == "6.5 0 6.5 0"
