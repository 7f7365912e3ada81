"""The tests that need a card, file by file: pytest in a process with a limit, its JUnit XML read, one row each."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


OURS = ("RTACCEL_KERNELS", "BENCH_DEVICE_CARD", "BENCH_DEVICE_CLAIMS", "PYTORCH_NVML_BASED_CUDA_CHECK")
"""Variables of the run that a test must not see: it is to find what a user has."""


@dataclass(frozen=True)
class File:
    """words: more for pytest. side_by_side: of processes with pytest-xdist; 0 where kernels stay on the card, as those of several
    processes would wait for each other."""

    path: str
    estimate_s: float = 20
    limit_s: float = 60
    words: tuple[str, ...] = ()
    side_by_side: int = 0


FILES = (
    File("tests/triton_checks/check_kernels.py", 40, 90, side_by_side=8),
    File("tests/triton_checks/check_formats.py", 40, 90, side_by_side=8),
    File("tests/triton_checks/check_thirds.py", 8, 60, side_by_side=8),
    File("tests/gpu/test_cuda_recurrent.py", 30, 90, words=("-k", "on_a_gpu")),
    File("tests/gpu/cuda/test_cuda_chain.py", 20, 60, words=("-k", "on_a_gpu")),
    File("tests/gpu/cuda/test_cuda_window_code.py", 6, 60, words=("-k", "on_a_gpu")),
    File("tests/gpu/cuda/test_cuda_float32_code.py", 6, 60, words=("-k", "on_a_gpu")),
    File("tests/gpu/test_persistent.py", 30, 90, words=("-k", "on_a_gpu")),
    File("tests/triton_checks/check_persistent.py", 50, 90),
    File("tests/triton_checks/check_persistent_streams.py", 30, 90),
    File("tests/triton_checks/check_conv_stream.py", 30, 90),
    File("tests/gpu/test_cuda_graph.py", 20, 60),
    File("tests/triton_checks/check_recurrent.py", 32, 90, side_by_side=8),
    File("tests/triton_checks/check_recurrent_float32.py", 20, 60, side_by_side=8),
    File("tests/triton_checks/check_graph_streams.py", 10, 60),
    File("tests/triton_checks/check_general.py", 34, 90, side_by_side=8),
    File("tests/triton_checks/check_by_index.py", 15, 60),
    File("tests/triton_checks/check_conv.py", 30, 90, side_by_side=8),
    File("tests/triton_checks/check_sparse.py", 30, 90, side_by_side=8),
    File("tests/triton_checks/check_sparse_bytes.py", 20, 60),
    File("tests/triton_checks/check_sparse_choice.py", 20, 60),
    File("tests/gpu/test_numba_cuda.py", 12, 60),
    File("tests/runtime/test_interop.py", 20, 60, words=("-k", "itself")),  # of the others CuPy is a stand-in
    File("tests/gpu/test_gpu_timing.py", 15, 60),
)
"""The first ones are those that most figures stand on."""


def file_row(path: str, limit_s: float, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """passed, with counts and the names of what failed. Where the limit ends it, what had run until then, from its output."""
    side = next((f.side_by_side for f in FILES if f.path == path), 0)
    command = [sys.executable, "-m", "pytest", "-v", "--no-header", "--tb=short", "-p", "no:cacheprovider", *words]
    if side and importlib.util.find_spec("xdist") is not None:
        command += ["-n", str(min(side, len(os.sched_getaffinity(0))))]
    environment = {k: v for k, v in os.environ.items() if k not in OURS}
    with tempfile.TemporaryDirectory() as folder:
        report, log = Path(folder) / "report.xml", Path(folder) / "output"
        with log.open("wb") as output:
            started = subprocess.Popen(
                [*command, f"--junitxml={report}", path], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code: int | None = started.wait(limit_s)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
                code = None
        text = log.read_text(errors="replace")
        print(text[-200_000:])
        if code is None:
            return {**unfinished(text), "passed": False, "error": f"not done within {limit_s:g} s"}
        return judged(code, report, text)


def judged(code: int, report: Path, text: str) -> dict[str, Any]:
    """The row of a pytest that ended by itself."""
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        last = text.strip().splitlines()[-1:] or ["it said nothing"]
        return {**unfinished(text), "passed": False, "error": f"pytest ended with {code} and no report: {last[0]}"}
    bad = [
        f"{c.get('classname')}::{c.get('name')}"
        for c in cases
        if c.find("failure") is not None or c.find("error") is not None
    ]
    skipped = [c for c in cases if c.find("skipped") is not None]
    counts: dict[str, Any] = {
        "tests_passed": len(cases) - len(bad) - len(skipped), "tests_failed": len(bad), "tests_skipped": len(skipped),
        "failing": bad[:40],
    }  # fmt: skip
    if skipped:
        counts["skipped_for"] = sorted({str(c.find("skipped").get("message"))[:120] for c in skipped})[:5]  # type: ignore[union-attr]
    if bad or code not in (0, 5):
        return {**counts, "passed": False, "error": f"{len(bad)} failed" if bad else f"pytest ended with {code}"}
    if not counts["tests_passed"]:  # a file that checks nothing here must not look as if it had
        return {
            **counts,
            "outcome": "not run",
            "error": "no test ran: " + "; ".join(counts.get("skipped_for", ["none found"])),
        }
    return {**counts, "passed": True}


def unfinished(text: str) -> dict[str, Any]:
    """Counts from the lines of `pytest -v`."""
    ended = re.findall(
        r"(\S+::\S+.*?) (PASSED|FAILED|ERROR|SKIPPED)|(?:\[gw\d+\].*?) (PASSED|FAILED|ERROR|SKIPPED) (\S+)", text
    )
    pairs = [(b or c, a or d) for a, b, c, d in ended]
    bad = [name for word, name in pairs if word in ("FAILED", "ERROR")]
    return {
        "tests_passed": sum(word == "PASSED" for word, _ in pairs), "tests_failed": len(bad),
        "tests_skipped": sum(word == "SKIPPED" for word, _ in pairs), "failing": bad[:40],
    }  # fmt: skip
