"""What recurrent, convolutional and streamed models refuse: typed errors that say what to do, and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt

NAN = float("nan")


@pytest.fixture(scope="module")
def step() -> rt.CompiledModel:
    model = nn.LSTM(6, 10, 2, batch_first=True).eval()
    return rt.compile(model, (torch.randn(1, 1, 6), (torch.randn(2, 1, 10), torch.randn(2, 1, 10))))


def good() -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return torch.randn(1, 1, 6), (torch.randn(2, 1, 10), torch.randn(2, 1, 10))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 1, 10), r"2, 1, 10"), ((2, 1, 9), r"2, 1, 10"), ((2, 10), r"dimensions"), ((2, 3, 10), r"2, 1, 10"),
     ((3, 1, 10), r"2, 1, 10")],
)  # fmt: skip
def test_states_of_another_shape(step: rt.CompiledModel, shape: tuple[int, ...], expected: str) -> None:
    x, (h, c) = good()
    want = step(x, (h, c))
    for states in ((torch.randn(*shape), c), (h, torch.randn(*shape))):
        with pytest.raises(rt.ShapeError, match=expected):
            step(x, states)
        out = tuple(torch.full_like(t, NAN) for t in (want[0], *want[1]))
        with pytest.raises(rt.ShapeError, match=expected):
            step.run(x, states, out=(out[0], out[1:]))
        assert all(t.isnan().all() for t in out)
        with pytest.raises(rt.ShapeError, match=expected):
            step.bind(x, states, out=(out[0], out[1:]))
    assert torch.equal(step(x, (h, c))[0], want[0])


def test_states_nested_in_another_way_or_left_out(step: rt.CompiledModel) -> None:
    x, (h, c) = good()
    for inputs in ((x,), (x, h, c), (x, [h, c]), (x, (h,)), (x, (h, c, c))):
        with pytest.raises(rt.ShapeError, match=r"Nest them|arguments"):
            step(*inputs)
    with pytest.raises(rt.ShapeError, match="float32"):
        step(x, (h.double(), c))


def test_a_window_shorter_than_the_kernel() -> None:
    model = nn.Conv1d(4, 6, 7).eval()
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):  # the model's own words
        rt.compile(model, (torch.randn(1, 4, 5),))
    layer = rt.nn.QuantConv1d.from_float(model, rt.W8A8("dynamic"))
    with pytest.raises(rt.ShapeError, match="7"):
        layer(torch.randn(1, 4, 5))
    fast = rt.compile(model, (torch.randn(1, 4, 9),))
    with pytest.raises(rt.ShapeError, match="4, 9"):
        fast(torch.randn(1, 4, 5))


def test_more_inputs_than_int32_sums_hold() -> None:
    wide = nn.Sequential(nn.Linear(70_000, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(2, 70_000)
    fast = rt.compile(wide, (x,), "w8a8", calibration=x)
    assert any("stays float32" in note and "70000" in note for note in fast._program.notes)
    torch.testing.assert_close(fast(x), wide(x).detach(), rtol=0.02, atol=0.02)
    with pytest.raises(rt.UnsupportedProblem, match="70000"):
        rt.nn.QuantLinear.from_float(wide[0], rt.W8A8("dynamic"))
    with pytest.raises(rt.UnsupportedProblem, match="70000"):
        rt.nn.QuantLSTM.from_float(nn.LSTM(70_000, 1), rt.W8A8("dynamic"))


@pytest.mark.parametrize("group_size", [0, -32, 7, 2.5])
def test_group_sizes_that_there_are_not(group_size: float) -> None:
    with pytest.raises(rt.FormatError, match="group_size"):
        rt.compile(nn.Linear(64, 4).eval(), (torch.randn(1, 64),), rt.W4A8(group_size=group_size))  # type: ignore[arg-type]


def test_a_group_that_does_not_divide_k_is_padded_inside() -> None:
    model, x = nn.Linear(45, 9).eval(), torch.randn(3, 45)
    fast = rt.compile(model, (x,), rt.W4A8(group_size=32), calibration=x)
    want = model(x).detach()
    assert float((fast(x) - want).norm() / want.norm()) < 0.2


def test_more_samples_than_max_batch() -> None:
    model = nn.GRU(5, 8, batch_first=True).eval()
    fast = rt.compile(model, (torch.randn(2, 7, 5),), max_batch=4)
    assert fast(torch.randn(4, 7, 5))[0].shape == (4, 7, 8)
    with pytest.raises(rt.ShapeError, match="max_batch=4"):
        fast(torch.randn(5, 7, 5))


def test_a_new_stream_needs_no_reset() -> None:
    model = nn.GRU(5, 8, batch_first=True).eval()
    x = torch.randn(3, 5)
    live = rt.stream(model, x)
    first = live.step(x)
    live.step(torch.randn(3, 5))
    live.reset()
    assert torch.equal(live.step(x), first)
    with pytest.raises(rt.ShapeError, match=r"0\.\.2"):
        live.reset([1, 3])
    with pytest.raises(rt.ShapeError, match="3, those of the example"):
        live.step(torch.randn(2, 5))


@pytest.mark.parametrize("scheme", ["float32", "w8a8", "w4a8"])
def test_nan_in_one_stream_of_a_batch(scheme: str) -> None:
    lstm = nn.LSTM(5, 16, 2, batch_first=True).eval()
    windows = torch.randn(4, 9, 5)
    calibration = None if scheme == "float32" else windows
    clean, with_nan = (rt.stream(lstm, windows[:, 0], scheme, calibration=calibration) for _ in range(2))
    for t in range(9):
        x = windows[:, t].clone()
        want = clean.step(x)
        if t == 3:
            x[2, 1] = NAN
        got = with_nan.step(x)
        assert torch.equal(got[[0, 1, 3]], want[[0, 1, 3]])
        assert got[2].isnan().all() == (t >= 3)
    with_nan.reset(2)
    assert not with_nan.step(windows[:, 0]).isnan().any()
    window = windows.clone()
    window[1, 4, 2] = NAN
    whole = rt.compile(lstm, (windows,), scheme, calibration=calibration)
    got, want = whole(window)[0], whole(windows)[0]
    assert torch.equal(got[[0, 2, 3]], want[[0, 2, 3]])
    assert got[1, 4:].isnan().all()
