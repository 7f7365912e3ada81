"""Models with dimensions whose size changes from call to call: every size gives what the model gives."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.runtime.dynamic import DynamicModel


class Tagger(nn.Module):
    """Every kind of dependence on the length: positions, a convolution, a recurrence, a mask, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Linear(4, 8), nn.Conv1d(8, 8, 3, padding=1)
        self.position = nn.Parameter(torch.randn(40, 8))
        self.gru, self.head = nn.GRU(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x) + self.position[: x.shape[1]]
        h = self.conv(h.transpose(1, 2)).transpose(1, 2)
        y, _ = self.gru(h * mask.unsqueeze(-1))
        return self.head(y[:, -1]), y.mean(1), h.softmax(1)


class Looped(nn.Module):
    """Python runs over the time steps, so that export fixes their number."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 6)
        for step in range(x.shape[1]):
            h = self.cell(x[:, step], h)
        return h


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    torch.manual_seed(5)
    return Tagger().eval()


def pair(batch: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, length, 4), (torch.rand(batch, length) > 0.3).float()


def close(mine: Any, theirs: Any) -> None:
    for a, b in zip(mine if isinstance(mine, tuple) else (mine,), theirs if isinstance(theirs, tuple) else (theirs,)):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


@pytest.fixture(scope="module")
def tagged(tagger: Tagger) -> DynamicModel:
    bounds = {1: (1, 40)}
    return rt.compile(tagger, pair(1, 9), dynamic={"x": bounds, "mask": bounds}, strict=True)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 17, 31, 40])
def test_every_length_and_batch(tagger: Tagger, tagged: DynamicModel, length: int) -> None:
    for batch in (1, 4):
        given = pair(batch, length)
        close(tagged(*given), tagger(*given))
    assert (length, length) in tagged.sizes and tagged.native[0] == tagged.native[1]


def test_one_capture_serves_all_lengths(tagged: DynamicModel) -> None:
    assert tagged.explain(measure=False).startswith(
        "dynamic: x.shape[1] 1 to 40, mask.shape[1] 1 to 40; the graph is captured"
    )


def test_run_and_bind(tagger: Tagger, tagged: DynamicModel) -> None:
    given = pair(1, 13)
    want = tagger(*given)
    out = tuple(torch.full_like(w, float("nan")) for w in want)
    tagged.run(*given, out=out)
    close(out, want)
    for o in out:
        o.fill_(float("nan"))
    tagged.bind(*given, out=out)()
    close(out, want)
    close(tagged(mask=given[1], x=given[0]), want)


def test_a_sealed_model_plans_nothing_more(tagger: Tagger) -> None:
    bounds = {1: (3, 7)}
    fast = rt.compile(tagger, pair(1, 5), dynamic={0: bounds, 1: bounds}).seal()
    assert fast.sizes == tuple((n, n) for n in range(3, 8))
    plans = dict(fast._plans)
    gc.collect()
    for length in range(3, 8):
        given = pair(2, length)
        close(fast(*given), tagger(*given))
    assert fast._plans == plans


def test_sealed_with_some_sizes_refuses_the_others(tagger: Tagger) -> None:
    bounds = {1: (3, 30)}
    fast = rt.compile(tagger, pair(1, 5), dynamic={"x": bounds, "mask": bounds}).seal(sizes=[4, 8])
    close(fast(*pair(1, 8))[1].isfinite().all(), torch.tensor(True))
    with pytest.raises(rt.UnsupportedProblem, match=r"sizes \(6, 6\) of a sealed model"):
        fast(*pair(1, 6))


def test_int8_scales_are_those_of_batches_of_any_length(tagger: Tagger) -> None:
    torch.manual_seed(8)
    batches = [pair(6, length) for length in (5, 12, 40)]
    bounds = {1: (1, 40)}
    fast = rt.compile(tagger, pair(1, 9), scheme="w8a8", calibration=batches, dynamic={"x": bounds, "mask": bounds})
    (first, *others) = [plan.state_dict() for plan in fast._plans.values()]
    scales = {name: value for name, value in first.items() if "scale" in name and isinstance(value, Tensor)}
    assert scales and others
    for other in others:
        shared = scales.keys() & other.keys()  # at length 1 a convolution may be another stage, of some of its taps
        for name in [name for name in shared if name.endswith("weight_scale")]:
            weight = name.removesuffix("_scale")
            shared -= {name} if other[weight].shape != first[weight].shape else set()
        assert shared and all(torch.equal(other[name], scales[name]) for name in shared)
        assert any(name.endswith("input_scale") for name in shared)
    for length in (1, 9, 23, 40):
        given = pair(3, length)
        mine, theirs = fast(*given)[1], tagger(*given)[1]
        assert (mine - theirs).norm() < 0.06 * theirs.norm()


def test_code_that_fixes_the_length_is_captured_for_each() -> None:
    torch.manual_seed(6)
    model = Looped().eval()
    fast = rt.compile(model, torch.randn(1, 4, 4), dynamic={"x": {1: (2, 6)}})
    assert "each size is captured by itself" in fast.explain(measure=False)
    for length in (2, 3, 6):
        x = torch.randn(2, length, 4)
        close(fast(x), model(x))


def test_scales_are_not_shared_between_other_graphs() -> None:
    torch.manual_seed(9)
    model, batches = Looped().eval(), [torch.randn(8, 4, 4)]
    with pytest.raises(rt.ShapeError, match="calibration: got a batch with an input of shape"):
        rt.compile(model, torch.randn(1, 4, 4), scheme="w8a8", calibration=batches, dynamic={"x": {1: (2, 6)}})
    fast = rt.compile(model, torch.randn(1, 4, 4), scheme="w8a8", dynamic={"x": {1: (2, 6)}})
    x = torch.randn(3, 5, 4)
    mine, theirs = fast(x), model(x)
    assert (mine - theirs).norm() < 0.06 * theirs.norm()


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_trained_with_fake_quantization_keeps_its_numbers() -> None:
    torch.manual_seed(10)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    rt.prepare_qat_(model, rt.W8A8(activation="dynamic"))
    model.eval()
    x = torch.randn(2, 7, 8)
    fixed = rt.compile(model, x)
    fast = rt.compile(model, x, dynamic={0: {1: (2, 9)}})
    assert torch.equal(fast(x), fixed(x))
    assert "int8" in fast.explain(measure=False) and "int8" in fixed.explain(measure=False)


def test_attention_without_a_window() -> None:
    torch.manual_seed(7)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval()
    fast = rt.compile(model, torch.randn(1, 6, 16), dynamic={"src": {1: (1, 12)}}, strict=True)
    for length in (1, 5, 12):
        x = torch.randn(2, length, 16)
        close(fast(x), model(x))


@pytest.mark.parametrize(
    ("dynamic", "error", "said"),
    [
        ({"y": {1: (1, 5)}}, rt.UnsupportedProblem, "dynamic for 'y'"),
        ({"x": {0: (1, 5)}, "mask": {1: (1, 5)}}, rt.ShapeError, "dynamic dimension 0 of x"),
        ({"x": {3: (1, 5)}}, rt.ShapeError, "dynamic dimension 3 of x"),
        ({"x": {1: (5, 1)}}, rt.ShapeError, r"bounds \(5, 1\)"),
        ({"x": {1: (0, 5)}}, rt.ShapeError, r"bounds \(0, 5\)"),
        ({"x": {1: 5}}, rt.ShapeError, "bounds 5"),
        ({}, rt.UnsupportedProblem, "dynamic={}"),
        ("x", rt.UnsupportedProblem, "dynamic='x'"),
        ({"x": {1: (1, 41)}, "mask": {1: (1, 41)}}, rt.ShapeError, "which the model refuses"),
        ({"x": {1: (10, 20)}, "mask": {1: (10, 20)}}, rt.ShapeError, "expected 10 to 20"),
    ],
)
def test_bounds_that_cannot_be(tagger: Tagger, dynamic: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        rt.compile(tagger, pair(1, 9), dynamic=dynamic)


def test_sizes_outside_and_that_disagree(tagged: DynamicModel) -> None:
    before = tagged.sizes
    with pytest.raises(rt.ShapeError, match=r"x.shape\[1\] of 41; expected 1 to 40"):
        tagged(torch.randn(1, 41, 4), torch.ones(1, 41))
    with pytest.raises(rt.ShapeError, match="the model needs them equal"):
        tagged(torch.randn(1, 6, 4), torch.ones(1, 7))
    with pytest.raises(rt.ShapeError, match="1 arguments"):
        tagged(torch.randn(1, 6, 4))
    assert tagged.sizes == before


def test_too_many_sizes_are_not_all_planned(tagger: Tagger) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1)).eval()
    fast = rt.compile(model, torch.randn(1, 1, 8, 8), dynamic={0: {2: (4, 80), 3: (4, 80)}})
    with pytest.raises(rt.UnsupportedProblem, match="5929 choices of sizes"):
        fast.seal()
    x = torch.randn(2, 1, 5, 11)
    close(fast(x), model(x))
