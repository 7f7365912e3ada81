"""compute-sanitizer over a few kernels: reads and writes out of bounds, races in shared memory, where the tool is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CHECKS = ("tests/triton_checks/check_formats.py", "tests/test_cuda_recurrent.py")
SUBSET = "int4_rows_one_by_one or rows_one_by_one or parts_of_k or small_networks_on_a_gpu"
TOOLS = ("memcheck", "racecheck")
LIMIT_S = 45
FAULT = 86
"""What the tool ends with where it found something; pytest never does."""


def command(tool: str) -> list[str]:
    return [
        "compute-sanitizer", "--tool", tool, "--error-exitcode", str(FAULT), "--target-processes", "all",
        sys.executable, "-m", "pytest", "-q", "--no-header", "-x", *CHECKS, "-k", SUBSET,
    ]  # fmt: skip


def run(start: Callable[..., Any] = subprocess.run) -> list[dict[str, Any]]:
    """One row for each tool; a row with the reason where the tool is not there or takes too long."""
    if shutil.which("compute-sanitizer") is None:
        return [{"name": "compute-sanitizer", "error": "not installed: comes with the CUDA toolkit"}]
    rows: list[dict[str, Any]] = []
    for tool in TOOLS:
        name = f"compute-sanitizer {tool}"
        try:
            done = start(command(tool), cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            rows.append({"name": name, "error": f"not done in {LIMIT_S} s"})
            continue
        rows.append({"name": name, "passed": done.returncode == 0})
        if done.returncode:
            said = "found faults" if done.returncode == FAULT else "tests failed"
            rows[-1] |= {"error": said, "output": (done.stdout + done.stderr)[-4000:]}
    return rows
