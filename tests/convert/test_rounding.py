"""Weights rounded for their inputs, biases that take up the mean error, columns balanced between layers."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.convert.weights.gptq import round_int4, round_int8
from rtaccel.convert.weights.prune import InputStatistics
from rtaccel.formats import int4, int8

SCHEMES = [rt.W8A8, rt.W8A16, rt.W4A8, rt.W4A16]


def correlated(rows: int, k: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 6, generator=g) @ torch.randn(6, k, generator=g)
        + 0.3 * torch.randn(rows, k, generator=g)
        + 0.5
    )


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96, bias=False), nn.LeakyReLU(0.1), nn.Linear(96, 16)
    ).eval()


def off(fast: Any, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        want = model(x)
    return float((fast(x) - want).norm() / want.norm())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 150), st.integers(0, 99))
def test_rounding_loses_no_more_than_to_the_nearest_on_what_it_has_seen(n: int, k: int, seed: int) -> None:
    """The damped error of the outputs, which both minimize; scales of int8 are the format's own."""
    x = correlated(300, k, seed).double()
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(seed))
    statistics = InputStatistics.of_dense(x.T @ x / 300, x.mean(0), 300)
    h = statistics.second + 0.01 * statistics.second.diagonal().mean() * torch.eye(k, dtype=torch.float64)

    def lost(made: Tensor) -> Tensor:
        d = w.double() - made.double()
        return ((d @ h) * d).sum()

    q, scale = round_int8(w, statistics)
    nearest, same = int8.quantize_weight(w)
    assert torch.equal(scale, same)
    assert int(q.abs().max()) <= 127
    step = scale.double()[:, None]
    assert lost(q * step) <= lost(nearest * step) * (1 + 1e-9) + 1e-12
    packed, groups = round_int4(w, statistics, 32)
    assert torch.equal(groups.bfloat16().float(), groups)
    plain, plain_scale = int4.quantize_weight(w, 32)
    assert (
        lost(int4.dequantize(packed, groups, k, 32)) <= 1.3 * lost(int4.dequantize(plain, plain_scale, k, 32)) + 1e-12
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_errors_fall_in_the_order_of_the_effort(scheme: Any) -> None:
    """On inputs that were not seen. W8A8 loses most by its activations, so little is gained there."""
    model, x = network(), correlated(4000, 64)
    seen, fresh = x[:2000], x[2000:]
    errors = [
        off(rt.compile(model, (x[:1],), scheme(rounding=r), calibration=[seen]), model, fresh)
        for r in ("nearest", "bias", "gptq")
    ]
    assert errors[1] < errors[0]
    assert errors[2] < (0.6 if scheme is not rt.W8A8 else 0.99) * errors[0]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rounding", ["bias", "gptq"])
def test_drop_in_layers_have_the_numbers_of_a_compiled_model(scheme: Any, rounding: str) -> None:
    model, x = network(), correlated(500, 64)
    chosen = scheme(rounding=rounding)
    fast = rt.compile(model, (x[:1],), chosen, calibration=[x])
    layers = copy.deepcopy(model)
    report = rt.quantize_(layers, chosen, calibration=[x], force=True)
    assert report.swapped == 3
    kept = [t for t in fast.state_dict().values() if isinstance(t, Tensor)]
    for layer in (layers[0], layers[2], layers[4]):
        if scheme is rt.W8A8 and layer is layers[0]:
            continue  # a compiled model may bring its columns to one range first
        assert any(t.dtype == layer.qweight.dtype and torch.equal(t, layer.qweight) for t in kept)
        assert any(t.dtype == layer.bias.dtype and torch.equal(t, layer.bias) for t in kept)
    assert rt.restore_(layers) == 3
    assert torch.equal(layers(x), model(x))


def test_convolutions_are_rounded_to_the_nearest_and_the_report_says_so() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU()).eval(), torch.randn(20, 3, 16)
    report = rt.quantize_(model, rt.W8A8(rounding="gptq"), calibration=[x], force=True)
    assert "rounded to the nearest" in report.entries[0].reason


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_needs_calibration_says_so(scheme: Any) -> None:
    model = network()
    for options in ({"rounding": "gptq"}, {"rounding": "bias"}, {"balance": "activations"}):
        with pytest.raises(rt.FormatError, match="calibration"):
            rt.compile(model, (torch.zeros(1, 64),), scheme(**options))
    with pytest.raises(rt.FormatError, match="calibration"):
        rt.quantize_(model, scheme(rounding="gptq"))
    with pytest.raises(rt.UnsupportedProblem, match="balance"):
        rt.quantize_(model, scheme(balance="weights"), calibration=[torch.zeros(4, 64)])
    with pytest.raises(rt.UnsupportedProblem, match="rounding"):
        rt.nn.QuantLinear.from_float(model[0], scheme(rounding="gptq"))
    for options in ({"rounding": "up"}, {"balance": "both"}):
        with pytest.raises(rt.FormatError, match=next(iter(options))):
            scheme(**options)
    assert all(type(layer) in (nn.Linear, nn.ReLU, nn.LeakyReLU) for layer in model)


# -- balance -----------------------------------------------------------------------------------------------------------


def uneven(model: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """The same function, with columns between its layers of ranges some hundred times apart."""
    g = torch.Generator().manual_seed(seed)
    layers = [m for m in model if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    with torch.no_grad():
        for a, b in pairwise(layers):
            factor = torch.exp(1.5 * torch.randn(a.weight.shape[0], generator=g))
            a.weight.mul_(factor.view(-1, *[1] * (a.weight.dim() - 1)))
            if a.bias is not None:
                a.bias.mul_(factor)
            n, c = b.weight.shape[:2]
            groups = getattr(b, "groups", 1)
            b.weight.copy_(
                (b.weight.reshape(groups, n // groups, c, -1) / factor.view(groups, 1, c, 1)).reshape(b.weight.shape)
            )
    return model.eval()


def images() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=2), nn.ReLU(), nn.Conv2d(16, 4, 1)
    )


def sequences() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8), nn.Conv1d(8, 4, 1))


CASES = {"linear": (network, (64,)), "images": (images, (3, 8, 8)), "sequences": (sequences, (3, 20))}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("balance", ["weights", "activations"])
@pytest.mark.parametrize("scheme", [rt.W8A8, rt.W4A8, rt.W8A16])
def test_balance_evens_out_what_uneven_columns_cost(case: str, balance: Any, scheme: Any) -> None:
    make, shape = CASES[case]
    x = torch.randn(300, *shape, generator=torch.Generator().manual_seed(0))
    plain, rough = make().eval(), uneven(make())
    even = off(rt.compile(plain, (x[:1],), scheme(), calibration=[x]), plain, x)
    before = off(rt.compile(rough, (x[:1],), scheme(), calibration=[x]), rough, x)
    fast = rt.compile(rough, (x[:1],), scheme(balance=balance), calibration=[x])
    after = off(fast, rough, x)
    floats = scheme is rt.W8A16 and case != "linear"  # convolutions are float32 then
    assert "is balanced with" in fast.explain()
    assert after < (2.0 * even + 1e-3)
    assert floats or after < 0.5 * before


@pytest.mark.parametrize("case", CASES)
def test_the_float_function_stays(case: str) -> None:
    """W8A16 convolutions are float32: what is left is the rounding of the factors, K of them to a sum."""
    from rtaccel.convert.batch_mode import choose_batch_mode
    from rtaccel.convert.quantization.balance import balanced
    from rtaccel.core.scheme import SchemeMap

    make, shape = CASES[case]
    model, x = uneven(make()), torch.randn(7, *shape)
    exported, graph = choose_batch_mode(copy.deepcopy(model), (x,))
    even = balanced(exported, graph, SchemeMap(rt.W8A8(balance="weights")), None, {}, [])
    assert len(even.factors) == sum(isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d)) for m in model) - 1
    changed = copy.deepcopy(model)
    layers = dict(changed.named_modules())
    with torch.no_grad():
        for op_node in even.graph.op_nodes:
            layer = layers.get(op_node.name)
            if layer is not None and "weight" in op_node.tensors:
                layer.weight.copy_(op_node.tensors["weight"].reshape(layer.weight.shape))
                if layer.bias is None:
                    layer.bias = nn.Parameter(torch.zeros(len(layer.weight)))
                layer.bias.copy_(op_node.tensors["bias"])
    assert not torch.equal(layers["0"].weight, model[0].weight)
    want, got = model.double()(x.double()), changed.double()(x.double())
    assert (got - want).abs().max() <= 8 * torch.finfo(torch.float32).eps * want.abs().max() * 10


def test_a_norm_between_two_layers_is_no_obstacle() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4)).eval()
    x = torch.randn(500, 16)
    with torch.no_grad():
        model[1].weight.copy_(torch.exp(1.5 * torch.randn(24)))
        model[3].weight.div_(model[1].weight)
    before = off(rt.compile(model, (x[:1],), rt.W8A8(), calibration=[x]), model, x)
    fast = rt.compile(model, (x[:1],), rt.W8A8(balance="activations"), calibration=[x])
    assert "3 is balanced with 0" in fast.explain()
    assert off(fast, model, x) < 0.5 * before


def test_a_value_that_is_read_elsewhere_stays() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.relu(self.a(x))
            return torch.tanh(h) + self.b(h)

    torch.manual_seed(0)
    model, x = Skips().eval(), torch.randn(100, 8)
    fast = rt.compile(model, (x[:1],), rt.W8A8(balance="weights"), calibration=[x])
    assert "b is not balanced" in fast.explain()
    assert off(fast, model, x) < 0.03


def test_balance_goes_with_rounding_and_streams() -> None:
    x = correlated(2000, 64)
    model = uneven(network())
    both = rt.W4A8(rounding="gptq", balance="weights")
    alone = off(rt.compile(model, (x[:1],), rt.W4A8(balance="weights"), calibration=[x]), model, x)
    fast = rt.compile(model, (x[:1],), both, calibration=[x])
    assert off(fast, model, x) < 0.7 * alone

    torch.manual_seed(0)
    causal = uneven(nn.Sequential(nn.Conv1d(4, 16, 1), nn.ReLU(), nn.Conv1d(16, 8, 1)))
    windows = torch.randn(50, 4, 12)
    live = rt.stream(causal, windows[:1, :, 0], rt.W8A8(balance="weights"), calibration=[windows])
    whole = rt.compile(causal, (windows[:1],), rt.W8A8(balance="weights"), calibration=[windows])(windows[:1])
    for t in range(12):
        y = live.step(windows[:1, :, t])
        assert (y.flatten() - whole[0, :, t]).abs().max() <= 0.02 * whole.abs().max()
