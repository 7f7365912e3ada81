"""A loop over models from a file: every place that a model has in it, streams, what is refused, and no torch."""

from __future__ import annotations

import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError, UnsupportedProblem
from tests.support.processes.run import PYTHON

SLACK = {"period_us": 2000, "deadline_us": 2000, "max_age_us": 60e6, "on_miss": "late"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the system refused.*")
        yield


def mlp(seed: int = 3, inputs: int = 7, outputs: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 33), nn.ReLU(), nn.Linear(33, outputs)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("files")
    rt.save(rt.compile(mlp(), torch.randn(1, 7)), made / "mlp.rta")
    rt.save(rt.compile(mlp(4), torch.randn(1, 7)), made / "other.rta")
    rt.save(rt.compile(mlp(5, 7, 7), torch.randn(1, 7)), made / "next.rta")
    torch.manual_seed(0)
    rt.save(rt.stream(nn.GRU(7, 5, batch_first=True).eval(), torch.randn(1, 7)), made / "gru.rta")
    table = nn.Sequential(nn.Embedding(9, 5), nn.Flatten())
    rt.save(rt.compile(table.eval(), torch.zeros(1, 1, dtype=torch.long)), made / "table.rta")
    return made


def slots() -> tuple[Any, Any]:
    return rt.Latest((7,)), rt.Latest((5,))


def fresh(y: Any, stamp_ns: int) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        got = y.get()
        if got.status != "none" and got.stamp_ns == stamp_ns:
            return np.array(got.value)
    raise AssertionError("no result came")


def until_cycles(loop: Any, more: int) -> None:
    end, wanted = time.monotonic() + 60, loop.stats().cycles + more
    while loop.stats().cycles < wanted:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_model_itself(folder: Path) -> None:
    model, (x, y) = rt.load(folder / "mlp.rta"), slots()
    with rt.Loop(model, x, y, **SLACK) as loop:
        for _ in range(10):
            value, stamp = np.random.default_rng().standard_normal(7).astype(np.float32), time.monotonic_ns()
            x.put(value, stamp_ns=stamp)
            got = fresh(y, stamp)
        bound = model.bind(value[None], out=np.empty((1, 5), np.float32))
        for call in (
            lambda: model(value[None]),
            bound,
            lambda: model.run(value[None], out=np.empty((1, 5), np.float32)),
            model.save_state,
        ):
            with pytest.raises(UnsupportedProblem, match="running loop"):
                call()
    assert np.array_equal(got, model(value[None])[0])  # the same bits, and it is free again
    assert loop.stats().fresh > 0


def test_a_batch_as_the_slot_has_it(folder: Path) -> None:
    model, x, y = rt.load(folder / "mlp.rta"), rt.Latest((4, 7)), rt.Latest((4, 5))
    value = np.random.default_rng(1).standard_normal((4, 7)).astype(np.float32)
    with rt.Loop(model, x, y, **SLACK):
        stamp = time.monotonic_ns()
        x.put(value, stamp_ns=stamp)
        got = fresh(y, stamp)
    assert np.array_equal(got, model(value))


def test_a_stream_goes_on_step_by_step(folder: Path) -> None:
    """on_old="hold": one step for each value; warm runs leave the past as it was."""
    live, alone, (x, y) = rt.load(folder / "gru.rta"), rt.load(folder / "gru.rta"), slots()
    with rt.Loop(live, x, y, on_old="hold", spin_us=500, **SLACK) as loop:
        for n in range(20):
            value, stamp = np.full(7, 0.1 * n, np.float32), time.monotonic_ns()
            x.put(value, stamp_ns=stamp)
            assert np.array_equal(fresh(y, stamp), alone.step(value[None])[0])
        with pytest.raises(UnsupportedProblem, match="running loop"):
            live.reset()
        with pytest.raises(UnsupportedProblem, match="running loop"):
            live.save_stream(0)
    assert live.save_state() == alone.save_state()
    assert loop.stats().overwritten == 0


def test_a_gap_resets_a_stream(folder: Path) -> None:
    live, (x, y) = rt.load(folder / "gru.rta"), slots()
    options = {**SLACK, "max_age_us": 20_000, "on_gap": "reset", "on_old": "hold"}
    value = np.ones(7, np.float32)
    with rt.Loop(live, x, y, **options) as loop:
        first = time.monotonic_ns()
        x.put(value, stamp_ns=first)
        began = fresh(y, first)
        while loop.stats().stale == 0:
            time.sleep(0.001)
        again = time.monotonic_ns()
        x.put(value, stamp_ns=again)
        after = fresh(y, again)
    assert np.array_equal(began, after)


def test_fallback_forecast_and_another_rate(folder: Path) -> None:
    small, (x, y) = rt.load(folder / "other.rta"), slots()
    long_ago, value = time.monotonic_ns() - 120_000_000_000, np.random.default_rng(2).random(7, np.float32)
    x.put(value, stamp_ns=long_ago)
    loop = rt.Loop(rt.load(folder / "mlp.rta"), x, y, on_stale="fallback", fallback=small, **SLACK)
    slow, slow_out = rt.load(folder / "gru.rta"), rt.Latest((5,))
    with loop.every(4, slow, write=slow_out):
        got = fresh(y, long_ago)
        fresh(slow_out, long_ago)
        with pytest.raises(UnsupportedProblem, match="running loop"):
            small(value[None])
        with pytest.raises(UnsupportedProblem, match="running loop"):
            slow.step(value[None])
    assert np.array_equal(got, small(value[None])[0])
    ahead, model = rt.load(folder / "next.rta"), rt.load(folder / "mlp.rta")
    with rt.Loop(model, x, y, on_stale="forecast", forecast=ahead, **SLACK) as loop:
        until_cycles(loop, 4)
    assert loop.stats().forecast > 0
    inputs = [value[None]]
    for _ in range(500):
        inputs.append(ahead(inputs[-1]))
    last = np.array(y.get().value)
    assert any(np.array_equal(last, model(one)[0]) for one in inputs[1:])


def test_weights_are_exchanged_while_it_runs(folder: Path) -> None:
    model, other, (x, y) = rt.load(folder / "mlp.rta"), rt.load(folder / "other.rta"), slots()
    value = np.ones(7, np.float32)
    with rt.Loop(model, x, y, **SLACK) as loop:
        x.put(value)
        until_cycles(loop, 2)
        model.swap(folder / "other.rta")
        until_cycles(loop, 3)
        stamp = time.monotonic_ns()
        x.put(value, stamp_ns=stamp)
        got = fresh(y, stamp)
    assert np.array_equal(got, other(value[None])[0])


def test_one_model_in_two_loops_is_refused(folder: Path) -> None:
    model = rt.load(folder / "mlp.rta")
    first, second = (rt.Loop(model, *slots(), **SLACK) for _ in range(2))
    with first, pytest.raises(UnsupportedProblem, match="another one"):
        second.start()
    model(np.zeros((1, 7), np.float32))  # free
    with rt.Loop(model, *slots(), **SLACK):
        pass
    both = rt.Loop(model, *slots(), on_stale="fallback", fallback=model, **SLACK)  # they take turns
    with both, pytest.raises(UnsupportedProblem, match="running loop"):
        model(np.zeros((1, 7), np.float32))
    model(np.zeros((1, 7), np.float32))


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    model, (x, y) = rt.load(folder / "mlp.rta"), slots()
    for read, write in ((rt.Latest((6,)), y), (x, rt.Latest((4,))), (rt.Latest((7,), "float64"), y)):
        with pytest.raises(ShapeError):
            rt.Loop(model, read, write, **SLACK)
    with pytest.raises(ShapeError):
        rt.Loop(rt.load(folder / "gru.rta"), rt.Latest((2, 7)), rt.Latest((2, 5)), **SLACK)  # one stream
    with pytest.raises(ShapeError):
        rt.Loop(model, x, rt.Latest((7,)), post=rt.load(folder / "mlp.rta"), **SLACK)


def test_an_input_that_it_refuses_ends_the_loop(folder: Path) -> None:
    model, x, y = rt.load(folder / "table.rta"), rt.Latest((1,), "int64"), rt.Latest((5,))
    loop = rt.Loop(model, x, y, **SLACK).start()
    x.put(np.array([9]))
    with pytest.raises(FormatError, match="9"):
        loop.join(60)
    model(np.array([[8]]))


SCRIPT = """
import sys
sys.modules["torch"] = None  # as where it is not installed
import time
import numpy as np
import rtaccel as rt

folder = sys.argv[1]
x, y, slow = rt.Latest((7,)), rt.Latest((5,)), rt.Latest((5,))
model, small, ahead, live = (rt.load(f"{folder}/{n}.rta") for n in ("mlp", "other", "next", "gru"))
loop = rt.Loop(model, {"input": x}, y, on_stale="forecast", forecast=ahead, max_age_us=60e6, name=None, priority=None)
loop.every(2, live, write=slow)
backup = rt.Loop(small, rt.Latest((7,)), rt.Latest((5,)), on_stale="fallback", fallback=rt.load(f"{folder}/mlp.rta"),
                 deadline_us=1000)
value = np.linspace(-1, 1, 7, dtype=np.float32)
with loop, backup:
    x.put(value)
    end = time.monotonic() + 60
    while (got := y.get()).status == "none" or slow.get().status == "none":
        assert time.monotonic() < end
    result = np.array(got.value)
    try:
        model(value[None])
        raise SystemExit("not refused")
    except rt.UnsupportedProblem:
        pass
assert np.array_equal(result, model(value[None])[0])
assert loop.stats().cycles > 0
twice = rt.Loop(lambda v: v * 2, rt.Latest((3,)), rt.Latest((3,)))
with twice:
    pass
world = rt.realtime.Simulation(box := rt.Latest((2,), "int64"), produce_us=1000)
simulated = rt.Loop(world.model(), box, rt.Latest((2,), "int64"), simulation=world)
simulated.run(1000)
assert simulated.stats().fresh == world.counts()["fresh"]
print(sys.modules["torch"], result.tobytes().hex())
"""


def test_without_torch(folder: Path) -> None:
    name = rt.load(folder / "mlp.rta").inputs[0][0]
    script = SCRIPT.replace('"input"', repr(name))
    done = subprocess.run(
        [*PYTHON, "-W", "ignore", "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    none, result = done.stdout.split()
    assert none == "None"
    value = np.linspace(-1, 1, 7, dtype=np.float32)
    assert result == rt.load(folder / "mlp.rta")(value[None])[0].tobytes().hex()
