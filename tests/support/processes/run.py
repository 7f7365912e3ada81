"""Commands of tests that import torch: `[*PYTHON, "-c", code]` in the place of `[sys.executable, "-c", code]`.

The first of a run starts a server, and the others are forked from it: each saves the import of torch. A test of what is imported,
of the memory of a process, of its first moments or of its end takes sys.executable.
"""

from __future__ import annotations

import marshal
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "RTACCEL_TEST_PROCESSES"
CLIENT = Path(__file__).with_name("client.py")
PYTHON = [sys.executable, "-I", "-S", str(CLIENT)]

SHIM = """#!/bin/sh
exec "{python}" -I -S "{client}" {words} "$@"
"""


def programs(folder: Path) -> Path:
    """A folder for PATH: `python` and `rtaccel` as commands of a shell."""
    folder.mkdir(exist_ok=True)
    for name, words in (("python", ""), ("rtaccel", "-m rtaccel.cli.main")):
        path = folder / name
        path.write_text(SHIM.format(python=sys.executable, client=CLIENT, words=words))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def keep_environment() -> None:
    """That of this process is the server's: the first command may have one of its own. Each process of a run says it."""
    folder = Path(os.environ[FOLDER])
    own = folder / f"environment.{os.getpid()}"
    own.write_bytes(marshal.dumps(dict(os.environ)))
    own.replace(folder / "environment")


@contextmanager
def of_a_run() -> Iterator[None]:
    """Around a whole run of tests, in its first process. The server ends with it."""
    folder = Path(tempfile.mkdtemp(prefix="rtaccel-tests-"))
    (folder / "pid").write_text(str(os.getpid()))
    os.environ[FOLDER] = str(folder)
    keep_environment()
    try:
        yield
    finally:
        del os.environ[FOLDER]
        shutil.rmtree(folder, ignore_errors=True)
