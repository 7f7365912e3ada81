"""rtaccel pack: a library with one model's kernels gives the bits of the whole one, from a file and from .rodata."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.backends.cpu import isas
from rtaccel.cli.main import main
from rtaccel.deploy.pack import pack

HERE = Path(__file__).parent
BEST = next((name for name in ("avx2", "neon", "portable") if name in isas()), "portable")

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("cc") is None, reason="no C or C++ compiler"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, bytes]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8)).eval()
    fast = rt.compile(net, torch.randn(1, 24), "w8a8", calibration=[torch.randn(256, 24)])
    x = torch.randn(3, 24)
    return rt.save(fast, tmp_path_factory.mktemp("pack") / "policy.rta"), x.numpy(), fast(x).numpy().tobytes()


EMBEDDED = """
#include <stdio.h>
#include "policy.h"
int main(void) {
  rta_model* model = rta_model_from_memory(policy_model, POLICY_MODEL_BYTES, 0);
  if (!model) { fprintf(stderr, "%s", rta_error()); return 1; }
  float x[3 * POLICY_INPUT_0_ELEMENTS], y[3 * POLICY_OUTPUT_0_ELEMENTS];
  if (fread(x, sizeof x, 1, stdin) != 1) return 2;
  const void* in[] = {x};
  void* out[] = {y};
  if (rta_model_step(model, in, out, 3) != 0) return 3;
  fwrite(y, sizeof y, 1, stdout);
  rta_model_close(model);
  return 0;
}
"""


def linked(source: Path, folder: Path, target: Path) -> None:
    flags = ["-std=c11", "-O1", f"-I{folder}", str(source), f"-L{folder}", "-lpolicy", "-Wl,--gc-sections"]
    command = ["cc", *flags, "-lstdc++", "-lm", "-lpthread", "-ldl", "-s", "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_one_model(model: tuple[Path, np.ndarray, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, x, want = model
    assert main(["pack", str(file), "--isa", BEST, "--embed", "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [op for op, _ in told["kernels"]] == ["quantize", "linear"] or told["kernels"]
    assert all(kernel.endswith(BEST) for _, kernel in told["kernels"])
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    linked(tmp_path / "embedded.c", tmp_path / "out", tmp_path / "embedded")
    done = subprocess.run([tmp_path / "embedded"], input=x.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == want
    if BEST == "avx2":
        assert (tmp_path / "embedded").stat().st_size - file.stat().st_size < 200_000

    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    (tmp_path / "x").write_bytes(x.tobytes())
    command = [tmp_path / "program", file, "3", "1", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.stdout == want, done.stderr
    other = rt.save(rt.compile(nn.Conv1d(3, 4, 3).eval(), torch.randn(1, 3, 9)), tmp_path / "conv.rta")
    done = subprocess.run([tmp_path / "program", other, "1", "1", tmp_path / "x"], capture_output=True, check=False)
    assert done.returncode == 1
    assert b"here (this build has none)" in done.stderr


CROSS = ("aarch64-linux-gnu-g++", "aarch64-linux-gnu-gcc", "qemu-aarch64")


@pytest.mark.skipif(not all(map(shutil.which, CROSS)), reason=f"not all of {', '.join(CROSS)} are here")
def test_for_another_processor(model: tuple[Path, np.ndarray, bytes], tmp_path: Path) -> None:
    file, x, want = model
    toolchain = HERE.parents[1] / "cmake" / "aarch64-linux-gnu.cmake"
    pack(file, tmp_path / "arm", ["neon", "neondot"], name="policy", embed=True, toolchain=toolchain)
    (tmp_path / "embedded.c").write_text(EMBEDDED)
    flags = [
        "-std=c11",
        "-O1",
        f"-I{tmp_path / 'arm'}",
        str(tmp_path / "embedded.c"),
        f"-L{tmp_path / 'arm'}",
        "-lpolicy",
    ]
    command = ["aarch64-linux-gnu-gcc", *flags, "-Wl,--gc-sections", "-lstdc++", "-lm", "-lpthread", "-ldl"]
    done = subprocess.run([*command, "-o", tmp_path / "embedded"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for cpu in ("cortex-a53", "cortex-a76"):
        run = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", cpu, str(tmp_path / "embedded")]
        done = subprocess.run(run, input=x.tobytes(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout == want


def test_what_cannot_be_packed(model: tuple[Path, np.ndarray, bytes], tmp_path: Path) -> None:
    file, *_ = model
    with pytest.raises(rt.UnsupportedProblem, match="avx1024"):
        pack(file, tmp_path / "out", ["avx1024"])
    with pytest.raises(rt.UnsupportedProblem, match="one processor"):
        pack(file, tmp_path / "out", ["avx2", "neon"])
    with pytest.raises(rt.FormatError, match="identifier of C"):
        pack(file, tmp_path / "out", [BEST], name="1st policy")
    with pytest.raises(rt.FormatError, match="load: got"):
        pack(tmp_path / "missing.rta", tmp_path / "out", [BEST])
    with pytest.raises(rt.BackendUnavailable, match="no-such-compiler"):
        pack(file, tmp_path / "out", [BEST], compiler="/no-such-compiler")
