"""torch.ops.rtaccel: opcheck, and the same bits through torch.compile, torch.export, vmap, tracing and fake tensors."""

from __future__ import annotations

import gc
import os
import shutil
import weakref

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn import QuantLinear, ops

op = ops.linear_w8a8


def make(static: bool = True, k: int = 24, n: int = 7, bias: bool = True, seed: int = 0) -> QuantLinear:
    torch.manual_seed(seed)
    return QuantLinear.from_float(nn.Linear(k, n, bias=bias), rt.W8A8(), torch.randn(64, k) if static else None)


def numbers(layer: QuantLinear) -> tuple[Tensor | None, ...]:
    return (layer.qweight, layer.weight_scale, layer.bias, layer.input_scale, layer.input_zero_point)


SHAPES = [(24,), (1, 24), (5, 24), (2, 3, 24), (0, 24), (2, 0, 24), (1, 1, 2, 1, 1, 2, 1, 1, 24)]
LAYOUTS = {
    "plain": lambda x: x,
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(x.shape) if x.dim() > 1 and x.shape[0] else x,
    "requires grad": lambda x: x.requires_grad_(),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("static", [True, False])
def test_opcheck_shapes(static: bool, shape: tuple[int, ...]) -> None:
    torch.library.opcheck(op, (torch.randn(shape), *numbers(make(static))))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_opcheck_layouts(layout: str) -> None:
    torch.library.opcheck(op, (LAYOUTS[layout](torch.randn(5, 24)), *numbers(make())))


@pytest.mark.parametrize(
    "options", [{"activation": "relu"}, {"activation": "elu", "activation_parameter": 0.7}], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck_options(bias: bool, options: dict) -> None:
    torch.library.opcheck(op, (torch.randn(3, 24), *numbers(make(bias=bias))), options)


@pytest.mark.parametrize("static", [True, False])
def test_same_bits_as_the_module(static: bool) -> None:
    layer = make(static)
    for shape in SHAPES:
        x = torch.randn(shape)
        assert torch.equal(op(x, *numbers(layer)), layer(x))
    x = torch.randn(4, 24)
    assert torch.equal(op(x, *numbers(layer), "relu"), layer(x).relu())
    assert not op(x.requires_grad_(), *numbers(layer)).requires_grad


@pytest.mark.parametrize(
    "x", [torch.randn(2, 23), torch.tensor(1.0), torch.randn(2, 24).double()], ids=["k", "0", "f64"]
)
def test_wrong_input(x: Tensor) -> None:
    tensors = numbers(make())
    with pytest.raises(rt.ShapeError, match="linear_w8a8"):
        op(x, *tensors)
    with pytest.raises(rt.ShapeError, match="linear_w8a8"):
        op(x.to("meta"), *(t.to("meta") for t in tensors))


def test_wrong_weights() -> None:
    layer, x = make(), torch.randn(2, 24)
    weight, scale, bias, input_scale, zero_point = numbers(layer)
    for bad in (
        (weight.float(), scale, bias, input_scale, zero_point),
        (weight, scale[:-1], bias, input_scale, zero_point),
        (weight, -scale, bias, input_scale, zero_point),
        (weight, scale, bias, input_scale, None),
        (weight, scale, bias, None, zero_point),
        (weight, scale, bias, input_scale, zero_point + 1000),
    ):
        with pytest.raises(rt.FormatError, match="linear_w8a8"):
            op(x, *bad)
    with pytest.raises(rt.RtaccelError):
        op(x, *numbers(layer), "no such activation")


# -- the packed plan behind the op -------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4])
def test_a_change_in_place_is_seen(index: int) -> None:
    layer, other, x = make(seed=1), make(seed=2), torch.randn(3, 24) * 3
    other.input_zero_point.add_(9)
    tensors, changed = numbers(layer), numbers(other)
    old = op(x, *tensors)
    tensors[index].copy_(changed[index])
    fresh = [t.clone() for t in tensors]
    assert torch.equal(op(x, *tensors), op(x, *fresh))
    assert not torch.equal(op(x, *tensors), old)
    replaced = [*fresh]
    replaced[index] = fresh[index].clone()
    assert torch.equal(op(x, *replaced), op(x, *fresh))


def test_packed_once_and_freed_with_the_weight(monkeypatch) -> None:
    packed = []
    real = ops.Packed
    monkeypatch.setattr(ops, "Packed", lambda *args: packed.append(args) or real(*args))
    tensors, x = [t.clone() for t in numbers(make())], torch.randn(2, 24)
    for _ in range(3):
        op(x, *tensors)
        op(x, *tensors, "relu")
    assert len(packed) == 2
    packed.clear()
    gc.collect()
    before, alive = len(ops._cache), weakref.ref(tensors[0])
    tensors.clear()
    gc.collect()
    assert alive() is None
    assert len(ops._cache) == before - 1


def test_weights_made_in_inference_mode() -> None:
    x = torch.randn(2, 24)
    with torch.inference_mode():
        tensors = [t.clone() for t in numbers(make())]
        first = op(x, *tensors)
        tensors[2].add_(1)
        assert not torch.equal(op(x, *tensors), first)


# -- compilers and transforms ------------------------------------------------------------------------------------------


@pytest.fixture
def swapped() -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 5)).eval()
    report = rt.quantize_(
        model, {"0": "w8a8", "2": rt.W8A8("dynamic"), "4": "w8a8"}, None, [torch.randn(64, 24)], force=True
    )
    assert report.swapped == 3
    return model


@pytest.mark.parametrize("warm", [False, True])
def test_torch_compile(swapped: nn.Module, warm: bool) -> None:
    x = torch.randn(4, 24)
    want = swapped(x) if warm else None
    torch._dynamo.reset()
    compiled = torch.compile(swapped, fullgraph=True, backend="aot_eager")
    for rows in (4, 1, 9):
        y = torch.randn(rows, 24)
        assert torch.equal(compiled(y), swapped(y))
    assert torch.equal(compiled(x), swapped(x) if want is None else want)
    swapped[0].bias = swapped[0].bias + 1
    assert torch.equal(compiled(x), swapped(x))


@pytest.mark.turns(3)
@pytest.mark.skipif(not (os.environ.get("CXX") or shutil.which("g++")), reason="inductor needs a C++ compiler")
def test_torch_compile_inductor(swapped: nn.Module) -> None:
    torch._dynamo.reset()
    model = nn.Sequential(swapped[0], swapped[1], swapped[2])  # relu alone between: its bits are the same everywhere
    x = torch.randn(4, 24)
    with torch.no_grad():
        assert torch.equal(torch.compile(model, fullgraph=True)(x), model(x))


@pytest.mark.parametrize("strict", [False, True])
def test_torch_export(swapped: nn.Module, strict: bool, tmp_path) -> None:
    x = torch.randn(4, 24)
    want = swapped(x)
    rows = torch.export.Dim("rows")
    program = torch.export.export(swapped, (x,), dynamic_shapes=({0: rows},), strict=strict)
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(op) == 3
    torch.export.save(program, tmp_path / "model.pt2")
    for module in (program.module(), torch.export.load(tmp_path / "model.pt2").module()):
        assert torch.equal(module(x), want)
        assert torch.equal(module(x[:3]), want[:3])
    assert torch.equal(swapped(x), want)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("warm", [False, True])
def test_tracing(swapped: nn.Module, warm: bool) -> None:
    x, y = torch.randn(4, 24), torch.randn(2, 24)
    if warm:
        swapped(x)
    for traced in (torch.jit.trace(swapped, (x,)), torch.fx.symbolic_trace(swapped)):
        assert torch.equal(traced(y), swapped(y))


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("warm", [False, True])
def test_vmap(static: bool, warm: bool) -> None:
    layer, x = make(static), torch.randn(3, 4, 24)
    if warm:
        layer(x[0])
    want = torch.stack([layer(row) for row in x])
    assert torch.equal(torch.func.vmap(layer)(x), want)
    assert torch.equal(torch.func.vmap(layer, in_dims=1)(x), want.transpose(0, 1))
    assert torch.equal(torch.func.vmap(torch.func.vmap(layer))(x), want)
    assert torch.equal(torch.func.vmap(layer, in_dims=2)(x.movedim(0, 2).contiguous()), want)


def test_vmap_over_an_ensemble() -> None:
    layers, x = [make(seed=s) for s in range(3)], torch.randn(4, 24)
    state = {name: torch.stack([layer.state_dict()[name] for layer in layers]) for name in layers[0].state_dict()}
    base = make(seed=9)
    base(x)

    def call(buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return torch.func.functional_call(base, buffers, inputs)

    want = torch.stack([layer(x) for layer in layers])
    assert torch.equal(torch.func.vmap(call, in_dims=(0, None))(state, x), want)
    assert torch.equal(base(x), make(seed=9)(x))


def test_functionalize_and_grad() -> None:
    layer, x = make(), torch.randn(4, 24)
    want = op(x, *numbers(layer))
    assert torch.equal(torch.func.functionalize(op)(x, *numbers(layer)), want)
    gradient = torch.func.grad(lambda v: (layer(v) * v[:, :7]).sum())(x)
    assert torch.equal(gradient[:, :7], want)  # the layer's own result is a constant to autograd
    assert (gradient[:, 7:] == 0).all()


@pytest.mark.parametrize("warm", [False, True])
def test_fake_tensors(warm: bool) -> None:
    from torch._subclasses import FakeTensorMode

    layer = make()
    if warm:
        layer(torch.randn(2, 24))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        y = layer(mode.from_tensor(torch.randn(2, 3, 24)))
        assert isinstance(y, torch._subclasses.FakeTensor)
        assert y.shape == (2, 3, 7)
        with pytest.raises(rt.ShapeError):
            layer(mode.from_tensor(torch.randn(2, 23)))
