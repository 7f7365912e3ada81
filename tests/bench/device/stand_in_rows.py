"""Rows that do to their process what a card can: they hang, crash, corrupt the context, fill the memory, leave children behind.

For `python -m bench.device --rows tests.bench.device.stand_in_rows:FUNCTION`. The folder $STAND_INS is where they leave notes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.device.row import Row
from rtaccel.core.errors import UnsupportedProblem

HERE = "tests.bench.device.stand_in_rows"
_spoiled = False


def notes() -> Path:
    return Path(os.environ["STAND_INS"])


def good(value: float = 2.0) -> dict[str, Any]:
    if _spoiled:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return {"p50_us": value, "p99_us": value, "process": os.getpid()}


def two() -> Iterator[dict[str, Any]]:
    yield {"name": "first of two", **good(1.0)}
    yield {"name": "second of two", **good(3.0)}


def one_and_hang() -> Iterator[dict[str, Any]]:
    yield {"name": "came before the hang", **good()}
    hang()


def hang() -> dict[str, Any]:
    (notes() / f"hangs-{os.getpid()}").touch()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("about to hang", flush=True)
    time.sleep(600)
    return {}


def abort() -> dict[str, Any]:
    os.abort()


def fault() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def leave() -> dict[str, Any]:
    os._exit(3)


def corrupt() -> dict[str, Any]:
    global _spoiled
    _spoiled = True
    return good()


def fill() -> dict[str, Any]:
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fill_host() -> dict[str, Any]:
    raise MemoryError


def refuse() -> dict[str, Any]:
    raise UnsupportedProblem("persistent", "a wide layer", "a narrow one", "Use mode='graph'.")


ESCAPES = """
import os, pathlib, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(600)
"""


def escape(name: str, then_hang: bool) -> dict[str, Any]:
    """Starts a process that leaves its session and loses its parent."""
    where = notes() / name
    subprocess.run([sys.executable, "-c", ESCAPES, str(where)], check=True)
    while not where.exists() or not where.read_text():
        time.sleep(0.01)
    return hang() if then_hang else good()


def keeps_a_child(name: str) -> dict[str, Any]:
    """Starts a process, stays its parent, and is done before it is."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (notes() / name).write_text(str(started.pid))
    return good()


def is_gone(name: str) -> dict[str, Any]:
    """Whether the process that escaped no longer runs when the next row does."""
    return {"passed": not Path("/proc", (notes() / name).read_text()).exists()}


def slow_build() -> dict[str, Any]:
    (notes() / f"builds-{os.getpid()}").touch()
    time.sleep(600)
    return {}


def quick_build() -> dict[str, Any]:
    with (notes() / "built").open("a") as file:
        file.write(os.environ.get("CUDA_VISIBLE_DEVICES", "unset") + "\n")
    return {"passed": True, "kernels": 1, "built": 1}


def broken_build() -> dict[str, Any]:
    os.abort()


def checked(passes: bool) -> dict[str, Any]:
    return {"passed": passes, **({} if passes else {"error": "another number"})}


def needs_fresh() -> dict[str, Any]:
    spec = sys.modules["__main__"].__spec__
    if spec is None or spec.name != "bench.device.worker":
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
    return {"passed": True}


def needs_no_store() -> dict[str, Any]:
    if os.environ["RTACCEL_KERNELS"] != os.devnull:
        raise RuntimeError("a stored kernel cannot be launched")
    return {"passed": True}


def row(name: str, function: str, family: str = "", limit_s: float = 20.0, **more: Any) -> Row:
    more.setdefault("estimate_s", 0.1)
    return Row(name, f"{HERE}:{function}", family=family, limit_s=limit_s, **more)


def everything() -> list[Row]:
    """Every way to fail, with rows between them that must come through."""
    return [
        row("early", "good", early=True),
        row("good 1", "good", "a", prepare=f"{HERE}:quick_build"),
        row("good 2", "good", "a", prepare=f"{HERE}:quick_build"),
        row("refused", "refuse", "a"),
        row("good 3", "good", "a", prepare=f"{HERE}:broken_build"),
        row("hangs", "hang", "a", 0.6),
        row("good 4", "good", "a", prepare=f"{HERE}:slow_build"),
        row("aborts", "abort", "a"),
        row("faults", "fault", "a"),
        row("leaves", "leave", "a"),
        row("corrupts", "corrupt", "a"),
        row("corrupted", "good", "a"),
        row("good 5", "good", "a"),
        row("fills", "fill", "a"),
        row("fills the host", "fill_host", "a"),
        row("first of two", "two", "b", more=("second of two",)),
        row("came before the hang", "one_and_hang", "b", 0.6, more=("never came",)),
        row("leaves a child", "escape", "c", arguments={"name": "orphan", "then_hang": False}),
        row("the child is gone", "is_gone", "c", arguments={"name": "orphan"}, check=True),
        row("hangs with a child", "escape", "c", 3.0, arguments={"name": "escaped", "then_hang": True}),
        row("that child is gone", "is_gone", "c", arguments={"name": "escaped"}, check=True),
        row("keeps a child", "keeps_a_child", "c", arguments={"name": "kept"}),
        row("its child is gone", "is_gone", "c", arguments={"name": "kept"}, check=True),
        row("wrong", "checked", arguments={"passes": False}, check=True),
        row("no such function", "nothing_here"),
        row("too long for the time that is left", "good", estimate_s=1e5),
        row("last", "good"),
    ]


def canaries() -> list[Row]:
    return [
        row("can be forked", "needs_fresh", "a", early=True, canary="fork"),
        row("store", "needs_no_store", "a", canary="store"),
        row("after", "needs_fresh", "a"),
    ]


def waits() -> list[Row]:
    return [row("quick", "good", early=True), row("waits", "hang", limit_s=60), row("never", "good")]
