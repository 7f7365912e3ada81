"""What a type checker sees of an installed copy: every public name with its type, and mistakes refused."""

from __future__ import annotations

import inspect
import os
import pydoc
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import rtaccel as rt
from rtaccel.measure.latency import measure

ROOT = Path(__file__).parents[2]

SCRIPT = """
from __future__ import annotations

from collections.abc import Callable

import torch

import rtaccel as rt
from rtaccel.measure.interleave import compare

model: torch.nn.Module = torch.nn.Sequential(torch.nn.Linear(8, 8))
x = torch.randn(1, 8)

fast = rt.compile(model.eval(), (x,), scheme=rt.W8A8(), calibration=[x], threads=2)
fast.run(x, out=fast(x))
step: Callable[[], None] = fast.bind(x, out=fast(x))
step()
fast.seal()
text: str = fast.explain()
size: int = fast.weight_bytes

lat: rt.Latency = rt.measure(fast, (x,), budget=rt.Budget(p99_us=50), samples=700)
p99: float = lat.p99_us
verdict: str | None = lat.verdict
lat.raise_for_budget(strict=True)
html: str = lat._repr_html_()

live: rt.StreamModel = rt.stream(torch.nn.GRU(8, 8), x, scheme="w8a8")
live.step(x)
live.reset()

swapped: rt.SwapReport = rt.quantize_(model, rt.W8A16())
rt.restore_(model)
pruned: rt.SparsifyReport = rt.sparsify_(model, rt.BlockSparse(block=(16, 16), sparsity=0.8))
layer: torch.nn.Module = rt.nn.QuantLinear.from_float(torch.nn.Linear(8, 8), rt.W8A8())
version: str = rt.__version__
print(compare(step, step).verdict)

try:
    rt.compile(model, (x,), "w9")
except rt.RtaccelError as error:
    print(error.op, error.got, error.expected, error.next_step)
"""

WRONG = """
import rtaccel as rt

rt.measure(3)
rt.Budget(p99="50")
rt.compiel
rt.measure(len, [], sample=3)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the Python files of the package, as a wheel would bring them."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    left = shutil.ignore_patterns("*.cc", "*.h", "*.so", "__pycache__", "kernels")
    shutil.copytree(ROOT / "rtaccel", site / "rtaccel", ignore=left)
    shutil.copytree(ROOT / "kernels", site / "rtaccel" / "kernels", ignore=shutil.ignore_patterns(*["*.cc", "*.h"]))
    libraries = {str(Path(path).resolve()) for path in sys.path if path.endswith("site-packages")}
    libraries.add(sysconfig.get_paths()["purelib"])
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)))
    return folder / "bin" / "python"


def check(python: Path, script: str, folder: Path) -> str:
    pytest.importorskip("mypy")
    (folder / "script.py").write_text(script)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "script.py"]
    alone = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, env=alone)
    return done.stdout + done.stderr


@pytest.mark.turns(3)
def test_a_script_of_public_names_is_accepted_and_mistakes_are_not(installed: Path, tmp_path: Path) -> None:
    assert "Success: no issues found" in check(installed, SCRIPT, tmp_path)
    found = re.findall(r"script.py:(\d+): error: .*\[([a-z-]+)\]", check(installed, WRONG, tmp_path))
    assert found == [("4", "arg-type"), ("5", "call-arg"), ("6", "attr-defined"), ("7", "call-arg")]


def test_public_names_are_written_out_for_type_checkers() -> None:
    assert sorted(rt.__all__) == sorted([*rt._HOME, *rt._ROOMS])
    assert (ROOT / "rtaccel" / "py.typed").is_file()
    seen = re.search(r"if TYPE_CHECKING:\n(.*?)\n\n", (ROOT / "rtaccel" / "__init__.py").read_text(), re.DOTALL)
    assert seen is not None
    imported = set(re.findall(r"\w+", seen.group(1)))
    assert set(rt.__all__) <= imported


def test_the_callable_package_has_the_signature_and_the_text_of_its_function() -> None:
    assert inspect.signature(rt.measure) == inspect.signature(measure)
    shown = pydoc.render_doc(rt.measure, renderer=pydoc.plaintext)
    assert "rtaccel.measure(fn" in shown
    assert "samples, seconds: how many calls" in shown
    assert "Measuring against a budget" in shown
    command = "import rtaccel.measure, sys; assert not {'numpy', 'torch'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
