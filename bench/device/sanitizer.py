"""compute-sanitizer over a few kernels: reads and writes out of bounds, races in shared memory, where the tool is installed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CHECKS = (
    "tests/triton_checks/check_formats.py",
    "tests/gpu/test_cuda_recurrent.py",
    "tests/gpu/cuda/test_cuda_chain.py",
    "tests/gpu/cuda/test_cuda_window_code.py",
    "tests/gpu/cuda/test_cuda_float32_code.py",
)
SUBSET = (
    "int4_rows_one_by_one or rows_one_by_one or parts_of_k or small_networks_on_a_gpu or small_chains_on_a_gpu or "
    "small_windows_on_a_gpu or small_layers_on_a_gpu"
)
TOOLS = ("memcheck", "racecheck")
LIMIT_S = 45
FAULT = 86
"""What the tool ends with where it found something; pytest never does."""

REFUSALS = (
    "device not supported",
    "not supported on this",
    "unable to find injection",
    "internal error",
    "failed to initialize",
)
"""What the tool says where it cannot work with the card: no fault of a kernel."""


def command(tool: str) -> list[str]:
    return [
        "compute-sanitizer", "--tool", tool, "--error-exitcode", str(FAULT), "--target-processes", "all",
        sys.executable, "-m", "pytest", "-q", "--no-header", "-x", "-p", "no:cacheprovider", *CHECKS, "-k", SUBSET,
    ]  # fmt: skip


def tool_row(tool: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Passed, found faults, or why it says nothing about the kernels."""
    if shutil.which("compute-sanitizer") is None:
        return {"outcome": "not run", "error": "not installed: comes with the CUDA toolkit"}
    started = subprocess.Popen(
        command(tool), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        text, _ = started.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
        return {"outcome": "not run", "error": f"not done in {limit_s:g} s"}
    if started.returncode == 0:
        return {"passed": True}
    refused = next((line.strip() for line in text.splitlines() if any(r in line.lower() for r in REFUSALS)), None)
    if refused is not None and started.returncode != FAULT:
        return {"outcome": "not run", "error": f"the tool does not work here: {refused}"[:200]}
    return {
        "passed": False,
        "error": "found faults" if started.returncode == FAULT else "tests failed",
        "said": text[-4000:],
    }
