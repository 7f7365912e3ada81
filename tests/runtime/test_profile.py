"""Time by stage: every part is there and in order, results and states are as after plain calls, bad input is refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.errors import FormatError, RtaccelError, ShapeError, UnsupportedProblem
from rtaccel.measure.machine.roofline import Bandwidth, Peak, Roofline, points
from rtaccel.measure.stages import StageProfile, StageTime, rows, table
from rtaccel.runtime.inspection.cpu_roofline import cpu_roofline
from rtaccel.runtime.inspection.profile import IN, OUT, profile_stages


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 7)).eval()


@pytest.mark.parametrize("scheme", ["float32", "w8a8"])
@pytest.mark.parametrize("batch", [1, 3, 67])
def test_every_stage_has_a_row_in_order(scheme: str, batch: int) -> None:
    """67 rows are three blocks: their times add up in one row."""
    model, x = network(), torch.randn(batch, 24)
    fast = rt.compile(model, (x,), scheme, calibration=[torch.randn(64, 24)])
    want = fast(x)
    profile = profile_stages(fast, (x,), calls=11)
    lines = fast.explain_lines(measure=False)
    assert [s.name for s in profile.stages] == [IN, *(line.name for line in lines), OUT]
    assert [s.kernel for s in profile.stages[1:-1]] == [line.kernel for line in lines]
    assert [s.bytes for s in profile.stages[1:-1]] == [line.bytes for line in lines]
    assert profile.calls == 11
    assert profile.whole_us is not None and profile.whole_us > 0
    assert all(0 < s.us <= s.p99_us for s in profile.stages)
    assert 0 < profile.reading_ns < 10_000
    assert torch.equal(fast(x), want)


def test_the_stage_with_the_work_has_the_time() -> None:
    """16 million multiply-adds beside 32: no noise of a machine turns that around."""
    model = nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4096), nn.Linear(4096, 4096), nn.Linear(4096, 2)
    ).eval()
    x = torch.randn(1, 4)
    profile = profile_stages(rt.compile(model, (x,)), (x,), calls=9)
    assert max(profile.stages, key=lambda s: s.us).name == "3"
    heavy = next(s for s in profile.stages if s.name == "3")
    assert heavy.macs == 4096 * 4096
    assert heavy.gb_s == pytest.approx((heavy.bytes or 0) / heavy.us / 1e3)
    assert sum(profile.share(s) for s in profile.stages) == pytest.approx(1)


def test_a_stream_stands_where_it_stood() -> None:
    model = nn.GRU(5, 6, batch_first=True).eval()
    live, again = rt.stream(model, torch.randn(2, 5)), rt.stream(model, torch.randn(2, 5))
    steps = [torch.randn(2, 5) for _ in range(6)]
    for x in steps[:3]:
        assert torch.equal(live.step(x), again.step(x))
    profile_stages(live, (steps[0],), calls=7)
    for x in steps[3:]:
        assert torch.equal(live.step(x), again.step(x))


class Mixed(nn.Module):
    """Two native groups with calls of torch between, which nothing here computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.special.airy_ai(self.a(x)))


def test_torch_calls_between_are_timed_from_python() -> None:
    x = torch.randn(2, 8)
    profile = profile_stages(rt.compile(Mixed().eval(), (x,)), (x,), calls=5)
    kernels = [s.kernel for s in profile.stages]
    assert "torch" in kernels
    assert any(kernel.startswith("cpu_") for kernel in kernels)
    assert profile.whole_us is not None
    assert profile.whole_us > 0
    assert "timed from Python" in profile.notes[0]


def test_kernels_launched_from_python_enter_their_ranges() -> None:
    entered: list[str] = []

    @contextlib.contextmanager
    def around(name: str) -> Iterator[None]:
        entered.append(name)
        yield

    x = torch.randn(2, 24)
    fast = rt.compile(network(), (x,), "w8a8", calibration=[torch.randn(64, 24)], backend="portable")
    profile = profile_stages(fast, (x,), calls=4, around=around)
    assert [s.kernel for s in profile.stages] == ["portable_torch"] * len(profile.stages)
    assert entered == [*(s.name for s in profile.stages for _ in range(4)), *["the whole"] * 4]
    assert profile.whole_us is not None and profile.whole_us > 0


def test_nested_and_several_inputs() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, more: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.a(x) + more[0], self.b(more[1])

    inputs = (torch.randn(1, 4), (torch.randn(1, 4), torch.randn(1, 4)))
    profile = profile_stages(rt.compile(Pair().eval(), inputs), inputs, calls=3)
    assert profile.whole_us is not None
    assert len(profile.stages) >= 4


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
@pytest.mark.parametrize("batch", [1, 256])
def test_stages_that_threads_share(batch: int) -> None:
    model = nn.Sequential(nn.Linear(256, 2048), nn.ReLU(), nn.Linear(2048, 256)).eval()
    x = torch.randn(batch, 256)
    one, two = rt.compile(model, (x,)), rt.compile(model, (x,), threads=2)
    profile = profile_stages(two, (x,), calls=5)
    assert len(profile.stages) == len(profile_stages(one, (x,), calls=5).stages)
    assert torch.equal(one(x), two(x))
    if batch == 1:
        assert [s.threads for s in profile.stages if s.kernel != "plan"] == [2, 2]
    else:
        assert "one thread" in profile.notes[0]


@pytest.mark.parametrize("calls", [0, -1, 100_001, True, 2.5, None])
def test_calls_that_make_no_sense_are_refused(calls: object) -> None:
    x = torch.randn(1, 24)
    with pytest.raises(FormatError, match="calls"):
        profile_stages(rt.compile(network(), (x,)), (x,), calls=calls)  # type: ignore[arg-type]


def test_inputs_that_do_not_fit_are_refused() -> None:
    fast = rt.compile(network(), (torch.randn(1, 24),))
    for inputs in ((torch.randn(1, 23),), (torch.randn(1, 24),) * 2, ()):
        with pytest.raises(ShapeError):
            profile_stages(fast, inputs, calls=2)
    with pytest.raises(UnsupportedProblem, match="compiled model"):
        profile_stages(network(), (torch.randn(1, 24),))


def test_numbers_that_a_stage_refuses_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 8), nn.Flatten(), nn.Linear(24, 2)).eval()
    fast = rt.compile(model, (torch.zeros(1, 3, dtype=torch.int64),))
    with pytest.raises((RtaccelError, RuntimeError), match="9"):
        profile_stages(fast, (torch.full((1, 3), 9),), calls=2)
    assert torch.equal(fast(torch.ones(1, 3, dtype=torch.int64)), fast(torch.ones(1, 3, dtype=torch.int64)))


def example() -> StageProfile:
    stages = (
        StageTime(IN, "the plan's own", "plan", 0.1, 0.2),
        StageTime("a", "linear", "cpu_avx2", 0.3, 0.4, bytes=3_000, macs=1_500, threads=2),
        StageTime("b", "a call", "torch", 0.6, 0.6),
    )
    return StageProfile(stages, 0.9, 20.0, 5, ("a note",))


def test_table_and_json() -> None:
    assert rows(example())[1] == ("a", "cpu_avx2 x2", "0.3", "30.0 %", "3,000", "10", "5")
    text = table(example())
    assert "parts 1 us, the whole call 0.9 us" in text
    assert text.endswith("note: a note")
    found = example().to_dict()
    assert found["stages"][1]["macs_ns"] == pytest.approx(5)
    assert found["stages"][2]["gb_s"] is None
    assert found["sum_us"] == pytest.approx(1)


def test_roofline_floor_and_points() -> None:
    roof = Roofline((Bandwidth("near", 100), Bandwidth("far", 10)), (Peak("int8", 200),), "made up")
    assert roof.floor_us(100_000, 1) == pytest.approx(1)
    assert roof.floor_us(1, 400_000) == pytest.approx(2)
    assert points(example()) == [("a", 0.5, pytest.approx(5))]


def test_the_machine_has_a_roofline() -> None:
    roof = cpu_roofline()
    assert [p.name for p in roof.peaks] == ["int8", "float32"]
    assert all(b.gb_s > 0 for b in roof.bandwidths)
    assert all(p.macs_ns > 0 for p in roof.peaks)
