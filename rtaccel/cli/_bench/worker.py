"""The process of one version: makes what it is told to, then times calls when its turn comes.

    python worker.py ROOT CORE < requests > replies        (lines of JSON)

ROOT: a folder whose `rtaccel` is the version to run, or "-" for the one that this Python finds. The suite is always that of
the version this file belongs to, so that both sides are asked for the same work.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TextIO

CLI = Path(__file__).resolve().parents[1]


def use_version(root: str) -> str:
    """Imports rtaccel from `root` and the suite of this file's version; gives where rtaccel came from.

    An editable install finds its package through a finder that comes before sys.path: it is put aside.
    """
    if root != "-":
        sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuildRedirectingFinder" not in type(f).__name__]
        sys.path.insert(0, root)
    rtaccel = importlib.import_module("rtaccel")
    where = str(Path(rtaccel.__file__ or "").resolve().parent)
    if root != "-" and where != str((Path(root) / "rtaccel").resolve()):
        raise ImportError(f"rtaccel was found in {where}, not in {root}")
    for name in ("_common", "_common.cases", "_common.target", "_bench", "_bench.suite"):
        path = CLI / name.replace(".", "/")
        _load(f"rtaccel.cli.{name}", path / "__init__.py" if path.is_dir() else path.with_suffix(".py"))
    return where


def _load(name: str, path: Path) -> None:
    package, _, stem = name.rpartition(".")
    parent = importlib.import_module(package)
    search = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=search)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    setattr(parent, stem, module)
    spec.loader.exec_module(module)


def sample(call: Callable[[], object], calls: int, warm: int) -> list[int]:
    for _ in range(warm):
        call()
    taken = [0] * calls
    for i in range(calls):
        start = perf_counter_ns()
        call()
        taken[i] = perf_counter_ns() - start
    return taken


def serve(requests: TextIO, reply: Callable[[dict[str, Any]], None]) -> None:
    """{"items": words, "shapes": file, "options": {...}} -> {"names": ...}. {"make": name} -> {"estimate_ns": ...} or
    {"left_out": reason}. {"time": name, "calls": n} -> {"ns": [...]}."""
    import torch

    from rtaccel.cli._bench.suite import items

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    known: dict[str, Any] = {}
    made: dict[str, Callable[[], object]] = {}
    gc.disable()
    for line in requests:
        asked = json.loads(line)
        try:
            if "items" in asked:
                shapes = Path(asked["shapes"]) if asked["shapes"] else None
                known = {i.name: i for i in items(asked["items"], shapes, argparse.Namespace(**asked["options"]))}
                reply({"names": list(known)})
            elif "make" in asked:
                made = {asked["make"]: known[asked["make"]].make()[0]}  # one at a time: caches are as in use
                reply({"estimate_ns": min(sample(made[asked["make"]], 20, 3))})
            else:
                calls = asked["calls"]
                reply({"ns": sample(made[asked["time"]], calls, max(2, calls // 10))})
        except Exception as error:  # what a version or a model raises is a result, and is reported
            reply({"left_out": f"{type(error).__name__}: {error}"})


def main() -> None:
    root, core = sys.argv[1:]
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what models and libraries print
    os.sched_setaffinity(0, {int(core)})
    sys.path[0] = os.getcwd()  # not this folder, whose files have common names

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        where = use_version(root)
    except Exception as error:
        reply({"left_out": f"{type(error).__name__}: {error}"})
        return
    reply({"rtaccel": where})
    serve(sys.stdin, reply)


if __name__ == "__main__":
    main()
