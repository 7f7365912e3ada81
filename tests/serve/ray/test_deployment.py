"""A cluster on this machine: scaling 1 -> 3 -> 1 under load without a lost request or state, and weights that are exchanged."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rtaccel as rt
from rtaccel.core.errors import FormatError, ShapeError

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of Serve that outlives the cluster would start another one
ray = pytest.importorskip("ray", reason="needs the package ray (extra 'ray')")
pytest.importorskip("ray.serve", reason="needs Ray Serve (extra 'ray')")

from rtaccel.serve.ray import Deployment, score  # noqa: E402
from rtaccel.serve.v2.refusals import UnknownSequence  # noqa: E402

FAST = {
    "metrics_interval_s": 0.1, "look_back_period_s": 0.6, "upscale_delay_s": 0.2, "downscale_delay_s": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20,
             runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})  # fmt: skip
    yield
    from ray import serve

    serve.shutdown()
    ray.shutdown()


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.GRU(3, 4, batch_first=True).eval()


def stream_file(folder: Path, seed: int = 0, streams: int = 8) -> Path:
    file = folder / f"gru{seed}.rta"
    rt.save(rt.stream(network(seed), torch.randn(streams, 3)), file)
    return file


def until(what: Any, seconds: float = 120.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)
    return found


class Load:
    """Threads that step streams without a pause, and hold each answer to a model of their own."""

    def __init__(self, deployment: Deployment, file: Path, name: str, streams: int) -> None:
        self.deployment, self.file, self.name = deployment, file, name
        self.steps, self.wrong = [0] * streams, []
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(streams)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        rng, alone, name = np.random.default_rng(number), rt.load(self.file), f"{self.name}-{number}"
        try:
            while not self._ends.is_set() or self.steps[number] < 3:
                x = rng.standard_normal((1, 3), np.float32)
                y = self.deployment.step(name, x, start=self.steps[number] == 0, timeout_s=120)
                np.testing.assert_allclose(y, alone.step(x, streams=[0]), rtol=0, atol=1e-5)
                self.steps[number] += 1
            self.deployment.step(name, x, end=True)
        except BaseException as error:
            self.wrong.append((name, self.steps[number], error))


def test_one_to_three_to_one_under_load(cluster: None, tmp_path: Path) -> None:
    """12 streams on replicas that hold 8: they are parked, they move, they are handed over, and no step is lost or wrong."""
    file = stream_file(tmp_path)
    with Deployment(file, replicas=(1, 3), target_ongoing=2, autoscaling=FAST, actor_options={"num_cpus": 0.5}) as made:
        with Load(made, file, "steady", 2) as steady:  # these go on from the beginning to the end
            assert len(until(lambda: made.stats()["replicas"])) == 1
            with Load(made, file, "more", 10) as more:
                until(lambda: len(made.stats()["replicas"]) == 3)
                reached = sum(more.steps)
                # The router learns of a replica later than the registry does, so no number of steps is enough.
                until(lambda: more.wrong or (len(made.stats()["streams"]) > 1 and sum(more.steps) > reached + 100))
            until(lambda: len(made.stats()["replicas"]) == 1)
            reached = sum(steady.steps)
            until(lambda: steady.wrong or sum(steady.steps) > reached + 20)
        for load in (steady, more):
            assert load.wrong == []
            assert min(load.steps) >= 3
        stats = made.stats()
        assert stats["moves"] > 0
        assert (stats["lost"], stats["parked"], stats["streams"]) == (0, 0, {})
        with pytest.raises(UnknownSequence, match="has not begun"):
            made.step("steady-0", np.ones((1, 3), np.float32))


def test_weights_are_exchanged_everywhere_or_nowhere(cluster: None, tmp_path: Path) -> None:
    first, second = stream_file(tmp_path, 0), stream_file(tmp_path, 1)
    x = np.ones((1, 3), np.float32)
    with Deployment(first, replicas=(2, 2), actor_options={"num_cpus": 0.5}) as made:
        until(lambda: len(made.stats()["replicas"]) == 2)
        alone = {name: rt.load(first) for name in "abcdef"}
        for name, model in alone.items():
            np.testing.assert_array_equal(made.step(name, x, start=True), model.step(x, streams=[0]))
        assert len(made.stats()["streams"]) <= 2
        with pytest.raises(FormatError, match="a check that holds"):
            made.swap(second, canary=(x,), check=lambda y: False)
        for name, model in alone.items():
            np.testing.assert_array_equal(made.step(name, x), model.step(x, streams=[0]))
        assert made.swap(second, canary=(x,), check=lambda y: y.shape == (1, 4)) == 1
        for name, model in alone.items():  # the past goes on, with other weights
            model.swap(second)
            np.testing.assert_array_equal(made.step(name, x), model.step(x, streams=[0]))
        other = tmp_path / "other.rta"
        rt.save(rt.stream(torch.nn.GRU(3, 5, batch_first=True).eval(), torch.randn(8, 3)), other)
        with pytest.raises(FormatError, match="same model"):
            made.swap(other, canary=(x,))
        with pytest.raises(ShapeError):
            made.step("a", np.ones((1, 4), np.float32))
        with pytest.raises(ShapeError):
            made.step("", x)
        for name, model in alone.items():
            np.testing.assert_array_equal(made.step(name, x), model.step(x, streams=[0]))
        assert made.stats()["version"] == 1


def test_scoring_a_data_set(cluster: None, tmp_path: Path) -> None:
    pytest.importorskip("pandas", reason="Ray Data needs pandas")
    pytest.importorskip("pyarrow", reason="Ray Data needs pyarrow")
    torch.manual_seed(0)
    rt.save(rt.compile(torch.nn.Linear(6, 2).eval(), torch.randn(1, 6)), tmp_path / "net.rta")
    x = np.random.default_rng(0).standard_normal((1000, 6), np.float32)
    scored = score(ray.data.from_numpy(x), tmp_path / "net.rta", "data", batch_size=128)
    rows = scored.take_all()
    order = {row["data"].tobytes(): row["score"] for row in rows}
    assert len(rows) == 1000
    expected = rt.load(tmp_path / "net.rta")(x)
    np.testing.assert_allclose(np.stack([order[row.tobytes()] for row in x]), expected, rtol=0, atol=1e-5)
    with pytest.raises(ShapeError):
        score(ray.data.from_numpy(x), tmp_path / "net.rta", ("a", "b"))
