"""rtaccel pack of streams, of every weight format and of every form of a convolution: the bits are those of the whole library."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.cli.main import main
from rtaccel.deploy.pack import pack
from tests.deploy.networks import Recurrent
from tests.deploy.pack.test_pack import BEST, HERE, every_format, given, in_python, linked

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None or shutil.which("cc") is None, reason="no C or C++ compiler"
)


PACKED_STREAMS = [("float32", 1), ("float32", 3), ("w8a8", 3), ("w8a8", 1)]


@pytest.mark.turns(7)
@pytest.mark.parametrize(("scheme", "streams"), PACKED_STREAMS)
def test_streams(tmp_path: Path, scheme: str, streams: int) -> None:
    torch.manual_seed(1)
    calibration = {} if scheme == "float32" else {"calibration": [torch.randn(8, 30, 6)]}
    live = rt.stream(Recurrent().eval(), torch.randn(streams, 6), scheme=scheme, **calibration)
    file = rt.save(live, tmp_path / "policy.rta")
    pack(file, tmp_path / "out", [BEST])
    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    x = torch.randn(40, streams, 6)
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    command = [tmp_path / "program", file, str(streams), "40", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == in_python(file, x)


@pytest.mark.turns(7)
def test_every_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast = every_format()
    file = rt.save(fast, tmp_path / "policy.rta")
    assert main(["pack", str(file), "--isa", BEST, "--threads", "-o", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {op for op, _ in told["kernels"]} == {"linear", "norm"}
    assert told["memory_measured"]
    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    for samples in (1, 2, 3, 5, 40):
        x = torch.randn(samples, 40)
        (tmp_path / "x").write_bytes(x.numpy().tobytes())
        command = [tmp_path / "program", file, str(samples), "1", tmp_path / "x"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.stdout == in_python(file, x[None]), (samples, done.stderr)


CONVOLUTIONS = {
    "one channel": (nn.Conv1d(1, 1, 3), (1, 9)),
    "depthwise": (nn.Conv2d(6, 6, 3, groups=6), (6, 7, 7)),
    "grouped": (nn.Conv1d(6, 8, 3, groups=2), (6, 9)),
    "square": (nn.Conv2d(16, 20, 3, padding=1), (16, 12, 12)),
    "planes": (
        nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten()),
        (1, 33, 33),
    ),
}


@pytest.mark.turns(10)
@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_the_forms_of_a_convolution(form: str, scheme: str, tmp_path: Path) -> None:
    """A library has the forms that its plan's attributes ask for, and takes the same as Python."""
    torch.manual_seed(3)
    net, shape = CONVOLUTIONS[form]
    calibration = [torch.randn(16, *shape)] if scheme == "w8a8" else None
    file = rt.save(
        rt.compile(net.eval(), torch.randn(1, *shape), scheme, calibration=calibration), tmp_path / "policy.rta"
    )
    pack(file, tmp_path / "out", [BEST])
    linked(HERE / "program.c", tmp_path / "out", tmp_path / "program")
    x = torch.randn(1, 3, *shape)
    (tmp_path / "x").write_bytes(x.numpy().tobytes())
    command = [tmp_path / "program", file, "3", "1", tmp_path / "x"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == in_python(file, x)


WITHIN = """
#include <stdio.h>
#include "policy.h"
static unsigned char memory[POLICY_MEMORY_BYTES];
int main(void) {
  rta_model* model = policy_open(memory, sizeof memory);
  if (!model) { fprintf(stderr, "%s", rta_error()); return 1; }
  float x[3 * POLICY_INPUT_0_ELEMENTS], y[3 * POLICY_OUTPUT_0_ELEMENTS];
  if (fread(x, sizeof x, 1, stdin) != 1) return 2;
  const void* in[] = {x};
  void* out[] = {y};
  if (rta_model_step(model, in, out, 3) != 0) return 3;
  fwrite(y, sizeof y, 1, stdout);
  printf("%d", POLICY_MEMORY_BYTES);
  return 0;
}
"""


@pytest.mark.turns(7)
def test_weights_that_stages_share(tmp_path: Path) -> None:
    """What was packed to be compared is given back to the caller's memory, and taken again."""
    torch.manual_seed(4)
    layer, last = nn.Linear(40, 40), nn.Linear(40, 8)
    fast = rt.compile(nn.Sequential(*[layer, nn.Tanh()] * 9, last).eval(), torch.randn(1, 40))
    packed = fast._executor.native_plans[0].packed_bytes
    assert packed < 2 * 4 * 40 * 48 + 4 * 40 * 16
    file = rt.save(fast, tmp_path / "policy.rta")
    pack(file, tmp_path / "out", [BEST], embed=True)
    (tmp_path / "within.c").write_text(WITHIN)
    linked(tmp_path / "within.c", tmp_path / "out", tmp_path / "within")
    x = torch.randn(3, 40)
    want = in_python(file, x[None])
    told = given(tmp_path / "within", x.numpy().tobytes())
    assert told[: len(want)] == want
    assert packed < int(told[len(want) :]) < packed + 64_000
