"""The choice of a kernel is made once, is visible, and never silent."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

from rtaccel.backends import backends
from rtaccel.core.errors import BackendUnavailable
from rtaccel.core.registry import impls
from rtaccel.core.stage import Stage, Value
from rtaccel.plan.choose import choose
from tests.support.processes.run import PYTHON

LINEAR = Stage("linear", "l", (Value("x", 4),), (Value("y", 3),), {"weight": torch.randn(3, 4)})


def test_every_other_kernel_and_backend_has_a_reason() -> None:
    choice = choose(LINEAR, rows=1)
    named = {name for name, _ in choice.rejected} | {choice.impl.name}
    assert {i.name for i in impls(choice.impl.backend, "linear")} <= named
    others = {b.name for b in backends().values() if "cpu" in b.devices} - {choice.impl.backend}
    assert others <= named
    assert all(reason for _, reason in choice.rejected)


def test_forced_backends() -> None:
    assert choose(LINEAR, 1, forced="portable").impl.backend == "portable"
    assert choose(LINEAR, 1, forced="cpu").impl.backend == "cpu"
    with pytest.raises(BackendUnavailable, match="device"):
        choose(LINEAR, 1, device="cuda", forced="cpu")


@pytest.mark.parametrize(("isa", "kernel"), [("portable", "cpu_portable"), ("avx2", "cpu_avx2")])
def test_the_environment_limits_the_instruction_set(isa: str, kernel: str, tmp_path) -> None:
    code = (
        "import torch, rtaccel as rt\n"
        "fast = rt.compile(torch.nn.Linear(4, 4).eval(), (torch.ones(1, 4),))\n"
        "print(fast.explain(measure=False, verbose=True))"
    )
    env = {**os.environ, "RTACCEL_CPU_ISA": isa}
    done = subprocess.run([*PYTHON, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    if isa == "avx2" and "this CPU does not have avx2" in done.stdout:
        pytest.skip("this CPU does not have avx2")
    assert f"  {kernel}  " in done.stdout
    assert f"RTACCEL_CPU_ISA={isa} rules out" in done.stdout or "this CPU does not have" in done.stdout


def test_forced_triton_stands_aside_for_what_it_has_no_kernel_for(tmp_path) -> None:
    pytest.importorskip("triton", reason="triton is not installed (pip install 'rtaccel[gpu]')")
    code = (
        "import torch, rtaccel as rt\n"
        "torch.manual_seed(0)\n"
        "from rtaccel.core.registry import impls\n"
        "for impl in impls('triton', 'order'):\n"  # every operator has a form in Triton
        "    object.__setattr__(impl, 'supports', lambda problem: 'has no form in this test')\n"
        "class Ranks(torch.nn.Module):\n"
        "    def forward(self, x): return x * x.argsort(-1)\n"
        "m = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4), Ranks()).eval()\n"
        "x = torch.randn(3, 8)\n"
        "scheme = {'0': 'float32', '2': 'w8a8'}\n"
        "fast = rt.compile(m, (x,), scheme, calibration=[x], backend='triton')\n"
        "again = rt.compile(m, (x,), scheme, calibration=[x], backend='portable')\n"
        "torch.testing.assert_close(fast(x), again(x), rtol=0.02, atol=0.02)\n"
        "print(fast.explain(measure=False, verbose=True))"
    )
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([*PYTHON, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "triton_gemv" in done.stdout and "triton_float32" in done.stdout
    assert "not triton_gemv: " in done.stdout and "float32" in done.stdout.split("not triton_gemv: ")[1].split("\n")[0]
    assert "has no form in this test" in done.stdout and "portable_torch" in done.stdout
