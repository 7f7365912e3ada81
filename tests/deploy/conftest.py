"""A small C program over the installed library, and models as files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import rtaccel._native as native

HERE = Path(__file__).parent
INSTALLED = Path(native.__file__).parent


@pytest.fixture(scope="session")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    target = tmp_path_factory.mktemp("c") / "program"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", f"-I{INSTALLED / 'include'}"]
    link = [f"-L{INSTALLED}", "-lrtaccel", f"-Wl,-rpath,{INSTALLED}"]
    done = subprocess.run(
        ["cc", *flags, str(HERE / "program.c"), *link, "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def in_c(c_program: Path, tmp_path: Path) -> Callable[..., bytes]:
    """(file, arrays of each call) -> the bytes of all outputs, call by call."""

    def run(file: Path, calls: Sequence[Sequence[np.ndarray]], samples: int) -> bytes:
        names = []
        for i in range(len(calls[0])):
            names.append(tmp_path / f"input{i}")
            names[-1].write_bytes(b"".join(np.ascontiguousarray(call[i]).tobytes() for call in calls))
        command = [str(c_program), str(file), str(samples), str(len(calls)), *map(str, names)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run
