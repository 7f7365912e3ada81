"""Streams of whole numbers: sums and extremes over time, and arithmetic, to the last bit, wherever numbers wrap around."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt


class Whole(nn.Module):
    """Random steps over [batch, time, features] of whole numbers; `last`: its result is the newest time step's alone."""

    def __init__(self, rng: random.Random, dtype: torch.dtype, last: bool, turned: bool) -> None:
        super().__init__()
        names = ["sum", "sum32", "prod", "max", "min", "add", "mix", "times", "compare", "bits"]
        self.steps, self.dtype, self.last, self.turned = rng.choices(names, k=rng.randint(1, 5)), dtype, last, turned
        if not {"sum", "sum32", "prod", "max", "min"} & {*self.steps}:
            self.steps.append("sum")

    def forward(self, x: Tensor) -> Tensor:
        time = 0 if self.turned else 1
        y = x
        for step in self.steps:
            match step:
                case "sum":
                    y = y.cumsum(time)
                case "sum32":
                    y = torch.cumsum(y, time, dtype=torch.int32)
                case "prod":
                    y = (y + 1).cumprod(time)
                case "max":
                    y = y.cummax(time).values
                case "min":
                    y = y.cummin(time).values
                case "add":
                    y = y + 7 - x
                case "mix":
                    y = torch.where(y > x, y, x * 3)
                case "times":
                    y = y * x
                case "compare":
                    y = y + (y == x)
                case _:
                    y = (y & torch.iinfo(self.dtype).max // 3) ^ x
        return y.select(time, -1) if self.last else y


def newest(y: Tensor, last: bool, turned: bool) -> Tensor:
    return y if last else y.select(0 if turned else 1, -1)


@pytest.mark.parametrize("seed", range(60))
def test_steps_are_the_windows_to_the_bit(seed: int) -> None:
    rng = random.Random(seed)
    dtype = rng.choice([torch.int32, torch.int64, torch.int16, torch.int8])
    features, streams, turned = rng.choice([1, 2, 3, 5]), rng.choice([1, 4, 33]), rng.random() < 0.3
    model = Whole(rng, dtype, rng.random() < 0.6, turned).eval()
    if features == 1 and turned:
        turned = model.turned = False  # with one feature, [time, batch, 1] is taken for [batch, time, 1]
    live = rt.stream(model, torch.zeros(streams, features, dtype=dtype))
    assert "verified against" in str(live.explain())
    size = 2 ** min(rng.choice([4, 20, 31]), torch.iinfo(dtype).bits - 1)
    window = torch.from_numpy(np.random.default_rng(seed).integers(-size, size, (streams, 9, features))).to(dtype)
    for reset in (False, True):
        if reset:
            live.reset()
        for t in range(9):
            got = live.step(window[:, t].contiguous())
            seen = window[:, : t + 1].transpose(0, 1) if turned else window[:, : t + 1]
            want = newest(model(seen), model.last, turned)
            assert got.dtype == want.dtype
            assert torch.equal(got, want), (model.steps, t)


class Running(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 1, dtype=torch.int32)[:, -1]


def test_some_of_the_streams_and_their_past() -> None:
    live, other = (rt.stream(Running().eval(), torch.zeros(5, 2, dtype=torch.int32)) for _ in range(2))
    rng = np.random.default_rng(3)
    sums = torch.zeros(5, 2, dtype=torch.int64)
    for _ in range(30):
        chosen = torch.from_numpy(rng.permutation(5)[: rng.integers(1, 6)])
        x = torch.from_numpy(rng.integers(-(2**31), 2**31, (len(chosen), 2))).to(torch.int32)
        sums[chosen] += x
        assert torch.equal(live.step(x, streams=chosen), sums[chosen].to(torch.int32))
        if rng.random() < 0.3:
            stream = int(rng.integers(5))
            live.reset(stream)
            sums[stream] = 0
    x = torch.full((1, 2), 2**30, dtype=torch.int32)
    other.load_stream(0, live.save_stream(4))  # the sum so far has more than 32 bits, and goes on with all of them
    assert torch.equal(other.step(x, streams=[0]), (sums[4] + x).to(torch.int32))
    again = rt.stream(Running().eval(), torch.zeros(5, 2, dtype=torch.int32))
    again.load_state_dict(live.state_dict())
    assert torch.equal(again.step(x.expand(5, 2).contiguous()), (sums + x).to(torch.int32))


def test_a_file_and_a_batcher(tmp_path: Path) -> None:
    live = rt.stream(Running().eval(), torch.zeros(7, 1, dtype=torch.int32))
    file = rt.save(live, tmp_path / "sums.rta", input_names=["INPUT"], output_names=["OUTPUT"])
    loaded = rt.load(file)
    assert loaded.inputs == (("INPUT", "int32", (-1, 1)),)
    assert loaded.outputs == (("OUTPUT", "int32", (-1, 1)),)
    x = np.random.default_rng(1).integers(-(2**31), 2**31, (12, 7, 1)).astype(np.int32)
    want = x.astype(np.int64).cumsum(0).astype(np.int32)
    for t in range(6):
        assert np.array_equal(loaded.step(x[t]), want[t])
    with rt.StreamBatcher(loaded, deadline_us=60e6) as hub:
        for t in range(6, 12):
            answers = [ticket.result(60) for ticket in hub.put_many(list(range(7)), x[t])]
            assert np.array_equal(np.stack([a.y for a in answers]), want[t])


def test_names_of_inputs_that_do_not_fit(tmp_path: Path) -> None:
    live = rt.stream(Running().eval(), torch.zeros(1, 1, dtype=torch.int32))
    for bad in (["a", "b"], [""], "a", [3], []):
        with pytest.raises(rt.FormatError, match=r"input_names=.*1 texts, none twice"):
            rt.save(live, tmp_path / "bad.rta", input_names=bad)  # type: ignore[arg-type]


class FloatSums(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.cumsum(1), x.cummax(1).values, x.cummin(1).values, x.cumprod(1)], -1)[:, -1]


def test_running_sums_of_float32_lose_nothing() -> None:
    """They are kept in float64, as torch's scan over the window has them; extremes begin with the first time step, not with 0."""
    live = rt.stream(FloatSums().eval(), torch.zeros(3, 2))
    window = torch.randn(3, 400, 2) + 1000 * torch.randn(3, 1, 2)
    for t in range(400):
        got = live.step(window[:, t].contiguous())
    so_far = window.double()
    want = [so_far.cumsum(1), so_far.cummax(1).values, so_far.cummin(1).values, so_far.cumprod(1)]
    for part, exact in zip(got.split(2, -1), want):
        assert torch.equal(part, exact[:, -1].float())


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (torch.zeros(3, dtype=torch.int32), r"int32\[3\]"),
        (torch.zeros(3, 2, 2, dtype=torch.int32), r"int32\[3, 2, 2\]"),
        (torch.zeros(3, 2, dtype=torch.bool), r"bool\[3, 2\]"),
        (torch.zeros(3, 2, dtype=torch.float64), r"float64\[3, 2\]"),
    ],
    ids=["indices in int32", "rows of int32", "truth values", "float64"],
)
def test_time_steps_of_other_dtypes(step: Tensor, match: str) -> None:
    with pytest.raises(rt.ShapeError, match=match):
        rt.stream(Running().eval(), step)


class Backwards(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1).cumsum(1)


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.logcumsumexp(1)


class Places(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] != 3 or x.shape[0] > 8:
            raise ValueError("windows are [batch, time, 3]")
        return x + torch.arange(x.shape[1])[None, :, None]


@pytest.mark.parametrize(
    ("model", "dtype"), [(Backwards(), torch.int64), (Log(), torch.float32), (Places(), torch.int64)]
)
def test_what_cannot_go_step_by_step(model: nn.Module, dtype: torch.dtype) -> None:
    with pytest.raises(rt.UnsupportedProblem):
        rt.stream(model.eval(), torch.zeros(2, 3, dtype=dtype))


def test_a_persistent_kernel_takes_float32() -> None:
    with pytest.raises(rt.RtaccelError, match=r"int32\[1, 2\]|persistent|cuda|GPU"):
        rt.stream(Running().eval(), torch.zeros(1, 2, dtype=torch.int32), device="cuda")
