"""MLP: the bits of its layers one after another and of the compiled chain, int4 in exact fractions, NaN rows, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.core.registry import operator
from rtaccel.core.stage import QParams, Stage, Value
from rtaccel.kernels.mlp import contract
from rtaccel.kernels.mlp.contract import join, make_stage
from tests.support import decoded
from tests.support.networks.int8_layers import same
from tests.support.one_stage import INF, NAN, check_no_samples, check_same, check_samples_apart, compiled_both

MLP, LINEAR, QUANTIZE = (operator(name) for name in ("mlp", "linear", "quantize"))
CHAINS = [((1, 1, 1), ("relu", "none")), ((13, 21, 5), ("none", "relu")), ((33, 40, 17, 9), ("relu", "none", "none"))]


def layers_of(stage: Stage) -> tuple[Stage, list[Stage]]:
    """The stage of `quantize` and those of `linear`, read from the attributes and tensors of the chain."""
    attrs, values = stage.attrs, []
    for i, width in enumerate(attrs["widths"][:-1]):
        values.append(Value(f"q{i}", width, "int8", QParams(attrs["scales"][i], attrs["zero_points"][i])))
    layers = []
    for i, x in enumerate(values):
        tensors = {name.rsplit("_", 1)[0]: t for name, t in stage.tensors.items() if name.endswith(f"_{i}")}
        own: dict[str, Any] = {"activation": attrs["activations"][i], "activation_parameter": attrs["parameters"][i]}
        if "group_size" in attrs:
            own["group_size"] = attrs["group_size"]
        y = values[i + 1] if i + 1 < len(values) else stage.outputs[0]
        layers.append(Stage("linear", "l", (x,), (y,), tensors, own))
    return Stage("quantize", "q", stage.inputs, tuple(values[:1])), layers


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("widths", "activations"), CHAINS, ids=str)
def test_int8_is_its_layers_one_after_another(widths: Sequence[int], activations: Sequence[str], rows: int) -> None:
    stage = make_stage(widths, activations, seed=sum(widths))
    source, layers = layers_of(stage)
    x = torch.randn(rows, widths[0]) * 2
    (t,) = QUANTIZE.reference(source, x)
    formula = t
    for layer in layers:
        formula = decoded.int8_layer(layer, layer.tensors["weight"], formula)
        (t,) = LINEAR.reference(layer, t)
        assert same(t, formula)
    check_same(stage, (x,), (t,))


def rounded(exact: Fraction) -> Fraction:
    """To the nearest float32, ties to even; for numbers that are not below its normal ones."""
    if exact == 0:
        return exact
    exponent = -200
    while abs(exact) >= Fraction(2) ** (exponent + 24):
        exponent += 1
    unit = Fraction(2) ** exponent
    return round(exact / unit) * unit


def int4_layer(layer: Stage, x: Tensor) -> Tensor:
    """float32 sums in the order of the groups, each product and sum rounded once; then one product and one sum."""
    size, source, y = layer.attrs["group_size"], layer.inputs[0].quant, layer.outputs[0].quant
    q, scales = decoded.int4_values(layer.tensors["weight"], layer.inputs[0].width), layer.tensors["group_scale"]
    multiplier = np.float32(source.scale)
    real = decoded.real_weight(layer).sum(1)
    offset = (layer.tensors["bias"].double() - float(multiplier) * source.zero_point * real).float().numpy()
    if y is not None:
        inverse = np.float32(1) / np.float32(y.scale)
        multiplier, offset = multiplier * inverse, offset * inverse
    sums = np.zeros((x.shape[0], q.shape[0]), dtype=np.float32)
    for m in range(x.shape[0]):
        for n in range(q.shape[0]):
            acc = Fraction(0)
            for g, scale in enumerate(scales[n].tolist()):
                part = slice(g * size, (g + 1) * size)
                acc = rounded(int((x[m, part].long() * q[n, part]).sum()) * Fraction(scale) + acc)
            sums[m, n] = float(acc)
    t = sums * multiplier + offset
    if layer.attrs["activation"] == "relu":
        t = np.maximum(t, np.float32(0))
    if y is None:
        return torch.from_numpy(t)
    return torch.from_numpy(np.clip(np.rint(t.astype(np.float64)) + y.zero_point, -128, 127).astype(np.int8))


@pytest.mark.parametrize(
    ("widths", "activations", "group_size"),
    [((1, 1, 1), ("none", "none"), 16), ((35, 20, 7), ("relu", "none"), 16), ((70, 33, 9, 4), ("relu",) * 3, 32)],
)
def test_int4_is_its_layers_in_exact_fractions(
    widths: Sequence[int], activations: Sequence[str], group_size: int
) -> None:
    stage = make_stage(widths, activations, seed=5, group_size=group_size)
    source, layers = layers_of(stage)
    x = torch.randn(3, widths[0]) * 2
    (t,) = QUANTIZE.reference(source, x)
    for layer in layers:
        t = int4_layer(layer, t)
    check_same(stage, (x,), (t,))


def test_int4_products_and_sums_round_once() -> None:
    """Sums beyond 2^16 times a scale of 8 bits need more than the 24 of float32: only a fused multiply-add keeps them."""
    stage = make_stage((600, 40, 3), ("none", "none"), group_size=256)
    q = torch.randint(4, 8, (40, 600), dtype=torch.uint8) + 8
    scale = (torch.rand(40, 3) * 0.001 + 0.001).bfloat16().float()
    packed = q[:, 0::2] | (q[:, 1::2] << 4)
    stage = replace(stage, tensors={**stage.tensors, "weight_0": packed, "group_scale_0": scale})
    source, layers = layers_of(stage)
    x = torch.rand(3, 600) * 0.5 + 2
    (t,) = QUANTIZE.reference(source, x)
    assert (t.double() @ decoded.int4_values(packed, 600).double().T > 2**17).all()
    first = replace(layers[0], outputs=(Value("y", 40),))
    assert same(contract.in_order(first)(t), int4_layer(first, t))
    for layer in layers:
        t = int4_layer(layer, t)
    check_same(stage, (x,), (t,))


def chain(*widths: int) -> nn.Sequential:
    layers = [part for k, n in pairwise(widths) for part in (nn.Linear(k, n), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).eval()


def test_the_compiled_layers_give_its_bits() -> None:
    """What a CPU runs as four stages is one launch on a GPU: the same numbers."""
    calibration = [torch.randn(64, 12)]
    native, plain, found = compiled_both(
        chain(12, 40, 24, 6), (torch.randn(1, 12),), rt.W8A8("static"), calibration=calibration
    )
    assert found == ["quantize", "linear", "linear", "linear"]
    source, *layers = native._program.stages
    joined = join("m", source, layers)
    assert joined.attrs["widths"] == (12, 40, 24, 6)
    x = torch.randn(9, 12) * 2
    x[3, 1] = NAN
    (want,) = MLP.reference(joined, x)
    assert want[3].isnan().all()
    assert same(native(x), want) and same(plain(x), want)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("group_size", [0, 32], ids=["int8", "int4"])
def test_a_bad_row_is_nan(group_size: int, bad: float) -> None:
    stage = make_stage((13, 21, 5), ("relu", "none"), group_size=group_size)
    x = torch.randn(4, 13)
    (want,) = MLP.reference(stage, x)
    x[1, 12] = bad
    want[1] = NAN
    check_same(stage, (x,), (want,))


@pytest.mark.parametrize("group_size", [0, 32], ids=["int8", "int4"])
def test_samples_are_apart(group_size: int) -> None:
    stage = make_stage((13, 21, 5), ("relu", "none"), group_size=group_size)
    check_samples_apart(stage, (torch.randn(5, 13),))
    check_no_samples(stage)


@pytest.mark.parametrize(
    ("attrs", "words"),
    [
        (
            {"activations": ("gelu", "none")},
            r"2 layers, hidden activations \('gelu',\); expected two layers or more with",
        ),
        ({"activations": ("tanh", "none")}, "leaky_relu, none, relu between them"),
        ({"activations": ("relu",)}, "1 layers"),
        ({"scales": (0.1,)}, "two layers or more"),
        ({"zero_points": (0, 0, 0)}, "two layers or more"),
        ({"parameters": ()}, "two layers or more"),
        ({"widths": (13, 21)}, "two layers or more"),
    ],
)
def test_chains_that_are_refused(attrs: dict[str, Any], words: str) -> None:
    good = make_stage((13, 21, 5), ("relu", "none"))
    with pytest.raises(rt.FormatError, match=f"mlp: got .*{words}"):
        MLP.lower(replace(good, attrs={**good.attrs, **attrs}))


def test_one_format_for_all_layers() -> None:
    source, int8 = layers_of(make_stage((16, 16, 16), ("relu", "none")))
    _, int4 = layers_of(make_stage((16, 16, 16), ("relu", "none"), group_size=16))
    _, wider = layers_of(make_stage((16, 16, 16), ("relu", "none"), group_size=32))
    assert join("m", source, int4).attrs["group_size"] == 16
    for mixed in ([int8[0], int4[1]], [int4[0], int8[1]], [int4[0], wider[1]]):
        with pytest.raises(rt.FormatError, match=r"mlp: got layers with groups of .*; expected one format for all"):
            join("m", source, mixed)
    with pytest.raises(rt.FormatError, match="1 layers"):
        join("m", source, int8[1:])
