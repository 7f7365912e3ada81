"""A wheel of this checkout, made once for all tests that look at it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workers of xdist share it: the first builds, the others wait for it."""
    for module in ("scikit_build_core", "nanobind"):
        pytest.importorskip(module, reason=f"{module} is needed to build a wheel here (pip install 'rtaccel[dev]')")
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "wheel"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = next(folder.glob("rtaccel-*.whl"), None)
        return found if found is not None else _build(folder)


def _build(folder: Path) -> Path:
    # In the build folder of the environment, where one is: what has not changed is not compiled again.
    options = ["--no-deps", "--no-build-isolation", "-w", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(folder.glob("rtaccel-*.whl"))
