"""Threads and processes: several models in several threads, one model a thread, fork and spawn, with the bits of one thread."""

from __future__ import annotations

import copy
import functools
import json
import multiprocessing
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree

from tests.generated.test_batches import COMMON
from tests.support import stages
from tests.support.compare import quiet
from tests.support.generators import streams
from tests.support.generators.count import case, examples
from tests.support.processes.run import PYTHON

USED = (
    ("mlp", "w8a8 static"),
    ("mixed", "float32"),
    ("with a torch call", "float32"),
    ("gru", "w8a8"),
    ("images", "float32"),
)
STREAM = {"kind": "lstm", "seed": 1, "features": 3, "width": 4, "layers": 1, "dilations": [1], "head": True, "streams": 2,
          "scheme": "w8a8"}  # fmt: skip


def equal(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True))


@functools.cache
def live() -> Any:
    return quiet(lambda: streams.streamed(STREAM))


@settings(max_examples=examples(12), **COMMON)
@given(st.integers(2, 6), st.booleans(), st.integers(0, 99))
def test_threads(count: int, one_each: bool, seed: int) -> None:
    """Every thread calls every model, or one of its own. A stream of its own goes along in each."""
    models = [stages.shared(name, scheme, 1) for name, scheme in USED]
    data = [[stages.inputs(name, seed + i, 1 + i % 3) for i in range(4)] for name, _ in USED]
    want = [[quiet(lambda m=m, x=x: m(x)) for x in xs] for m, xs in zip(models, data)]
    time_steps = streams.time_steps(STREAM, 8, seed)
    live().reset()
    steps = [live().step(x) for x in time_steps]
    live().reset()
    wrong: list[str] = []
    gate = threading.Barrier(count)

    def work(number: int) -> None:
        own = [copy.deepcopy(m) for m in models] if one_each else models
        stream = copy.deepcopy(live())
        gate.wait()
        with torch.no_grad():
            for turn in range(6):
                for k, model in enumerate(own):
                    i = (turn + number) % 4
                    if not equal(model(data[k][i]), want[k][i]):
                        wrong.append(f"{USED[k]} in thread {number}")
            for x, y in zip(time_steps, steps):
                if not torch.equal(stream(x), y):
                    wrong.append(f"the stream of thread {number}")

    def guarded(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            wrong.append(repr(error))
            gate.abort()

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    case("processes", count * (6 * len(models) + len(time_steps)))
    assert not wrong, wrong[:3]


def _everything(numbers: list[int]) -> list[Any]:
    found = []
    for name, scheme in USED:
        model = stages.shared(name, scheme, 1)
        for n in numbers:
            x = stages.inputs(name, n)
            found.append((name, [t.tolist() for t in pytree.tree_leaves(quiet(lambda m=model, x=x: m(x)))]))
    live().reset()
    return [*found, ("stream", [live().step(x).tolist() for x in streams.time_steps(STREAM, 6, 3)])]


def _in_child(numbers: list[int], result: Any) -> None:
    """Calls, bound calls and steps of models that were made before the fork."""
    try:
        torch.set_num_threads(1)
        for found in _everything(numbers):
            result.put(found)
        result.put(None)
    except BaseException as error:
        result.put(("error", repr(error)))
        result.put(None)


@pytest.mark.parametrize("children", [1, 3])
def test_fork(children: int) -> None:
    numbers = list(range(70, 70 + examples(8)))
    want = _everything(numbers)
    context = multiprocessing.get_context("fork")
    queues = [context.SimpleQueue() for _ in range(children)]
    started = [context.Process(target=_in_child, args=(numbers, queue)) for queue in queues]
    for process in started:
        process.start()
    for process, queue in zip(started, queues):
        got = list(iter(queue.get, None))
        process.join(60)
        case("processes", len(want))
        assert process.exitcode == 0
        assert got == want


SPAWNED = """
import json, sys, torch
from tests.support import stages
torch.set_num_threads(1)
found = json.load(sys.stdin)
for name, scheme, path, numbers in found:
    model = stages.build(name, scheme, 2)
    model.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        torch.save([model(stages.inputs(name, n)) for n in numbers], path + ".out")
"""


def test_a_state_in_another_process(tmp_path: Path) -> None:
    """Compiled anew elsewhere and loaded from a file: the same bits."""
    numbers, jobs = list(range(80, 80 + examples(8))), []
    for i, (name, scheme) in enumerate(USED):
        torch.save(stages.shared(name, scheme, 1).state_dict(), tmp_path / f"{i}.pt")
        jobs.append([name, scheme, str(tmp_path / f"{i}.pt"), numbers])
    done = subprocess.run(
        [*PYTHON, "-c", SPAWNED], input=json.dumps(jobs), capture_output=True, text=True, timeout=600,
        cwd=Path(__file__).parent.parent.parent, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for name, scheme, path, _ in jobs:
        case("processes", len(numbers))
        for n, got in zip(numbers, torch.load(f"{path}.out")):
            assert equal(got, quiet(lambda k=name, s=scheme, n=n: stages.shared(k, s, 1)(stages.inputs(k, n)))), name
