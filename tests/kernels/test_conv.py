"""Convolutions: refusals, streams against windows, flat and marked inputs, and the drop-in modules."""

from __future__ import annotations

import copy
import io
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
import rtaccel._native as native
from rtaccel.core.registry import impls, operator
from rtaccel.core.stage import GraphIO, Problem, QParams, Stage, Value
from rtaccel.core.traits import Node
from rtaccel.kernels._core.cpu import States, build
from rtaccel.kernels.conv.cases import SHAPES, STREAMS, Shape, make_inputs, make_stage
from rtaccel.nn import QuantConv1d, QuantConv2d
from tests.support.one_stage import check_no_samples

CONV = operator("conv")
KERNELS = [i.name for i in impls("cpu", "conv") if not native.reject("conv", i.name, {"weight_dtype": "int8"})]
FORMS = [
    (kernel, scheme, native.unsuited("conv", kernel, {"weight_dtype": "float32" if scheme == "float32" else "int8"}))
    for kernel in KERNELS
    for scheme in ("float32", "static", "self")
]


def change(stage: Stage, **attrs: object) -> Stage:
    return replace(stage, attrs={**stage.attrs, **attrs})


@pytest.mark.parametrize("form", ["float32", "static", "dynamic"])
@pytest.mark.parametrize("shape", ["causal", "live"])
def test_nothing_comes_of_no_samples(shape: str, form: str) -> None:
    check_no_samples(make_stage(SHAPES[shape], form))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attrs",
    [
        {"groups": 2}, {"groups": 0}, {"kernel": (1, 4)}, {"kernel": (1,)}, {"out_size": (1, 0)}, {"stride": (1, 0)},
        {"padding": (0, -1)}, {"in_size": (1, 10)}, {"out_size": (1, 8)}, {"dilation": None}, {"in_steps": (0, 0)},
        {"out_steps": (3, 99)}, {"in_steps": (2, 1)},
    ],
)  # fmt: skip
def test_geometry_that_does_not_fit_is_refused(attrs: dict[str, object]) -> None:
    stage = change(make_stage(SHAPES["causal"], "float32"), **attrs)
    with pytest.raises(rt.ShapeError) as caught:
        CONV.lower(stage)
    assert caught.value.op == "conv" and caught.value.expected


def test_dead_positions_that_are_read_are_refused() -> None:
    stage = make_stage(SHAPES["live"], "float32")
    steps = stage.attrs["in_steps"][1:]
    stage = replace(change(stage, in_steps=steps), inputs=(Value("x", 11, steps=len(steps)),))
    (x,) = make_inputs(stage, 1, 0)
    with pytest.raises(rt.ShapeError, match="in_steps without"):
        CONV.reference(stage, x)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, (2, 3), (2, 1), (1, 2), (3, 1)),
        nn.Conv2d(1, 1, 2, 3),
        nn.Conv2d(1, 1, (3, 2), 1, (0, 1), (1, 4)),
    ],
    ids=["strided", "apart", "dilated"],
)
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_positions_asked_for_are_those_that_are_read(layer: nn.Conv2d, share: float) -> None:
    """Where the gradient of the wanted outputs is not 0. Rows that want different columns, and all rows alike."""
    image = torch.rand(1, 1, 8, 9, requires_grad=True)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    y = layer(image)[0, 0]
    wanted = torch.rand(y.shape, generator=torch.Generator().manual_seed(0)) < share
    (read,) = torch.autograd.grad((y * wanted).sum(), image)
    sizes = {"in_size": (8, 9), "out_size": tuple(y.shape), "kernel": layer.kernel_size}
    attrs = {**sizes, "stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    assert CONV.rows_needed is not None
    asked = wanted.flatten().nonzero().flatten().tolist()
    needed = CONV.rows_needed.needed(cast(Node, SimpleNamespace(attrs=attrs)), 0, image.numel(), asked)
    assert needed is not None and sorted(needed) == read.flatten().nonzero().flatten().tolist()


def test_sums_beyond_int32_are_refused_for_int8_only() -> None:
    shape = Shape(32_769, 1, (1, 2), (1, 2))
    with pytest.raises(rt.UnsupportedProblem, match="65538 products"):
        CONV.lower(make_stage(shape, "static"))
    assert CONV.lower(make_stage(shape, "float32"))["dynamic"] == 0


def test_types_that_do_not_go_together_are_refused() -> None:
    stage = make_stage(SHAPES["causal"], "float32")
    int8 = Value("y", 7, "int8", QParams(0.1, 0), 9)
    with pytest.raises(rt.UnsupportedProblem):
        CONV.lower(replace(stage, outputs=(int8,)))
    with pytest.raises(rt.ShapeError):
        CONV.lower(replace(make_stage(SHAPES["causal"], "static"), inputs=(Value("x", 5, "int8", None, 9),)))
    with pytest.raises(rt.ShapeError, match="other"):
        CONV.lower(replace(stage, inputs=(*stage.inputs, Value("other", 6, steps=9))))
    with pytest.raises(rt.UnsupportedProblem, match="stream"):
        CONV.lower(make_stage(STREAMS["stream"], "dynamic"))
    made = make_stage(STREAMS["stream"], "float32")
    with pytest.raises(rt.ShapeError, match="ring"):
        CONV.lower(replace(made, inputs=made.inputs[:1]))


def test_pool_refusals() -> None:
    from rtaccel.kernels.pool.contract import make_stage as pool_stage

    stage = pool_stage("avg", 3, (1, 6), (1, 2), (1, 2), (0, 0), 1, ("float32", "float32"))
    lower = operator("pool").lower
    assert lower(stage)["taps"] == 2
    with pytest.raises(rt.UnsupportedProblem):
        lower(change(stage, kind="median"))
    with pytest.raises(rt.ShapeError, match="wholly in the padding"):
        lower(change(stage, padding=(0, 2)))


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "scheme"), [form[:2] for form in FORMS if not form[2]])
@pytest.mark.parametrize("name", list(STREAMS))
def test_a_stream_is_the_causal_window(kernel: str, scheme: str, name: str) -> None:
    """Three streams of 25 columns, one of them reset on the way: every answer equals the window so far."""
    shape, length, samples = STREAMS[name], 25, 3
    window = replace(shape, stream=False, causal=True, in_size=(1, length))
    full, step = make_stage(window, scheme, "relu"), make_stage(shape, scheme, "relu")
    ring = step.inputs[1]
    step = replace(step, outputs=(step.outputs[0], ring))
    (x,) = make_inputs(full, samples, seed=5)
    (want,) = CONV.reference(full, x)
    atol = CONV.tolerance(full, x).atol
    plan = build(
        [(step, kernel)], [GraphIO.matrix(step.inputs[0])], [GraphIO.matrix(step.outputs[0])],
        states=States(frozenset((ring.name,)), samples),
    )  # fmt: skip
    for t in range(length):
        y = plan.call((x[:, t].contiguous(),))
        error = (y - want[:, t]).abs()
        assert (error <= (atol[:, t] if isinstance(atol, Tensor) else atol)).all(), f"call {t}"
    plan.reset(0, samples)
    y = plan.call((x[:, 0].contiguous(),))
    assert ((y - want[:, 0]).abs() <= (atol[:, 0] if isinstance(atol, Tensor) else atol)).all()


@pytest.mark.parametrize(("kernel", "scheme"), [form[:2] for form in FORMS if form[2]])
def test_a_plan_refuses_a_kernel_that_takes_other_weights(kernel: str, scheme: str) -> None:
    stage = make_stage(SHAPES["depthwise-64"], scheme)
    with pytest.raises(rt.UnsupportedProblem, match="float32 weights"):
        build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])


# -- numbers that int8 cannot hold ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scheme", ["self", "dynamic"])
@pytest.mark.parametrize("name", ["image", "depthwise-64", "flat"])
def test_a_sample_that_is_not_finite_is_nan_and_alone(kernel: str, scheme: str, name: str) -> None:
    stage = make_stage(SHAPES[name], scheme)
    (x,) = make_inputs(stage, 4, seed=9)
    want = CONV.reference(stage, x)[0]
    with_nan = x.clone()
    with_nan[1].view(-1)[3], with_nan[2].view(-1)[-1] = float("nan"), float("inf")
    plan = build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])
    y = plan.call((with_nan,))
    assert y[1].isnan().all() and y[2].isnan().all()
    assert torch.equal(y[[0, 3]], want[[0, 3]])


def test_every_instruction_set_gives_the_same_bits() -> None:
    if len(KERNELS) < 2:
        pytest.skip("only one instruction set on this CPU")
    for name in ("wide", "depthwise-strided", "c1", "grouped"):
        stage = make_stage(SHAPES[name], "static", "none", seed=3)
        (x,) = make_inputs(stage, 2, seed=4)
        results = [i.prepare(stage, Problem.of(stage, 2))(x)[0] for i in impls("cpu", "conv") if i.name in KERNELS]
        assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("kernel", KERNELS)
def test_sums_do_not_saturate(kernel: str) -> None:
    for groups, c in ((1, 12), (12, 12)):
        shape = Shape(c, 12, (5, 5), (3, 3), groups=groups)
        stage = make_stage(shape, "static")
        tensors = {"weight": torch.full_like(stage.tensors["weight"], -127), "weight_scale": torch.ones(12)}
        stage = replace(stage, tensors=tensors, inputs=(replace(stage.inputs[0], quant=QParams(1.0, 127)),))
        plan = build([(stage, kernel)], [GraphIO.matrix(stage.inputs[0])], [GraphIO.matrix(stage.outputs[0])])
        y = plan.call((torch.full((1, 25, c), -128, dtype=torch.int8),))
        assert (y == float(9 * c // groups * 255 * 127)).all()


# -- modules -----------------------------------------------------------------------------------------------------------

LAYERS = [
    (nn.Conv1d(5, 7, 3), (5, 20)), (nn.Conv1d(6, 12, 4, stride=2, padding=3, dilation=2, groups=3), (6, 25)),
    (nn.Conv1d(8, 8, 3, padding="same", groups=8, bias=False), (8, 17)), (nn.Conv2d(1, 9, (5, 3), stride=(2, 1)), (1, 11, 9)),
    (nn.Conv2d(16, 10, 3, padding=1), (16, 6, 5)), (nn.Conv2d(12, 12, 3, padding="same", groups=12), (12, 7, 6)),
]  # fmt: skip


def quantized(layer: nn.Conv1d | nn.Conv2d, calibration: Tensor | None) -> QuantConv1d | QuantConv2d:
    made = QuantConv1d if isinstance(layer, nn.Conv1d) else QuantConv2d
    return made.from_float(layer, rt.W8A8(), calibration)


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize(("layer", "size"), LAYERS)
def test_module_computes_the_convolution(layer: nn.Conv1d | nn.Conv2d, size: tuple[int, ...], static: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(3, *size)
    q = quantized(layer, x if static else None)
    with torch.no_grad():
        want = layer(x)
        # What the int8 numbers mean, through torch's own convolution in float64.
        if static:
            scale, zero = q.input_scale, q.input_zero_point
            real = ((x / scale).round() + zero).clamp(-128, 127).double().sub(zero).mul(scale)
        else:
            peak = x.flatten(1).abs().amax(1).reshape(-1, *(1 for _ in size))
            real = (x * (127 / peak)).round().double() * (peak / 127).double()
        exact = copy.deepcopy(layer).double()
        shape = (-1, *(1 for _ in q.qweight.shape[1:]))
        exact.weight.copy_(q.qweight.double() * q.weight_scale.double().reshape(shape))
        expected = exact(real)
    y = q(x)
    assert y.shape == want.shape and y.dtype == torch.float32 and not y.requires_grad
    # Quantizing by division instead of a product may step one number over a tie.
    bound = float(q.weight_scale.max()) * 127 * (float(q.input_scale) if static else float(peak.max()) / 127)
    assert (y - expected).abs().max() <= 1.01 * bound + 1e-4
    assert ((y - want).square().mean() / want.square().mean()).sqrt() < 0.03
    torch.testing.assert_close(q(x[1]), y[1], rtol=0, atol=0)  # without a batch
    torch.testing.assert_close(q(x.transpose(-1, -2).contiguous().transpose(-1, -2)), y, rtol=0, atol=0)


def test_module_state_round_trip() -> None:
    torch.manual_seed(0)
    a, x = nn.Conv1d(4, 6, 3), torch.randn(5, 4, 12)
    first, second = quantized(a, x), quantized(nn.Conv1d(4, 6, 3), x * 3)
    want = first(x)
    assert not torch.equal(second(x), want)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(second(x), want)
    assert torch.equal(copy.deepcopy(first)(x), want)
    assert torch.equal(first.half()(x), want)
    first.bias = first.bias + 1.0
    torch.testing.assert_close(first(x), want + 1.0)
    bad = {**second.state_dict(), "weight_scale": torch.full((6,), float("nan"))}
    with pytest.raises(rt.FormatError):
        second.load_state_dict(bad)
    assert torch.equal(second(x), want)
    with pytest.raises(RuntimeError):
        second.load_state_dict({"qweight": second.qweight})


def test_module_refusals() -> None:
    with pytest.raises(rt.UnsupportedProblem, match="padding_mode"):
        quantized(nn.Conv1d(2, 2, 3, padding=1, padding_mode="reflect"), None)
    with pytest.raises(rt.UnsupportedProblem, match="products"):
        quantized(nn.Conv1d(33_000, 1, 2), None)
    with pytest.raises(rt.UnsupportedProblem):
        QuantConv1d.from_float(nn.Linear(3, 3))
    with pytest.raises(rt.UnsupportedProblem):
        QuantConv2d.from_float(nn.Conv1d(3, 3, 3))
    with pytest.raises(rt.UnsupportedProblem):
        QuantConv1d.from_float(nn.Conv1d(3, 3, 3), rt.Float32())
    with pytest.raises(rt.FormatError):
        QuantConv1d.from_float(nn.Conv1d(3, 3, 3), rt.W8A8("static"))
    with pytest.raises(rt.FormatError):
        quantized(nn.Conv1d(3, 3, 3), torch.randn(2, 4, 9))
    layer = quantized(nn.Conv1d(3, 5, 4, dilation=2), None)
    for bad in (
        torch.randn(2, 3, 6), torch.randn(2, 4, 9), torch.randn(3), torch.randn(2, 3, 9).double(), [1.0],
        torch.randn(1, 2, 3, 9), torch.randn(2, 3, 0),
    ):  # fmt: skip
        with pytest.raises(rt.ShapeError):
            layer(bad)
    assert layer(torch.randn(2, 3, 7)).shape == (2, 5, 1)
    assert layer(torch.randn(0, 3, 9)).shape == (0, 5, 3)


def test_module_as_an_op() -> None:
    torch.manual_seed(2)
    x = torch.randn(2, 3, 9, 8)
    layer = quantized(nn.Conv2d(3, 4, 3, padding=1), x)
    exported = torch.export.export(nn.Sequential(layer), (x,)).module()
    assert torch.equal(exported(x), layer(x))
    with torch.no_grad():
        args = tuple(layer._buffers[n] for n in ("qweight", "weight_scale", "bias", "input_scale", "input_zero_point"))
    torch.library.opcheck(
        torch.ops.rtaccel.conv_w8a8.default, (x, *args, [1, 1], [1, 1], [1, 1], [1, 1], 1), raise_exception=True
    )


def test_swap_and_restore() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8), nn.Flatten(), nn.Linear(96, 3)
    ).eval()
    batches = [torch.randn(6, 4, 16)]
    with torch.no_grad():
        want = model(batches[0])
        report = rt.quantize_(model, rt.W8A8(), calibration=batches, force=True)
        assert report.swapped == 3 and isinstance(model[0], QuantConv1d) and isinstance(model[2], QuantConv1d)
        assert ((model(batches[0]) - want).square().mean() / want.square().mean()).sqrt() < 0.05
        assert rt.restore_(model) == 3 and type(model[0]) is nn.Conv1d
        assert torch.equal(model(batches[0]), want)
        report = rt.quantize_(model, rt.W8A8("dynamic"), force=True)
    assert report.swapped == 1 and "size of its input" in str(report)
