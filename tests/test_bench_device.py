"""`python -m bench.device`: what it does without a GPU, and the logic of its parts on a card that a thread plays."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from bench import device, device_goals, device_sparse, device_streams
from bench import device_peers as peers
from bench import device_resident as resident
from bench import device_sanitizer as sanitizer
from bench.device_report import failures, render
from bench.device_rows import Clock
from rtaccel.core.errors import BackendUnavailable
from rtaccel.runtime import cuda_resident
from rtaccel.runtime.compiled import CompiledModel
from rtaccel.runtime.options import Options
from tests.pretended_kernel import PretendedCard

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and this would measure on it")
def test_without_a_gpu_it_says_so_and_ends_well() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "bench.device"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "No GPU to measure" in done.stdout
    assert "GPU figures stay open" in done.stdout


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedCard]:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    made = PretendedCard()
    monkeypatch.setattr(cuda_resident, "resident_device", lambda: made)
    monkeypatch.setattr(cuda_resident, "TIMEOUT_NS", 20_000_000_000)
    yield made
    for kernel in made.kernels:
        kernel._control[0] = 1


class Maker:
    """Models on a kernel that a thread plays."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
        self.calibration = [torch.randn(64, 8)]
        self.made = 0

    def __call__(self) -> Any:
        self.made += 1
        x = torch.randn(1, 8)
        plain: Any = rt.compile(self.model, (x,), backend="portable", scheme="w8a8", calibration=self.calibration)
        return CompiledModel(
            plain._program, Options(1, "cpu", None, 1, "Net", mode="persistent"), plain._argument_names
        )


def test_every_start_is_followed_by_a_stop(card: PretendedCard) -> None:
    make = Maker()
    assert resident.start_and_stop(make, 8, 5) == {"name": "start and stop, 5 times", "passed": True}
    assert make.made == len(card.kernels) == 5
    assert all(kernel.finished() for kernel in card.kernels)


def test_a_start_that_fails_or_answers_otherwise_is_told(card: PretendedCard) -> None:
    make = Maker()

    def changes() -> Any:
        if make.made == 2:
            make.model[0].bias.data += 1
        return make()

    assert "at 2: another answer" in resident.start_and_stop(changes, 8, 4)["error"]

    def refuses() -> Any:
        raise BackendUnavailable("compile", "a card", "another", "Buy one.")

    assert "at 0" in resident.start_and_stop(refuses, 8, 4)["error"]
    assert "error" in resident.measure("net", refuses, 8, 0.1)
    assert resident.at_once(refuses, 8, 0.1)[0]["error"]


def test_several_are_called_at_once(card: PretendedCard) -> None:
    alone, together = resident.at_once(Maker(), 8, 0.05, models=3)
    assert together["calls_of_others"] > 0
    assert together["ratio_p99"] == together["p99_us"] / alone["p99_us"]
    assert len(card.kernels) == 3
    assert all(kernel.finished() for kernel in card.kernels)


def test_the_sanitizer_is_asked_for_each_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "not installed" in sanitizer.run()[0]["error"]
    monkeypatch.setattr(shutil, "which", lambda name: name)
    for code, said in ((0, None), (sanitizer.FAULT, "found faults"), (1, "tests failed")):
        asked: list[list[str]] = []

        def start(words: list[str], code: int = code, asked: list[list[str]] = asked, **_: Any) -> Any:
            asked.append(words)
            return SimpleNamespace(returncode=code, stdout="out", stderr="err")

        rows = sanitizer.run(start)
        assert [words[2] for words in asked] == list(sanitizer.TOOLS)
        assert all(row.get("error") == said and row["passed"] == (code == 0) for row in rows)
    assert all((ROOT / checks).exists() for checks in sanitizer.CHECKS)

    def slow(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("x", 1)

    assert "not done" in sanitizer.run(slow)[0]["error"]


def test_the_summary_names_what_failed() -> None:
    timed = {"p50_us": 2.0, "p99_us": 2.5, "p999_us": 3.0, "max_us": 9.0, "calls": 10}
    found = {
        "card": "Card", "tests": {"passed": False, "summary": "1 failed"},
        "rows": [
            {"name": "net", **timed, "device_us": 1.25}, {"name": "one of eight", **timed, "ratio_p99": 1.07},
            {"name": "starts", "error": "at 3: no answer", "check": True}, {"name": "streams", "passed": True},
            {"name": "peer", "error": "does not compile"},
        ],
    }  # fmt: skip
    text = render(found)
    for line in (
        "# Card", "| net | 2.00 | 2.50 | 3.00 | 1.50 | 1.25 |", "| one of eight (1.07 of alone) | 2.00 |",
        "| starts | at 3: no answer |", "| streams | passed |", "| peer | does not compile |", "1 failed",
    ):  # fmt: skip
        assert line in text
    assert failures(found) == ["the tests on the card", "starts"]
    assert failures({"rows": [], "tests": None}) == failures({"rows": [], "tests": {"passed": None}}) == []


def planned() -> set[str]:
    """Names of rows that a run makes where nothing fails, as far as goals ask for them."""
    names = {"null model, persistent", "one model of eight, alone", "one model of 8, all called at once"}
    names |= {f"{name}, rtaccel w8a8 persistent" for name, _, _ in device.networks()}
    names |= {f"{given.name}, one moment, rtaccel w8a8 persistent" for given in device_streams.stacks()}
    for name, _, _, schemes in device.graphs("cpu"):
        names |= {f"{name}, rtaccel {scheme} graph" for scheme in schemes} | {f"{name}, {q}" for q in peers.QUICK}
    for m, n in device_sparse.SIZES:
        for pattern in device_sparse.PATTERNS:
            names |= {f"sparse {m}x{n}x{n} {pattern}, {way}" for way in ("rtaccel w8a8", "torch dense fp16")}
    return names


def test_every_goal_has_its_row() -> None:
    names = planned()
    for goal in device_goals.GOALS:
        assert goal.row in names, goal.row
        assert not goal.over or goal.over in names, goal.over
    assert len({(goal.row, goal.over) for goal in device_goals.GOALS}) == len(device_goals.GOALS)


def test_goals_are_judged_by_what_was_measured() -> None:
    fast = "linear 1x4096x4096, rtaccel w4a16 graph"
    rows = [
        {"name": "null model, persistent", "p50_us": 2.0, "p99_us": 2.5, "p999_us": 2.7},
        {"name": fast, "device_us": 4.0, "p99_us": 15.0, "p50_us": 12.0},
        {"name": "linear 1x4096x4096, torch CUDA graph fp16", "device_us": 8.0},
        {"name": "mlp 256-384-384-128, rtaccel w8a8 persistent", "p50_us": 4.0, "p99_us": 5.5, "p999_us": 6.0},
    ]
    found = {(row, goal): said for row, goal, said in device_goals.judged(rows)}
    assert found["null model, persistent", "p99_us 3"] == "met"
    assert found[fast, "2.3 x as fast as torch CUDA graph fp16"] == "missed"
    assert found[fast, "p99 10 us over the card"] == "missed"
    assert found["mlp 256-384-384-128, rtaccel w8a8 persistent", "p99_us 5"] == "missed"
    assert found["mlp 256-384-384-128, rtaccel w8a8 persistent", "p99.9 / p50 1.3"] == "missed"
    assert found["LSTM_A 2x100, one moment, rtaccel w8a8 persistent", "p99_us 6, then 4.6"] == "not measured"


def test_what_begins_too_late_is_left_out() -> None:
    model, x, over = nn.Linear(4, 2), torch.randn(1, 4), Clock(0.0)
    assert Clock(1.0).late("x") is None
    rows = device.measure_model("net", model, x, ("w8a8",), 0.1, over)
    rows += device_sparse.measure_sparse([(1, 8)], over)
    assert rows
    assert all("0 minutes are over" in row["error"] for row in rows)


@pytest.mark.parametrize("index", range(4))
def test_a_moment_of_torch_is_what_its_window_ends_with(index: int) -> None:
    """Small ones of each kind: the moment by moment that ours stands beside computes the same network."""
    given = (
        device_streams.Sequence("gru", device_streams.Newest(nn.GRU(5, 6, batch_first=True)).eval(), 5, 7),
        device_streams.Sequence("lstm", device_streams.Newest(nn.LSTM(5, 6, 2, batch_first=True)).eval(), 5, 7),
        device_streams.Sequence("tcn", device_streams.Tcn((5, 6, 4), 3).eval(), 5, 5),
        device_streams.Sequence("tcn of one layer", device_streams.Tcn((5, 6), 2).eval(), 5, 2),
    )[index]
    window = given.window(1)
    moment = device_streams.Moment(given)
    moments = window[0].T if "tcn" in given.name else window[0]
    with torch.no_grad():
        for x in moments:
            y = moment(x[None])
        torch.testing.assert_close(y, given.model(window))


def test_other_packages_are_left_out_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model, x = nn.Linear(4, 2), torch.randn(1, 4)
    assert list(peers.torchao_ways(model, x)) == list(peers.gemlite_ways(model, x)) == []
