"""Numba's CUDA kernels in its simulator, in a process of their own; the same checks on the GPU where there is one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rtaccel.backends import get_backend

CHECKS = Path(__file__).parent.parent / "numba_checks" / "check_numba.py"
NAME = "NUMBA_ENABLE_CUDASIM"


PTX = CHECKS.with_name("check_ptx.py")


def run_checks(simulate: bool, checks: Path = CHECKS) -> None:
    environment = {k: v for k, v in os.environ.items() if k != NAME} | ({NAME: "1"} if simulate else {})
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(checks), "-q", "--no-header", "--tb=short"],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


@pytest.mark.turns(3)
def test_kernels_in_the_simulator() -> None:
    if importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("numba-cuda is not installed (pip install 'rtaccel[numba]')")
    run_checks(simulate=True)


def test_kernels_compile_without_a_gpu() -> None:
    for name, package in (("numba_cuda", "numba-cuda"), ("nvidia.cu13", "nvidia-nvvm and nvidia-cuda-nvrtc")):
        try:
            found = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"{package} is not installed")
    run_checks(simulate=False, checks=PTX)


def test_kernels_on_the_gpu() -> None:
    reason = get_backend("numba_cuda").unavailable()
    if reason is not None or not torch.cuda.is_available():
        pytest.skip(f"runs on a GPU stay open here: {reason}")
    run_checks(simulate=False)


def test_without_a_card_the_reason_names_what_is_missing() -> None:
    backend = get_backend("numba_cuda")
    reason = backend.unavailable()
    if reason is None:
        pytest.skip(f"Numba CUDA runs here: {dict(backend.facts())}")
    assert "rtaccel[numba]" in reason or "NVIDIA GPU" in reason
