"""What a cut is foretold to take: the sum of its parts, a time of its own for each stage, and a cloud that has slept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import rtaccel as rt
from rtaccel.serve.split import probes
from tests.serve.split.test_split import waist


def test_the_front_is_the_sum_of_its_parts(profile: rt.MachineProfile) -> None:
    link = rt.Link(rtt_us=50, mb_s=2, loss=0.1)
    cut = rt.split(waist(40, 8, 2, 40), torch.randn(1, 40), link, edge=profile.scaled(1000), remote=profile,
                   wires=("float32", "int8", "int4"), budget=rt.Budget(max_error=1))  # fmt: skip
    assert cut.best is min((r for r in cut.front if not r.why_not), key=lambda r: r.us)
    assert {r.at for r in cut.front} == set(range(4))
    for row in cut.front:
        if row.scheme == "none":
            assert (row.us, row.wire_bytes, row.cloud_us) == (row.edge_us, 0, 0)
            continue
        packets = -(-row.wire_bytes // 1472) + -(-row.answer_bytes // 1472)
        whole = row.edge_us + row.link_us + row.cloud_us
        assert row.us == pytest.approx(whole * (1 + 2 * (1 / 0.9**packets - 1)))
        frames = row.link_us - 50 - (row.wire_bytes + row.answer_bytes) / 2
        assert frames == pytest.approx(0, abs=1e-6)
        assert row.p99_us == pytest.approx(whole * (1 + 2 * 2))  # of 19 % three in a row are less than 1 %
    sizes = {(r.at, r.scheme): r.wire_bytes for r in cut.front}
    assert sizes[0, "float32"] > sizes[0, "int8"] > sizes[0, "int4"]


def test_a_cloud_has_slept_before_a_request(profile: rt.MachineProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sleep costs a call of the whole model is shared by its stages; the edge is awake."""
    monkeypatch.setattr("rtaccel.serve.split.probes.stages_of_a_call_us", lambda fast, args: [10.0, 30.0, 60.0])
    monkeypatch.setattr("rtaccel.serve.split.probes.rested_us", lambda fast, args: 50.0)
    cut = rt.split(waist(40, 8, 2, 40), torch.randn(1, 40), rt.Link(rtt_us=5), edge=profile, remote=profile,
                   wires=("float32",), budget=rt.Budget(max_error=1))  # fmt: skip
    parts = {0: (0, 150), 1: (10, 135), 2: (40, 90), 3: (100, 0)}
    for row in cut.front:
        edge, cloud = parts[row.at]
        assert row.edge_us == pytest.approx(edge + profile.call_us * (row.at > 0))
        assert row.cloud_us == pytest.approx(cloud + profile.call_us * (row.at < 3))


def test_stages_add_up_to_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of each stage in different calls is less than any call; a call that was measured too short changes nothing."""
    monkeypatch.setattr(probes, "stage_us", lambda fast, inputs, calls: [10.0, 30.0, 0.0])
    fast, x = rt.compile(waist(8, 4, 2), torch.randn(1, 8)), torch.randn(1, 8)
    for whole, wanted in ((50.0, [12.5, 37.5, 0.0]), (39.0, [10.0, 30.0, 0.0]), (40.0, [10.0, 30.0, 0.0])):
        monkeypatch.setattr(probes, "least_us", lambda call, whole=whole: whole)
        assert probes.stages_of_a_call_us(fast, (x,)) == pytest.approx(wanted)
    assert probes.raised([0.0, 0.0], 5.0) == [0.0, 0.0]


def test_what_a_sleep_costs_is_measured() -> None:
    model, x = waist(64, 32, 4), torch.randn(1, 64)
    assert 0 <= probes.rested_us(rt.compile(model, (x,)), (x,), calls=4) < 1e5


class Image(nn.Module):
    """Convolutions of few channels: the plan reads the image as planes and leaves out the copy before the first."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return found


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
def test_each_stage_has_its_own_time(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the plan leaves out copies, the times of those behind them do not move to the stages before."""
    x = torch.randn(1, 3, 32, 32)
    fast = rt.compile(Image().eval(), x, scheme, calibration=[x] if scheme == "w8a8" else None)
    planned = [choice.stage for choice in fast._executor.steps[0].choices]
    stages, profile_stages = probes.stages_of(fast), probes.profile_stages

    def numbered(*args: Any) -> Any:
        """The i-th stage of the plan takes i + 1 us."""
        found = profile_stages(*args)
        first, *inner, last = found.stages
        inner = [replace(stage, us=i + 1.0 + found.reading_ns / 1e3) for i, stage in enumerate(inner)]
        return replace(found, stages=(first, *inner, last))

    monkeypatch.setattr(probes, "profile_stages", numbered)
    us = probes.stage_us(fast, (x,), calls=2, rounds=2)
    assert len(us) == len(stages)
    by_name = {(stage.op, stage.name): i + 1.0 for i, stage in enumerate(planned)}
    assert len(by_name) == len(planned)
    assert us == pytest.approx([by_name.get((stage.op, stage.name), 0.0) for stage in stages])
    assert sum(us) == pytest.approx(len(planned) * (len(planned) + 1) / 2)
    if scheme == "float32":
        assert len(planned) < len(stages)  # else nothing was tested
