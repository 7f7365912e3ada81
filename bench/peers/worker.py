"""The process of one runner: converts if it must, loads, then times calls when its turn comes.

    python -m bench.peers.worker convert|time PEER MODEL FOLDER KEY [CORE]

It answers in lines of JSON on the pipe that was its standard output; what the runtimes print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TextIO

import numpy as np

from bench.peers.base import Data, Job, LeftOut, Peer, Runner
from bench.peers.registry import kit, missing, missing_tools, peers, versions

COLD_BYTES = 64 << 20


def converted(peer: Peer, job: Job, key: str) -> dict[str, Any]:
    """The record of a conversion, from the cache where neither the network, the versions nor the code's revision changed.

    Where the tools to convert are not installed, a file made with any version of them will do.
    """
    module = kit(peer.kit)
    absent = missing_tools(peer)
    wanted: dict[str, Any] = {"key": key, "revision": getattr(module, "REVISION", 0)}
    if not absent:
        wanted["versions"] = versions(peer)
    stamp = job.file(f"{peer.name}.json")
    if stamp.exists():
        record: dict[str, Any] = json.loads(stamp.read_text())
        if all(record.get(name) == value for name, value in wanted.items()):
            return record
    record = {**wanted, "left_out": None}
    if absent:
        return record | {"left_out": f"not installed: {', '.join(absent)}"}
    start = time.perf_counter()
    try:
        module.convert(job, peer.variant)
    except LeftOut as reason:
        record["left_out"] = str(reason)
    except Exception as error:  # what another project's converter raises is a result here, and is reported
        record["left_out"] = f"conversion failed: {summary(error)}"
    record["seconds"] = round(time.perf_counter() - start, 1)
    stamp.write_text(json.dumps(record, indent=1) + "\n")
    return record


def summary(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def error_of(runner: Runner, data: Data) -> float:
    """rms of the difference to torch float32 over rms of torch's output; a recurrent network keeps its own states."""
    states, outputs = data.states, []
    for x in data.x:
        y, *after = runner.step(x, *states)
        states = tuple(after)
        outputs.append(np.asarray(y, np.float64).reshape(data.want.shape[1:]))
    want = data.want.astype(np.float64)
    return float(np.sqrt(np.square(np.stack(outputs) - want).mean() / np.square(want).mean()))


def sample(call: Callable[[], object], calls: int, warm: int) -> list[int]:
    clock = perf_counter_ns
    for _ in range(warm):
        call()
    taken = [0] * calls
    for i in range(calls):
        start = clock()
        call()
        taken[i] = clock() - start
    return taken


def sample_cold(call: Callable[[], object], calls: int) -> list[int]:
    """64 MiB are read before every call: weights, code and the interpreter's own data leave the caches of the core."""
    clock = perf_counter_ns
    other = np.ones(COLD_BYTES // 8)
    taken = [0] * calls
    for i in range(calls):
        other.sum()
        start = clock()
        call()
        taken[i] = clock() - start
    return taken


def serve(peer: Peer, job: Job, commands: TextIO, replies: TextIO) -> None:
    try:
        if absent := missing(peer):
            raise LeftOut(f"not installed: {', '.join(absent)}")
        runner = kit(peer.kit).load(job, peer.variant)
        error = error_of(runner, job.data())
        estimate = min(sample(runner.call, 20, 3))
    except LeftOut as reason:
        reply(replies, {"left_out": str(reason)})
        return
    except Exception as failure:  # what another project's runtime raises is a result here, and is reported
        reply(replies, {"left_out": f"failed: {summary(failure)}"})
        return
    reply(replies, {"error": error, "estimate_ns": estimate, "note": runner.note, "versions": versions(peer)})
    answer_turns(runner, commands, replies)


def reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def answer_turns(runner: Runner, commands: TextIO, replies: TextIO) -> None:
    """Times a round for each line that asks for one, until there are no more."""
    gc.collect()
    gc.disable()
    for line in commands:
        asked = json.loads(line)
        calls, warm = asked["calls"], asked["warm"]
        if asked["cold"]:
            reply(replies, {"ns": sample_cold(runner.call, calls)})
            continue
        taken = sample(runner.call, calls, warm)
        forms = {name: sample(call, calls, warm) for name, call in runner.forms.items()}
        reply(replies, {"ns": taken, "forms": forms})


def settle(core: Sequence[str]) -> TextIO:
    """One thread, on this core where one is given; returns where to write answers. What runtimes print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    if core:
        os.sched_setaffinity(0, {int(core[0])})
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(variable, "1")
    return replies


def main() -> None:
    what, name, model, folder, key, *core = sys.argv[1:]
    replies = settle(core)
    peer, job = peers()[name], Job(model, Path(folder))
    if what == "convert":
        replies.write(json.dumps(converted(peer, job, key)) + "\n")
        replies.flush()
    else:
        serve(peer, job, sys.stdin, replies)


if __name__ == "__main__":
    main()
