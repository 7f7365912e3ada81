"""Threads of a compiled plan: the same bits for any number, no core kept busy, and no hang after fork or at exit."""

from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import impls
from rtaccel.core.stage import GraphIO, Problem, Stage, Value
from rtaccel.kernels._core.cpu import States, build
from tests.support.processes.run import PYTHON

CORES = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
counts = [pytest.param(n, marks=pytest.mark.skipif(len(CORES) < n, reason=f"needs {n} cores")) for n in (2, 3, 4)]


def network(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for k, n in pairwise(widths):
        layers += [nn.Linear(k, n), nn.GELU()]
    return nn.Sequential(*layers[:-1]).eval()


def workers() -> set[int]:
    """Thread ids of all workers of this process."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it ended meanwhile
            if (task / "comm").read_text() == "rtaccel\n":
                found.add(int(task.name))
    return found


def run_script(code: str, *arguments: str, python: Sequence[str] = PYTHON) -> str:
    """Runs a script on its own: what it prints, or the failure of a test."""
    done = subprocess.run(
        [*python, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


# Columns of a layer are shared, rows where there are few columns, or blocks of samples; with odd rests of each.
SHAPES = {
    "columns": ((1, 517), (517, 1061, 700)),
    "columns of some rows": ((7, 1034), (1034, 523, 300)),
    "blocks of a sequence": ((3, 701, 390), (390, 401, 33)),
    "blocks": ((133, 257), (257, 701, 300)),
    "blocks and a rest": ((32 * 4 + 17, 400), (400, 300)),
}


@pytest.mark.parametrize("threads", counts)
@pytest.mark.parametrize(
    ("shape", "scheme"), [*product(SHAPES, ["float32", "w8a8"]), ("columns of some rows", "dynamic")]
)
def test_bits_do_not_depend_on_threads(shape: str, scheme: str, threads: int) -> None:
    shapes, widths = SHAPES[shape]
    model, x = network(*widths), torch.randn(shapes)
    batches = [torch.randn(shapes)] if scheme == "w8a8" else None
    scheme = "w8a8" if scheme == "dynamic" else scheme
    one, many = (rt.compile(model, (x,), scheme, calibration=batches, threads=n) for n in (1, threads))
    plan = many._executor.native_plans[0]
    samples = x.shape[:-1].numel()
    assert max(plan.parts(stage, samples) for stage in range(-1, len(many.explain_lines(measure=False)))) > 1
    assert plan.running_threads == threads
    assert "threads" in many.explain(measure=False)
    out = torch.empty_like(one(x))
    for repeat in range(20):  # the first ones with the worker asleep
        x.normal_()
        if repeat == 7:
            x.view(-1, x.shape[-1])[-1, 3] = torch.inf
        many.run(x, out=out.fill_(7.0))
        assert torch.equal(one(x).nan_to_num(1e30), out.nan_to_num(1e30))
        assert (not out.isfinite().all()) == (repeat == 7)


@several
def test_other_batches_and_lone_calls() -> None:
    x = torch.randn(40, 300)
    one, two = (rt.compile(network(300, 700, 90), (x,), threads=n) for n in (1, 2))
    two.load_state_dict(one.state_dict())
    for rows in (0, 1, 2, 5, 31, 32, 33, 64, 65, 95, 96, 97, 201):
        x = torch.randn(rows, 300)
        time.sleep(0.002)  # the worker sleeps
        assert torch.equal(one(x), two(x))
        assert torch.equal(one(x), two(x))


@pytest.mark.parametrize("threads", counts)
@pytest.mark.parametrize("width", [24, 200])
@pytest.mark.parametrize("steps", [4001, 4002, 4007])
def test_rows_of_long_samples(steps: int, width: int, threads: int) -> None:
    """A sample of many steps is one block; its rows are shared, in the groups they have on one thread."""
    x, y = Value("x", 130, steps=steps), Value("y", width, steps=steps)
    stage = Stage("linear", "a", (x,), (y,), {"weight": torch.randn(width, 130), "bias": torch.randn(width)})
    ports = [GraphIO.matrix(x)], [GraphIO.matrix(y)]
    for kernel in [k.name for k in impls("cpu", "linear") if k.supports(Problem.of(stage, 1)) is None]:
        one, many = (build([(stage, kernel)], *ports, threads=n) for n in (1, threads))
        assert many.parts(0, 1) == threads
        for samples in (1, 2):
            given = torch.randn(samples, steps, 130)
            assert torch.equal(one.call((given,)), many.call((given,)))


def counting_plan(threads: int, samples: int) -> object:
    """y = gelu(W x) + s, s = y for each of `samples`: a state that every call reads and writes."""
    x, h, s, y = Value("x", 350), Value("h", 350), Value("s", 350), Value("y", 350)
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(350, 350, generator=generator) / 19, torch.randn(350, generator=generator)
    stages = [
        Stage("linear", "a", (x,), (h,), {"weight": weight, "bias": bias}, {"activation": "gelu"}),
        Stage("pointwise", "b", (h, s), (s,)),
        Stage("pointwise", "c", (s,), (y,)),
    ]
    states = States(frozenset({"s"}), samples)
    pairs = [(stage, "cpu_portable") for stage in stages]
    return build(pairs, [GraphIO.matrix(x)], [GraphIO.matrix(y)], states=states, threads=threads)


@several
@pytest.mark.parametrize("samples", [1, 9, 64, 103])
def test_states(samples: int) -> None:
    one, two = counting_plan(1, samples), counting_plan(2, samples)
    assert two.running_threads == 2
    assert one.state_bytes == two.state_bytes > samples * 350 * 4
    total, saved = torch.zeros(samples, 350), None
    for step in range(6):
        x = torch.randn(samples, 350)
        before = one.call((x,))
        assert torch.equal(before, two.call((x,)))
        assert one.save_state() == two.save_state()
        if step == 2:
            saved, total = two.save_state(), before.clone()
        if step == 4:
            first, count = samples // 3, samples - samples // 3
            one.reset(first, count)
            two.reset(first, count)
    x = torch.zeros(samples, 350)
    rise = (lambda y: y - total)(_after(two, saved, x))
    assert torch.equal(_after(one, saved, x), _after(two, saved, x))
    torch.testing.assert_close(rise, rise[:1].expand_as(rise), rtol=1e-3, atol=1e-4)  # gelu(bias), for every sample
    assert two.call((torch.zeros(samples + 1, 350),)) is None
    with pytest.raises(ValueError, match="another plan"):
        two.load_state(saved[:-1])
    with pytest.raises(IndexError):
        two.reset(1, samples)


def _after(plan: object, saved: bytes | None, x: Tensor) -> Tensor:
    plan.load_state(saved)  # type: ignore[attr-defined]
    return plan.call((x,))  # type: ignore[attr-defined]


@several
def test_small_plans_have_no_workers() -> None:
    gc.collect()  # plans of other tests, and their workers
    before = workers()
    small = rt.compile(network(16, 64, 8), (torch.randn(1, 16),), threads=2)
    assert workers() == before
    assert "no call is long enough" in small.explain(measure=False)


@several
def test_workers_are_pinned_sleep_when_idle_and_end_with_the_plan() -> None:
    before, count = workers(), min(len(CORES), 4)
    x = torch.randn(1, 600)
    fast = rt.compile(network(600, 900), (x,), threads=count)
    for _ in range(200):
        fast(x)
    deadline = time.monotonic() + 60
    while len(own := workers() - before) < count - 1 and time.monotonic() < deadline:
        time.sleep(0.01)  # a worker has its name when it runs for the first time
    assert len(own) == count - 1
    cores = [os.sched_getaffinity(worker) for worker in own]
    assert all(len(core) == 1 and core <= set(CORES) for core in cores)
    assert len(set.union(*cores)) == len(own)
    deadline = time.monotonic() + 60
    for worker in own:
        while (state := Path(f"/proc/self/task/{worker}/stat").read_text().rsplit(")", 1)[1].split()[0]) != "S":
            assert time.monotonic() < deadline, f"a worker of an idle plan is in state {state}"
            time.sleep(0.01)
    del fast
    gc.collect()
    assert not own & workers()


FORK = """
    import os, signal, torch, rtaccel as rt
    torch.set_num_threads(1)
    x = torch.randn(3, 500)
    model = torch.nn.Linear(500, 900).eval()
    fast = rt.compile(model, (x,), threads=2)
    out = fast(x)
    step = fast.bind(x, out=torch.empty(3, 900))
    for _ in range(300):
        step()
    plan = fast._executor.native_plans[0]
    for round in range(5):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            assert plan.running_threads == 1
            for _ in range(50):
                step()
                assert torch.equal(fast(x), out)
            if round % 2:
                fast.prefault()
                assert plan.running_threads == 2
                for _ in range(50):
                    assert torch.equal(fast(x), out)
                grandchild = os.fork()
                if grandchild == 0:
                    assert torch.equal(fast(x), out)
                    os._exit(0)
                assert os.waitpid(grandchild, 0)[1] == 0
            del step, fast, plan
            os._exit(0)
        for _ in range(50):
            step()
        assert os.waitpid(child, 0)[1] == 0
        assert plan.running_threads == 2
        assert torch.equal(fast(x), out)
    print("done")
"""


@several
def test_fork() -> None:
    assert run_script(FORK).endswith("done\n")


@several
def test_interpreter_exit() -> None:
    """While a worker looks out for work, and with a plan that nothing frees."""
    run_script(
        """
        import builtins, torch, rtaccel as rt
        x = torch.randn(1, 900)
        fast = rt.compile(torch.nn.Linear(900, 900).eval(), (x,), threads=2)
        step = fast.bind(x, out=torch.empty(1, 900))
        for _ in range(1000):
            step()
        builtins.kept = step
        """,
        python=[sys.executable],
    )


@several
def test_a_caller_on_the_core_of_a_worker() -> None:
    run_script(
        """
        import os, torch, rtaccel as rt
        cores = sorted(os.sched_getaffinity(0))
        x = torch.randn(1, 900)
        fast = rt.compile(torch.nn.Linear(900, 900).eval(), (x,), threads=2)
        y = fast(x)
        tasks = [int(task) for task in os.listdir("/proc/self/task")]
        worker, = [t for t in tasks if open(f"/proc/self/task/{t}/comm").read() == "rtaccel\\n"]
        seen = set()
        for core in (cores[0], cores[1]) * 3:
            os.sched_setaffinity(0, {core})
            for _ in range(20_000):
                fast.run(x, out=y)
                if core not in os.sched_getaffinity(worker):
                    break
            seen |= os.sched_getaffinity(worker) - {core}
        assert len(seen) == 2, seen
        """
    )


@pytest.mark.parametrize("threads", [0, -1, len(CORES) + 1, 1000, 1.0, "2", None, True])
def test_impossible_numbers(threads: object) -> None:
    with pytest.raises(rt.UnsupportedProblem, match="threads"):
        rt.compile(nn.Linear(4, 4).eval(), (torch.randn(1, 4),), threads=threads)  # type: ignore[arg-type]


@several
@pytest.mark.parametrize("backend", ["portable", "triton"])
def test_threads_are_for_native_plans(backend: str) -> None:
    with pytest.raises(rt.UnsupportedProblem, match="backend"):
        rt.compile(nn.Linear(4, 4).eval(), (torch.randn(1, 4),), threads=2, backend=backend)


@several
def test_max_batch_and_copies() -> None:
    x = torch.randn(40, 300)
    fast = rt.compile(network(300, 500), (x,), threads=2, max_batch=50)
    again = copy.deepcopy(fast)
    assert again._executor.native_plans[0].running_threads == 2
    assert torch.equal(fast(x), again(x))
    with pytest.raises(rt.ShapeError, match="max_batch"):
        fast(torch.randn(51, 300))
