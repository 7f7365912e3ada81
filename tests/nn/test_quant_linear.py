"""QuantLinear: the contracts' numbers, every layout and mistake of the input."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.formats.observe import RangeObserver
from rtaccel.nn import QuantLinear, packed
from rtaccel.nn.params.linear import MAX_K
from tests.support.networks.int8_layers import KINDS, make, reference, same

SIZES = [(1, 1), (16, 16), (3, 5), (31, 17), (128, 8), (65, 129), (257, 300)]


@pytest.fixture(params=KINDS)
def layer(request) -> QuantLinear:
    return make(request.param)


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_equals_the_contracts(kind: str, bias: bool, k: int, n: int, nan_filled_empty) -> None:
    layer = make(kind, k, n, bias, seed=k + n)
    for shape in ((k,), (1, k), (5, k), (2, 3, k), (0, k), (2, 0, k)):
        x = torch.randn(shape) * 2
        before = x.clone()
        assert same(layer(x), reference(layer, x)), shape
        assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
def test_portable_backend_gives_the_same_bits(kind: str, monkeypatch) -> None:
    layer = make(kind)
    inputs = [torch.randn(s) for s in ((24,), (3, 24), (2, 3, 24), (0, 24))] + [torch.randn(24, 3).t()]
    inputs[1][1, 5] = float("nan")
    want = [layer(x) for x in inputs]
    monkeypatch.setattr(packed, "plan_group", partial(packed.plan_group, backend="portable"))
    layer.repack()
    assert "portable" in layer.explain()
    assert all(same(layer(x), y) for x, y in zip(inputs, want))


def test_many_dimensions(layer: QuantLinear) -> None:
    x = torch.randn(2, 1, 2, 1, 2, 1, 2, 1, 2, 24)
    assert same(layer(x), reference(layer, x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_error_against_float_is_within_half_a_step(kind: str, k: int, n: int) -> None:
    torch.manual_seed(k)
    module, x = nn.Linear(k, n), torch.randn(9, k) * 3
    scheme = rt.W8A8(kind, observer="absmax")
    layer = QuantLinear.from_float(module, scheme, x if kind == "static" else None)
    # Half a step of rounding, and in static form up to half of one more at the ends, where the zero point was rounded.
    step = layer.input_scale.double() if kind == "static" else (x.abs().amax(1, keepdim=True) / 127 / 2).double()
    weight = module.weight.detach().double()
    bound = step * weight.abs().sum(1) + layer.weight_scale.double() / 2 * (x.double().abs() + step).sum(
        1, keepdim=True
    )
    exact = x.double() @ weight.T + module.bias.detach().double()
    rounding = 4 * torch.finfo(torch.float32).eps * (exact.abs() + module.bias.detach().abs() + bound)
    assert ((layer(x).double() - exact).abs() <= bound * (1 + 1e-5) + rounding).all()
    assert not torch.equal(layer(x).double(), exact)


def test_activation_follows_scheme_and_calibration() -> None:
    module, data = nn.Linear(8, 3), torch.randn(32, 8)
    assert QuantLinear.from_float(module).scheme.activation == "dynamic"
    assert QuantLinear.from_float(module, "w8a8", data).scheme.activation == "static"
    assert QuantLinear.from_float(module, rt.W8A8("dynamic"), data).input_scale is None
    observer = RangeObserver("x")
    observer.observe(data)
    layers = [QuantLinear.from_float(module, rt.W8A8(), c) for c in (data, iter(data.split(8)), observer)]
    assert all(torch.equal(layer.input_scale, layers[0].input_scale) for layer in layers)
    with pytest.raises(rt.FormatError, match="without calibration") as caught:
        QuantLinear.from_float(module, rt.W8A8("static"))
    assert "calibration=" in caught.value.next_step


@pytest.mark.parametrize(
    "calibration", [[], [torch.randn(4, 7)], [torch.tensor(1.0)], ["x"], [torch.zeros(2, 8, dtype=torch.int64)],
                    torch.tensor([[float("nan")] * 8])], ids=["none", "width", "scalar", "text", "int64", "nan"],
)  # fmt: skip
def test_bad_calibration(calibration) -> None:
    with pytest.raises(rt.FormatError):
        QuantLinear.from_float(nn.Linear(8, 3), rt.W8A8(), calibration)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_weights_that_are_not_finite(name: str, value: float) -> None:
    module = nn.Linear(8, 3)
    with torch.no_grad():
        getattr(module, name)[1] = value
    with pytest.raises(rt.FormatError, match=name):
        QuantLinear.from_float(module)


def test_what_cannot_be_a_layer() -> None:
    for module in (nn.Linear(4, 4).half(), nn.Linear(4, 4).double(), nn.Bilinear(2, 2, 2), nn.ReLU()):
        with pytest.raises(rt.UnsupportedProblem, match=r"nn\.Linear"):
            QuantLinear.from_float(module)
    with pytest.raises(rt.UnsupportedProblem, match=str(MAX_K)):
        QuantLinear.from_float(nn.Linear(MAX_K + 1, 1))
    with pytest.raises(rt.UnsupportedProblem, match="at least one feature"):
        QuantLinear(0, 4)
    with pytest.raises(rt.FormatError, match="scheme"):
        QuantLinear(4, 4, scheme="w7a7")
    with pytest.raises(rt.UnsupportedProblem, match="float32"):
        QuantLinear(4, 4, scheme=rt.Float32())


# -- input -------------------------------------------------------------------------------------------------------------

WRONG = {
    "width": (lambda: torch.randn(2, 23), r"\[2, 23\].*24"),
    "scalar": (lambda: torch.tensor(1.0), r"float32\[\]"),
    "float64": (lambda: torch.randn(2, 24).double(), "float64"),
    "float16": (lambda: torch.randn(2, 24).half(), "float16"),
    "bfloat16": (lambda: torch.randn(2, 24).bfloat16(), "bfloat16"),
    "int8": (lambda: torch.zeros(2, 24, dtype=torch.int8), "int8"),
    "complex": (lambda: torch.zeros(2, 24, dtype=torch.complex64), "complex64"),
    "device": (lambda: torch.randn(2, 24, device="meta"), "meta"),
    "sparse": (lambda: torch.randn(2, 24).to_sparse(), "sparse"),
    "list": (lambda: [1.0] * 24, "list"),
    "none": (lambda: None, "NoneType"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("warm", [False, True])
def test_wrong_input(layer: QuantLinear, name: str, warm: bool) -> None:
    make_input, said = WRONG[name]
    x = torch.randn(2, 24)
    if warm:
        layer(x)
    with pytest.raises(rt.ShapeError, match=said) as caught:
        layer(make_input())
    assert caught.value.op == "QuantLinear"
    assert "24" in caught.value.expected
    assert caught.value.next_step
    assert same(layer(x), reference(layer, x))  # still works


def test_storage_that_was_freed(layer: QuantLinear) -> None:
    x = torch.randn(2, 24)
    x.untyped_storage().resize_(0)
    with pytest.raises(rt.ShapeError, match="without memory"):
        layer(x)


def misaligned(x: Tensor, offset: int) -> Tensor:
    memory = bytearray(offset) + bytearray(struct.pack(f"{x.numel()}f", *x.flatten().tolist()))
    return torch.frombuffer(memory, dtype=torch.float32, offset=offset).view(x.shape)


LAYOUTS = {
    "transposed": lambda x: x.t().contiguous().t(),
    "every second column": lambda x: torch.stack([x, torch.full_like(x, 9.0)], -1).flatten(1)[:, ::2],
    "every second row": lambda x: torch.cat([x, torch.full_like(x, 9.0)], 1).view(-1, x.shape[1])[::2],
    "expanded": lambda x: x[:1].expand(5, -1),
    "expanded column": lambda x: x[:, :1].expand(-1, x.shape[1]),
    "offset": lambda x: torch.cat([torch.full((3,), 9.0), x.flatten()])[3:].view(x.shape),
    "flipped": lambda x: x.flip(1),
    "parameter": nn.Parameter,
    "requires grad": lambda x: x.clone().requires_grad_(),
    "misaligned by 1": lambda x: misaligned(x, 1),
    "misaligned by 2": lambda x: misaligned(x, 2),
    "misaligned by 3": lambda x: misaligned(x, 3),
    "imaginary part": lambda x: torch.complex(torch.zeros_like(x), x).conj().imag,
    "size-1 stride": lambda x: torch.as_strided(x, (1, x.shape[1]), (999, 1)),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("warm", [False, True])
def test_layouts(layer: QuantLinear, name: str, warm: bool, nan_filled_empty) -> None:
    x = LAYOUTS[name](torch.randn(5, 24))
    if warm:
        layer(torch.randn(1, 24))
    y = layer(x)
    assert same(y, reference(layer, x.detach().clone(memory_format=torch.contiguous_format)))
    assert not y.requires_grad


def test_subclass_of_tensor(layer: QuantLinear) -> None:
    class Marked(Tensor):
        pass

    x = torch.randn(2, 24)
    assert same(layer(x.as_subclass(Marked)).as_subclass(Tensor), reference(layer, x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_corrupts_itself_alone(layer: QuantLinear, bad: float) -> None:
    x = torch.randn(6, 24)
    clean = layer(x)
    x[2, 23], x[4, 0] = bad, bad
    y = layer(x)
    assert y[[2, 4]].isnan().all()
    assert torch.equal(y[[0, 1, 3, 5]], clean[[0, 1, 3, 5]])


@pytest.mark.parametrize("fill", [0.0, 1e-42, 3e38, -3e38])
def test_extreme_rows(layer: QuantLinear, fill: float) -> None:
    x = torch.full((3, 24), fill)
    assert same(layer(x), reference(layer, x))


def test_defaults_of_torch_do_not_matter() -> None:
    module, data, x = nn.Linear(24, 7, bias=False), torch.randn(64, 24), torch.randn(3, 24)
    want = [QuantLinear.from_float(module, rt.W8A8(), c)(x) for c in (None, data)]
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        got = [QuantLinear.from_float(module, rt.W8A8(), c)(x) for c in (None, data)]
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert all(same(a, b) for a, b in zip(got, want))


def test_inference_mode_and_hooks(layer: QuantLinear) -> None:
    x = torch.randn(2, 24)
    with torch.inference_mode():
        assert same(layer(x), reference(layer, x))
        made = make()
        assert same(made(x), reference(made, x))
    layer.register_forward_hook(lambda module, args, out: out + 1)
    assert torch.equal(layer(x), reference(layer, x) + 1)


def test_threads_with_different_ranks(layer: QuantLinear) -> None:
    inputs = [torch.randn(24), torch.randn(3, 24), torch.randn(2, 2, 24), torch.randn(5, 24).t().contiguous().t()]
    wanted = [reference(layer, x.contiguous()) for x in inputs]

    def work(start: int) -> bool:
        return all(same(layer(inputs[(start + i) % 4]), wanted[(start + i) % 4]) for i in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))
