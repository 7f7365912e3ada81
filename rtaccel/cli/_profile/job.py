"""What a profiler is run on, and what those that start a process of their own have in common."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtaccel.core.errors import BackendUnavailable, UnsupportedProblem


@dataclass(frozen=True)
class Job:
    """words: target and compile options as on the command line, for another process. fast, inputs: the compiled model here.
    calls: how many are profiled. folder: for files, gone afterwards."""

    words: tuple[str, ...]
    fast: Any
    inputs: tuple[Any, ...]
    calls: int
    folder: Path

    @property
    def loop(self) -> list[str]:
        """The command that makes the calls, between cudaProfilerStart and cudaProfilerStop, in NVTX ranges."""
        return [sys.executable, "-m", "rtaccel.cli._profile.loop", *self.words, "--calls", str(self.calls)]


def no_cuda(tool: str) -> str | None:
    """None, or why a profiler of CUDA kernels has nothing to see here."""
    import torch

    if torch.cuda.is_available():
        return None
    return f"{tool} sees CUDA kernels, and torch {torch.__version__} finds no CUDA device here"


def require(name: str, reason: str | None, remedy: str) -> None:
    if reason is not None:
        raise BackendUnavailable(f"profile --with {name}", reason, "a machine where it can run", remedy)


def output_of(command: Sequence[str], what: str) -> str:
    """Standard output of a command. Raises UnsupportedProblem with the end of what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise UnsupportedProblem(what, f"exit code {done.returncode}", "a run that succeeds", f"It said: {said}")
    return done.stdout
