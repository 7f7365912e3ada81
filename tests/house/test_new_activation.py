"""A new activation is one file and its row in table.def: in a copy of the sources that has softshrink too, nothing else changes,
and torch's calls, plain torch, C++, Triton, Numba and CUDA C++ know it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rtaccel.kernels._common.activations import ACTIVATIONS, ROWS
from tests.support.processes.run import PYTHON

ROOT = Path(__file__).parent.parent.parent
LEFT = shutil.ignore_patterns("__pycache__", "*.so", "kernels")

NAME = "toy"
ROW = """
RTA_ROW(kToy, toy, S::add(S::max(zero, S::sub(t, S::set(0.5f))), S::min(zero, S::add(t, S::set(0.5f)))))
"""
FILE = '''"""toy: max(t - 1/2, 0) + min(t + 1/2, 0), which torch calls softshrink."""

import torch.nn.functional as F

from rtaccel.kernels._common.activations.row import Aten, Row

ROW = Row(
    reference=lambda t, parameter: F.softshrink(t),
    triton="tl.where(t > 0.5, t - 0.5, tl.where(t < -0.5, t + 0.5, t * 0.0))",
    numba="t - FLOAT32(0.5) if t > FLOAT32(0.5) else t + FLOAT32(0.5) if t < FLOAT32(-0.5) else FLOAT32(0) * t",
    aten=(Aten("softshrink.default", only={"lambd": 0.5}),),
)
'''


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources with the new row and file, laid out as an installed package."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "rtaccel", root / "rtaccel", ignore=LEFT)
    shutil.copytree(ROOT / "kernels", root / "rtaccel" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    table = root / "rtaccel" / "kernels" / "_common" / "activations"
    (table / f"{NAME}.py").write_text(FILE)
    rows = (table / "table.def").read_text()
    (table / "table.def").write_text(rows.replace("RTA_ROW(kGelu,", ROW + "RTA_ROW(kGelu,", 1))  # between others
    assert (table / "table.def").read_text() != rows
    return root


def run(tree: Path, script: str, **environment: str) -> None:
    """A script in a process of its own, whose rtaccel is the copy."""
    head = f"""
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuildRedirectingFinder" not in type(f).__name__]
sys.path.insert(0, {str(tree)!r})
import rtaccel
assert rtaccel.__file__.startswith({str(tree)!r}), rtaccel.__file__
"""
    command = [*PYTHON, "-c", head + script]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tree, env={**os.environ, **environment}, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]


STAGE = """
import torch
from torch import nn
from torch.nn import functional as F
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import Problem
from rtaccel.kernels.linear import contract

def check(backend, device, rows, stage):
    inputs = contract.make_inputs(stage, rows, seed=3)
    problem = Problem.of(stage, rows, device)
    (expected,), bound = contract.reference(stage, *inputs), contract.tolerance(stage, *inputs)
    taken = 0
    for impl in impls(backend, "linear"):
        if impl.supports(problem) is None:
            (found,) = impl.prepare(stage, problem)(*inputs)
            assert ((found - expected).abs() <= bound.atol).all(), impl.name
            taken += 1
    assert taken
"""


def test_torch_calls_it_and_a_compiled_model_computes_it(tree: Path) -> None:
    script = """
import torch
from torch import nn
import rtaccel as rt
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 24), nn.Softshrink(), nn.Linear(24, 4), nn.Softshrink()).eval()
x = torch.randn(3, 16) * 3
fast = rt.compile(model, (x,), backend="portable", strict=True)
torch.testing.assert_close(fast(x), model(x), rtol=1e-5, atol=1e-5)
"""
    run(tree, script)


def test_triton_computes_it_in_the_interpreter(tree: Path) -> None:
    pytest.importorskip("triton")
    script = 'check("triton", "cpu", 2, contract.make_stage(64, 32, "dynamic", "toy"))\n'
    run(tree, STAGE + script, TRITON_INTERPRET="1")


def test_triton_compiles_it(tree: Path) -> None:
    pytest.importorskip("triton")
    script = """
from rtaccel.kernels._gpu.triton_aot import compile_for
from rtaccel.kernels.linear.triton import gemv
stage = contract.make_stage(256, 64, "dynamic", "toy")
spec = gemv.specialize(Problem.of(stage, 2, "cuda"))
assert compile_for(spec, 90).spills == 0
"""
    run(tree, STAGE + script)


def test_numba_computes_it_in_the_simulator(tree: Path) -> None:
    pytest.importorskip("numba")
    script = 'check("numba_cuda", "cpu", 2, contract.make_stage(20, 6, "static", "toy"))\n'
    run(tree, STAGE + script, NUMBA_ENABLE_CUDASIM="1")


PROGRAM = """
#include "_core/stage.h"
#include "pointwise/cpu_kernel.h"
#include "linear/epilogue.h"
#include "_simd/simd_portable.h"

#include <cmath>
#include <cstdio>

int main() {
  using S = rta::simd_portable;
  float values[8] = {-5.0f, -3.0f, -1.0f, 0.0f, 1.0f, 2.5f, 3.0f, 7.0f}, in_place[8];
  for (int i = 0; i < 8; ++i) in_place[i] = values[i];
  rta::activate_in_place<S>(rta::Activation::kToy, 0.0f, in_place, 2);
  for (int i = 0; i < 8; i += S::kLanes) {
    float one[S::kLanes];
    S::store(one, rta::activate<S>(rta::parse_activation("toy"), 0.0f, S::load(values + i)));
    for (int j = 0; j < S::kLanes; ++j) {
      const double t = values[i + j], exact = std::fmax(t - 0.5, 0.0) + std::fmin(t + 0.5, 0.0);
      if (std::fabs(one[j] - exact) > 1e-6 || one[j] != in_place[i + j]) return 1;
    }
  }
  return 0;
}
"""

CUDA_PROGRAM = """
#include "cuda_on_host.h"
#include "recurrent/cuda/cells.h"

int main() {
  constexpr auto kind = static_cast<rta::Activation>(TOY);
  if (rta::activate<Lane>(kind, 0.0f, 1.0f) != 0.5f) return 1;
  return rta::activate<Lane>(kind, 0.0f, -5.0f) == -4.5f ? 0 : 2;
}
"""


def compiled(tree: Path, source: str, *flags: str) -> int:
    """What the program returns."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not here")
    (tree / "main.cc").write_text(source)
    kernels = tree / "rtaccel" / "kernels"
    command = [compiler, "-std=c++20", "-O1", "-ffp-contract=off", "-pthread", f"-I{kernels}", *flags]
    built = subprocess.run(
        [*command, "main.cc", "-o", "main"], cwd=tree, capture_output=True, text=True, timeout=600, check=False
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return subprocess.run([tree / "main"], timeout=60, check=False).returncode


def test_cpp_computes_it_by_its_name(tree: Path) -> None:
    core = tree / "rtaccel" / "kernels" / "_core"
    assert compiled(tree, PROGRAM, str(core / "stage.cc"), str(core / "isa.cc")) == 0


def test_cuda_cpp_computes_it_by_its_number(tree: Path) -> None:
    number = ACTIVATIONS.index("gelu")  # the place that the row was put in
    assert compiled(tree, CUDA_PROGRAM, f"-I{ROOT / 'tests' / 'cuda_checks'}", f"-DTOY={number}") == 0


def test_every_row_has_a_file_and_every_file_a_row() -> None:
    folder = ROOT / "kernels" / "_common" / "activations"
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "row"} == set(ACTIVATIONS) == set(ROWS)
    assert (folder / "table.def").read_text().count("\nRTA_ROW(") == len(ACTIVATIONS)
