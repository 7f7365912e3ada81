"""Layers as two of low rank, pruned, and rounded for their inputs: against plain NumPy, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.passes.layer_forms import factors
from rtaccel.convert.weights.gptq import round_int4
from rtaccel.convert.weights.prune import DAMPING, InputStatistics
from rtaccel.core.errors import FormatError, RtaccelError, UnsupportedProblem
from rtaccel.formats import int4

G = torch.Generator().manual_seed(11)


def correlated(rows: int, k: int, mean: float = 0.0) -> Tensor:
    mix = torch.randn(k, k, generator=G) * torch.exp(-torch.arange(k) / (k / 3))[:, None]
    return torch.randn(rows, k, generator=G) @ mix + mean


def statistics(x: Tensor) -> InputStatistics:
    x = x.double()
    return InputStatistics.of_dense(x.T @ x / len(x), x.mean(0), len(x))


@pytest.mark.parametrize(("n", "k", "rank"), [(24, 40, 5), (40, 17, 3), (8, 8, 1), (33, 64, 20)])
def test_factors_are_the_best_of_their_rank_for_the_inputs(n: int, k: int, rank: int) -> None:
    """The least squares of W X over matrices of a rank, by the SVD of W X in float64 (with the damping that is added)."""
    weight, x = torch.randn(n, k, generator=G), correlated(500, k, mean=1.5)
    inner, outer = factors(weight, rank, statistics(x))
    assert inner.shape == (rank, k) and outer.shape == (n, rank)
    w, rows = weight.double().numpy(), x.double().numpy()
    centered = rows - rows.mean(0)
    covariance = centered.T @ centered / len(rows)
    covariance += DAMPING * np.trace(covariance) / k * np.eye(k)
    root = np.linalg.cholesky(covariance)
    values = np.linalg.svd(w @ root, compute_uv=False)
    lost = np.linalg.norm((w - (outer.double() @ inner.double()).numpy()) @ root)
    assert lost == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-4, abs=1e-4)
    spread = np.cov((rows @ inner.double().numpy().T).T, bias=True).reshape(rank, rank)
    assert np.diag(spread).max() <= 1.001  # the damping leaves them a little below 1


def test_factors_without_data_are_those_of_the_weight() -> None:
    weight = torch.randn(20, 30, generator=G)
    inner, outer = factors(weight, 7, None)
    values = np.linalg.svd(weight.double().numpy(), compute_uv=False)
    lost = float((weight.double() - outer.double() @ inner.double()).norm())
    assert lost == pytest.approx(np.sqrt((values[7:] ** 2).sum()), rel=1e-5)


def test_a_layer_of_low_rank_computes_its_factors() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(40, 48), nn.ReLU(), nn.Linear(48, 5)).eval()
    x = correlated(300, 40, mean=0.5)
    fast = rt.compile(model, (x[:1],), {"0": rt.LowRank(0.4)}, calibration=[x])
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    rank = rt.LowRank(0.4).rank(48, 40)
    inner, outer = factors(first.weight.detach(), rank, statistics(x))
    product = outer.double() @ inner.double()
    bias = first.bias.double() + (first.weight.double() - product) @ x.double().mean(0)
    want = (torch.relu(x.double() @ product.T + bias) @ last.weight.double().T + last.bias.double()).detach()
    assert torch.allclose(fast(x).double(), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert fast.weight_bytes == 4 * (rank * (40 + 48 + 1) + 48 + 48 * 5 + 5)
    assert "two layers of rank" in fast.explain(measure=False)


@pytest.mark.parametrize("inner", ["w8a8", "w4a8", "w8a16", rt.W8A8("dynamic"), rt.W4A8(rounding="gptq")])
def test_the_factors_take_every_scheme(inner: Any) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    x = correlated(400, 64)
    plain = rt.compile(model, (x[:1],), {"2": rt.LowRank(0.8)}, calibration=[x])
    fast = rt.compile(model, (x[:1],), {"2": rt.LowRank(0.8, inner)}, calibration=[x])
    want = plain(x)
    assert (fast(x) - want).norm() < 0.2 * want.norm()
    state = {k: v.clone() for k, v in fast.state_dict().items()}
    again = rt.compile(model, (x[:1],), {"2": rt.LowRank(0.8, inner)}, calibration=[x * 0.5])
    again.load_state_dict(state)
    assert torch.equal(again(x), fast(x))


def test_pruned_weights_keep_their_pattern_and_make_up_for_it() -> None:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4)).eval()
    x = correlated(600, 64)
    with torch.no_grad():
        want = model(x)
    errors = {}
    for name, data in (("least squares", [x]), ("magnitude", None)):
        fast = rt.compile(model, (x[:1],), {"0": rt.Pruned(rt.BlockSparse((8, 8), 0.5))}, calibration=data)
        errors[name] = float((fast(x) - want).norm() / want.norm())
        assert "pruned to 50.0% zeros" in fast.explain(measure=False)
    assert errors["least squares"] < 0.7 * errors["magnitude"]


def test_what_has_no_such_form_says_so() -> None:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14, 4)).eval()
    x = torch.randn(32, 4, 16, generator=G)
    fast = rt.compile(model, (x[:1],), {"0": rt.LowRank(0.5, "w8a8")}, calibration=[x])
    assert "0 is computed as w8a8, not in the form rank 50% w8a8: that is for linear layers" in fast.explain(
        measure=False
    )
    assert torch.equal(fast(x), rt.compile(model, (x[:1],), {"0": "w8a8"}, calibration=[x])(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: rt.LowRank(0.0), lambda: rt.LowRank(1.0), lambda: rt.LowRank(float("nan")), lambda: rt.LowRank("half"),  # type: ignore[arg-type]
        lambda: rt.LowRank(0.5, "w8a9"), lambda: rt.LowRank(0.5, rt.LowRank(0.5)), lambda: rt.Pruned("blokcs"),
        lambda: rt.Pruned(rt.BlockSparse(), rt.LowRank(0.5)), lambda: rt.W4A8(rounding="best"),  # type: ignore[arg-type]
        lambda: rt.W4A16(rounding=None),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_forms_and_roundings_that_are_none_are_refused(make: Any) -> None:
    with pytest.raises(FormatError):
        make()


def test_a_form_is_no_scheme_of_a_drop_in_layer() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for scheme in (rt.LowRank(0.5), rt.Pruned("2:4")):
        with pytest.raises(RtaccelError):
            rt.quantize_(model, scheme, calibration=[torch.randn(64, 64)], force=True)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


# -- rounding for inputs --------------------------------------------------------------------------------------------


def output_error(weight: Tensor, packed: Tensor, scale: Tensor, x: Tensor, group_size: int) -> float:
    left = int4.dequantize(packed, scale, weight.shape[1], group_size)
    want = x.double() @ weight.double().T
    return float((x.double() @ left.T - want).norm() / want.norm())


@pytest.mark.parametrize(("n", "k", "group_size"), [(16, 64, 32), (5, 33, 16), (1, 16, 16), (40, 130, 64)])
def test_rounding_for_inputs_beats_the_nearest_on_the_data_and_beyond(n: int, k: int, group_size: int) -> None:
    weight, x = torch.randn(n, k, generator=G), correlated(2000, k)
    fit, other = x[:1000], x[1000:]
    packed, scale = round_int4(weight, statistics(fit), group_size)
    nearest = int4.quantize_weight(weight, group_size)
    assert packed.shape == nearest[0].shape and packed.dtype == torch.uint8
    assert scale.shape == nearest[1].shape
    int4.require_scales("linear", "group_scale", scale)
    q = int4.unpack(packed, k)
    assert q.min() >= -8 and q.max() <= 7
    for data in (fit, other):
        assert output_error(weight, packed, scale, data, group_size) < output_error(weight, *nearest, data, group_size)


def test_no_single_step_of_a_number_helps() -> None:
    """After the sweeps: for the scales found, each number is the best for the others of its row (damped, as rounded)."""
    weight, x = torch.randn(6, 24, generator=G), correlated(400, 24)
    packed, scale = round_int4(weight, statistics(x), 16)
    h = (x.double().T @ x.double() / len(x)).numpy()
    h += DAMPING * np.trace(h) / 24 * np.eye(24)
    q = int4.unpack(packed, 24).double().numpy()
    steps = scale.double().repeat_interleave(16, 1)[:, :24].numpy()

    def loss(row: int, numbers: np.ndarray) -> float:
        off = weight[row].double().numpy() - numbers * steps[row]
        return float(off @ h @ off)

    worse = total = 0
    for row in range(6):
        for column in range(24):
            for step in (-1, 1):
                moved = q[row].copy()
                moved[column] += step
                if -8 <= moved[column] <= 7:
                    total += 1
                    worse += loss(row, moved) >= loss(row, q[row]) * (1 - 1e-9)
    assert worse >= 0.98 * total  # four sweeps leave a few


def test_independent_inputs_are_rounded_to_the_nearest() -> None:
    """Where H is diagonal there is nothing to make up for."""
    weight, k = torch.randn(8, 32, generator=G), 32
    plain = InputStatistics.of_dense(torch.eye(k, dtype=torch.float64), torch.zeros(k, dtype=torch.float64), 1000)
    packed, scale = round_int4(weight, plain, 32)
    nearest, its_scale = int4.quantize_weight(weight, 32)
    assert torch.equal(scale, its_scale) and torch.equal(packed, nearest)


def test_compiled_rounding_is_nearer_and_needs_data() -> None:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    x = correlated(1200, 96)
    with torch.no_grad():
        want = model(x[600:])
    for cls in (rt.W4A8, rt.W4A16):
        off = {}
        for rounding in ("nearest", "gptq"):
            fast = rt.compile(model, (x[:1],), cls(rounding=rounding), calibration=[x[:600]])
            off[rounding] = float((fast(x[600:]) - want).norm() / want.norm())
        assert off["gptq"] < 0.8 * off["nearest"]
        with pytest.raises(FormatError, match="calibration"):
            rt.compile(model, (x[:1],), cls(rounding="gptq"))


def test_rounding_of_a_drop_in_layer_is_refused() -> None:
    with pytest.raises(UnsupportedProblem, match="rounding"):
        rt.nn.QuantLinear.from_float(nn.Linear(64, 64), rt.W4A8(rounding="gptq"))


def test_constant_inputs_are_no_trouble() -> None:
    """Columns that are always zero, and fewer rows than columns."""
    weight = torch.randn(8, 40, generator=G)
    x = torch.randn(12, 40, generator=G)
    x[:, ::2] = 0
    packed, scale = round_int4(weight, statistics(x), 16)
    assert torch.isfinite(scale).all()
    assert output_error(weight, packed, scale, x, 16) < output_error(weight, *int4.quantize_weight(weight, 16), x, 16)
    inner, outer = factors(weight, 4, statistics(x))
    assert torch.isfinite(inner).all() and torch.isfinite(outer).all()
    packed, scale = round_int4(weight, statistics(torch.zeros(12, 40)), 16)
    assert torch.isfinite(scale).all()


def test_a_weight_may_lie_in_any_order() -> None:
    weight = torch.randn(64, 48, generator=G)
    assert all(
        torch.equal(a, b) for a, b in zip(int4.quantize_weight(weight.T), int4.quantize_weight(weight.T.contiguous()))
    )
