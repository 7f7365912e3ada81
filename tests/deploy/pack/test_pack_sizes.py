"""rtaccel pack: what a program weighs on each instruction set, and that what was left out changes no bits."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import rtaccel as rt
from rtaccel.backends.cpu import isas
from rtaccel.core import settings
from rtaccel.deploy.pack import pack
from rtaccel.runtime.compiled import CompiledModel
from tests.deploy.pack.test_pack import HAS, HERE, IN_PYTHON, compiled, every_format, linked

pytestmark = [
    pytest.mark.skipif(shutil.which("c++") is None or shutil.which("cc") is None, reason="no C or C++ compiler"),
    pytest.mark.skipif("avx2" not in isas(), reason="sizes are those of x86-64"),
]

MODELS: dict[str, tuple[Callable[[], CompiledModel], int, int]] = {
    "int8": (lambda: compiled(0), 24, 120_000),
    "every format": (every_format, 40, 215_000),
}
"""Model, its inputs, and the most that a program with it has, the file included: stripped, as GCC on x86-64 makes it."""


@pytest.mark.parametrize("isa", ["avx2", "avx512", "avx512vnni"])
@pytest.mark.parametrize("model", MODELS)
def test_a_program_of_one_set(model: str, isa: str, tmp_path: Path) -> None:
    make, width, most = MODELS[model]
    file = rt.save(make(), tmp_path / "policy.rta")
    told = pack(file, tmp_path / "out", [isa])
    assert told.program_bytes + file.stat().st_size <= most, "\n".join(map(str, told.sections))
    assert {kernel.rsplit("_", 1)[-1] for _, kernel in told.kernels} <= {isa, isa.removesuffix("vnni")}
    if isa not in HAS:
        return
    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    for samples in (1, 2, 3, 4, 5, 6, 7, 9, 40):
        x = torch.randn(samples, width)
        (tmp_path / "x").write_bytes(x.numpy().tobytes())
        env = {**os.environ, settings.CPU_ISA: isa}
        command = [sys.executable, "-c", IN_PYTHON, file, "1", str(samples), str(width)]
        want = subprocess.run(command, input=x.numpy().tobytes(), capture_output=True, check=True, env=env).stdout
        ran = subprocess.run(
            [tmp_path / "program", file, str(samples), "1", tmp_path / "x"], capture_output=True, check=False, env=env
        )
        assert ran.stdout == want, (samples, ran.stderr)


@pytest.mark.turns(6)
def test_an_end_that_was_left_out(tmp_path: Path) -> None:
    """Tiles of 64 outputs have an end for int8 results alone, where the packed model has no others."""
    isa = "avx512vnni" if "avx512vnni" in HAS else "avx2"
    file = rt.save(compiled(0), tmp_path / "policy.rta")
    pack(file, tmp_path / "out", [isa])
    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    batches = [torch.randn(64, 24)]
    other = rt.compile(torch.nn.Linear(24, 64).eval(), torch.randn(1, 24), "w8a8", calibration=batches)
    changed = rt.save(other, tmp_path / "other.rta")
    (tmp_path / "x").write_bytes(bytes(96))
    done = subprocess.run(
        [tmp_path / "program", changed, "1", "1", tmp_path / "x"], capture_output=True, check=False,
        env={**os.environ, settings.CPU_ISA: isa},
    )  # fmt: skip
    assert done.returncode == 1
    assert b"64 outputs, for which this was not built" in done.stderr
