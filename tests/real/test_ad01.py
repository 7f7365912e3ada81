"""Trained weights and a real recording (MLPerf Tiny anomaly detection): the score survives compiling and swapping.

The published score of this recording is 9.49129 in float32 and 10.260 for the int8 network of the benchmark's authors.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel import _native as native
from rtaccel.backends import backends
from rtaccel.backends.cpu import isas
from rtaccel.core.settings import CPU_ISA
from tests.support.processes.run import PYTHON

BENCH = Path(__file__).parents[2] / "bench"

PUBLISHED = 9.4913
INT8_LIMIT = 10.3
"""The int8 network of the benchmark's authors, 10.26, rounded up."""

SCHEMES = {
    "static-absmax": rt.W8A8("static", "absmax"),
    "static-percentile": rt.W8A8("static", "percentile"),
    "static-mse": rt.W8A8("static", "mse"),
    "dynamic": rt.W8A8("dynamic"),
}


def load_networks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("networks", BENCH / "networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


networks = load_networks()
FOLDER = networks.ad01_folder()
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="no mlperf_tiny_ad01 in the test data folder (set RTACCEL_TEST_DATA to have it)"
)


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    return networks.ad01(FOLDER)


@pytest.fixture(scope="module")
def windows() -> Tensor:
    return networks.ad01_windows(FOLDER)


def calibration_of(scheme: rt.W8A8, windows: Tensor) -> list[Tensor] | None:
    return [windows] if scheme.activation == "static" else None


def test_torch_gives_the_published_score(model: nn.Sequential, windows: Tensor) -> None:
    assert networks.score(model, windows) == pytest.approx(PUBLISHED, rel=0.01)


def test_compiled_float32_gives_the_published_score(model: nn.Sequential, windows: Tensor) -> None:
    fast = rt.compile(model, (windows[:1],), rt.Float32())
    assert networks.score(fast, windows) == pytest.approx(PUBLISHED, rel=0.01)
    with torch.no_grad():
        want = model(windows)
    assert (fast(windows) - want).norm() <= 1e-5 * want.norm()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_compiled_int8_keeps_the_score(model: nn.Sequential, windows: Tensor, scheme: rt.W8A8) -> None:
    fast = rt.compile(model, (windows[:1],), scheme, calibration=calibration_of(scheme, windows))
    assert fast.weight_bytes < 300_000  # a quarter of float32's 1,069 kB
    together = networks.score(fast, windows)
    assert PUBLISHED * 0.9 < together <= INT8_LIMIT
    one_by_one = torch.cat([fast(window[None]) for window in windows])
    assert torch.equal(one_by_one, fast(windows))  # a row's result does not depend on its batch


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_swapped_layers_keep_the_score(windows: Tensor, scheme: rt.W8A8) -> None:
    model = networks.ad01(FOLDER)
    before = model(windows).detach()
    report = rt.quantize_(model, scheme, calibration=calibration_of(scheme, windows), force=True)
    assert report.swapped == 10
    assert not torch.equal(model(windows).detach(), before)
    assert PUBLISHED * 0.9 < networks.score(model, windows) <= INT8_LIMIT
    assert rt.restore_(model) == 10
    assert torch.equal(model(windows).detach(), before)


OUTPUTS = """
import hashlib, json, sys
import torch
import rtaccel as rt
import rtaccel._native as native

sys.path.insert(0, sys.argv[1])
import networks

folder = networks.ad01_folder()
model, windows = networks.ad01(folder), networks.ad01_windows(folder)
found = {"isa": native.isa(), "kernels": [], "digests": {}}
for name, activation in (("static", "static"), ("dynamic", "dynamic")):
    calibration = [windows] if activation == "static" else None
    fast = rt.compile(model, (windows[:1],), rt.W8A8(activation), calibration=calibration)
    found["kernels"] += sorted({line.kernel for line in fast.explain_lines(measure=False)})
    found["digests"][name] = hashlib.sha256(fast(windows).numpy().tobytes()).hexdigest()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def plain_digests(model: nn.Sequential, windows: Tensor) -> dict[str, str]:
    """Of the plain-torch kernels, which say what the integers are."""
    digests = {}
    for activation in ("static", "dynamic"):
        scheme = rt.W8A8(activation)
        calibration = calibration_of(scheme, windows)
        plain = rt.compile(model, (windows[:1],), scheme, calibration=calibration, backend="portable")
        assert {line.kernel for line in plain.explain_lines(measure=False)} == {"portable_torch"}
        digests[activation] = hashlib.sha256(plain(windows).numpy().tobytes()).hexdigest()
    return digests


@pytest.mark.skipif(backends()["cpu"].unavailable() is not None, reason="the native core could not be loaded")
@pytest.mark.parametrize("isa", isas())
def test_every_instruction_set_gives_the_same_outputs(isa: str, plain_digests: dict[str, str]) -> None:
    best = native.isa()
    if isas().index(isa) > isas().index(best):
        pytest.skip(f"this CPU goes no further than {best}")
    done = subprocess.run(
        [*PYTHON, "-c", OUTPUTS, str(BENCH)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, CPU_ISA: isa},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    if found["isa"] != isa:
        pytest.skip(f"this CPU goes no further than {found['isa']}")
    # A set that only adds a dot product to another has no kernels of its own where none is needed.
    newest = "avx512vnni" if isa in ("avx512bf16", "avx512vbmi") else isa
    assert f"cpu_{newest}" in found["kernels"]
    assert all(kernel.startswith("cpu_") for kernel in found["kernels"])
    assert found["digests"] == plain_digests
