"""QuantLinear: the contracts' numbers, every layout and mistake of the input, and state that never goes stale."""

from __future__ import annotations

import copy
import io
import pickle
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.formats.observe import RangeObserver
from rtaccel.kernels.linear import contract as linear
from rtaccel.kernels.quantize import contract as quantize
from rtaccel.nn import QuantLinear, packed
from rtaccel.nn.linear_w8a8 import LinearW8A8
from rtaccel.nn.numbers import MAX_K

KINDS = ["static", "dynamic"]
SIZES = [(1, 1), (16, 16), (3, 5), (31, 17), (128, 8), (65, 129), (257, 300)]


def make(kind: str = "static", k: int = 24, n: int = 7, bias: bool = True, seed: int = 0) -> QuantLinear:
    torch.manual_seed(seed)
    calibration = torch.randn(64, k) * 2 + 0.3 if kind == "static" else None
    return QuantLinear.from_float(nn.Linear(k, n, bias=bias), rt.W8A8(), calibration)


@pytest.fixture(params=KINDS)
def layer(request) -> QuantLinear:
    return make(request.param)


def reference(layer: QuantLinear, x: Tensor) -> Tensor:
    """The two contracts in plain torch, on the buffers of the layer."""
    numbers = LinearW8A8(layer.weight, layer.weight_scale, layer.bias, layer.input_scale, layer.input_zero_point)
    first, second = numbers.group(1).stages
    rows = x.reshape(-1, x.shape[-1])
    (y,) = linear.reference(second, *quantize.reference(first, rows))
    y = torch.where(torch.isfinite(rows).all(-1, keepdim=True), y, torch.full_like(y, float("nan")))
    return y.reshape(*x.shape[:-1], y.shape[-1])


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("k", "n"), SIZES)
def test_equals_the_contracts(kind: str, bias: bool, k: int, n: int, poisoned_empty) -> None:
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
    observer.see(data)
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
def test_layouts(layer: QuantLinear, name: str, warm: bool, poisoned_empty) -> None:
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
def test_a_row_that_is_not_finite_spoils_itself_alone(layer: QuantLinear, bad: float) -> None:
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


# -- state -------------------------------------------------------------------------------------------------------------


def twin(layer: QuantLinear, bias: bool = True) -> QuantLinear:
    return QuantLinear(layer.in_features, layer.out_features, bias, layer.scheme)


def test_an_empty_layer_gives_its_bias() -> None:
    for kind in KINDS:
        layer = QuantLinear(5, 3, scheme=rt.W8A8(kind))
        assert torch.equal(layer(torch.randn(2, 5)), torch.zeros(2, 3))


def test_state_dict_is_plain_tensors(layer: QuantLinear) -> None:
    names = {"weight", "weight_scale", "bias"}
    names |= {"input_scale", "input_zero_point"} if layer.input_scale is not None else set()
    state = layer.state_dict()
    assert set(state) == names
    assert all(type(t) is Tensor for t in state.values())
    assert state["weight"].dtype == torch.int8
    assert list(layer.parameters()) == []


@pytest.mark.parametrize("way", ["state_dict", "assign", "torch.save", "safetensors", "deepcopy", "copy", "pickle"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(kind: str, bias: bool, way: str, tmp_path) -> None:
    layer, x = make(kind, bias=bias), torch.randn(3, 24)
    want = layer(x)
    other = twin(layer, bias)
    other(x), other(x[0])  # a plan of the old numbers, which must not survive
    if way in ("state_dict", "assign"):
        other.load_state_dict(layer.state_dict(), assign=way == "assign")
    elif way == "torch.save":
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
    elif way == "safetensors":
        save_file(layer.state_dict(), tmp_path / "layer.safetensors")
        other.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(layer))
    else:
        other = getattr(copy, way)(layer)
    assert same(other(x), want)
    assert same(other(x[0]), want[0])
    other.bias = torch.ones(7) if bias else None
    assert same(layer(x), want)  # nothing is shared that one could spoil for the other


def test_loading_into_a_model_packs_again() -> None:
    models = [nn.Sequential(make(seed=s), nn.ReLU(), make("dynamic", 7, 4, seed=s)) for s in (1, 2)]
    x = torch.randn(3, 24)
    want, old = models[0](x), models[1](x)
    models[1].load_state_dict(models[0].state_dict())
    assert torch.equal(models[1](x), want)
    assert not torch.equal(want, old)


def _with(**changes):
    def change(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**state, **{name: make_tensor(state[name]) for name, make_tensor in changes.items()}}

    return change


BAD_STATE = {
    "weight shape": _with(weight=lambda t: t[:, :-1]),
    "weight transposed": _with(weight=lambda t: t.t()),
    "weight dtype": _with(weight=lambda t: t.float()),
    "weight -128": _with(weight=lambda t: torch.full_like(t, -128)),
    "scale count": _with(weight_scale=lambda t: t[:-1]),
    "scale dtype": _with(weight_scale=lambda t: t.double()),
    "scale nan": _with(weight_scale=lambda t: t * float("nan")),
    "scale inf": _with(weight_scale=lambda t: t * float("inf")),
    "scale zero": _with(weight_scale=lambda t: t * 0),
    "scale negative": _with(weight_scale=lambda t: -t),
    "bias count": _with(bias=lambda t: torch.cat([t, t])),
    "bias nan": _with(bias=lambda t: t + float("nan")),
    "input scale shape": _with(input_scale=lambda t: t[None]),
    "input scale zero": _with(input_scale=lambda t: t * 0),
    "input scale denormal": _with(input_scale=lambda t: torch.full_like(t, 1e-42)),
    "zero point high": _with(input_zero_point=lambda t: t * 0 + 128),
    "zero point low": _with(input_zero_point=lambda t: t * 0 - 129),
    "zero point dtype": _with(input_zero_point=lambda t: t.float()),
    "not a tensor": _with(bias=lambda t: [0.0] * 7),
}


@pytest.mark.parametrize("name", BAD_STATE)
@pytest.mark.parametrize("assign", [False, True])
def test_bad_state_changes_nothing(name: str, assign: bool) -> None:
    layer, other, x = make(), make(seed=3), torch.randn(3, 24)
    want, before = layer(x), {k: t.clone() for k, t in layer.state_dict().items()}
    with pytest.raises(rt.FormatError) as caught:
        layer.load_state_dict(BAD_STATE[name](other.state_dict()), assign=assign)
    assert caught.value.next_step
    assert all(torch.equal(t, before[k]) for k, t in layer.state_dict().items())
    assert same(layer(x), want)


def test_keys_missing_or_too_many_change_nothing() -> None:
    static, dynamic, x = make("static"), make("dynamic", seed=3), torch.randn(3, 24)
    for target, source in ((static, dynamic), (dynamic, static)):
        want = target(x)
        with pytest.raises(RuntimeError, match="input_scale"):
            target.load_state_dict(source.state_dict())
        assert same(target(x), want)
        target.load_state_dict(
            source.state_dict(), strict=False
        )  # the numbers of a layer are loaded whole or not at all
        assert same(target(x), want)


@pytest.mark.parametrize("convert", ["half", "double", "bfloat16", "float"])
def test_conversion_leaves_the_numbers(layer: QuantLinear, convert: str) -> None:
    x = torch.randn(3, 24)
    want = layer(x)
    model = nn.Sequential(layer)
    getattr(model, convert)()
    assert layer.weight_scale.dtype == torch.float32
    assert same(layer(x), want)
    if convert != "float":
        with pytest.raises(rt.ShapeError, match="cast"):
            layer(getattr(x, convert)())


def test_moving_to_meta_and_loading_there(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    want, state = layer(x), copy.deepcopy(layer.state_dict())
    layer.to("meta")
    with pytest.raises(rt.ShapeError, match="meta"):
        layer(x)
    assert layer(x.to("meta")).shape == (3, 7)
    layer.load_state_dict(state, assign=True)
    assert same(layer(x), want)
    with torch.device("meta"):
        other = twin(layer)
    other.load_state_dict(state, assign=True)
    assert same(other(x), want)


def test_replaced_buffers_are_seen(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    old = layer(x)
    doubled = {"weight_scale": layer.weight_scale * 2, "bias": layer.bias * 2}
    assert torch.allclose(torch.func.functional_call(layer, doubled, x), old * 2, rtol=1e-5)
    assert same(layer(x), old)
    layer.weight_scale = doubled["weight_scale"]
    layer.bias = doubled["bias"]
    assert torch.allclose(layer(x), old * 2, rtol=1e-5)
    layer.bias = torch.tensor([float("nan")] * 7)
    with pytest.raises(rt.FormatError, match="bias"):
        layer(x)


def test_repack_sees_a_change_in_place(layer: QuantLinear) -> None:
    x = torch.randn(3, 24)
    old = layer(x)
    layer.bias.fill_(float("nan"))
    with pytest.raises(rt.FormatError):
        layer.repack()
    assert same(layer(x), old)  # the old plan still stands
    layer.bias.zero_()
    layer.repack()
    assert same(layer(x), reference(layer, x))
    assert not torch.equal(layer(x), old)


def test_explain_and_repr(layer: QuantLinear) -> None:
    text = layer.explain()
    assert "quantize" in text
    assert "linear" in text
    assert f"scheme=w8a8({layer.scheme.activation})" in repr(layer)


def test_the_package_stays_lazy() -> None:
    import subprocess
    import sys

    code = "import sys, rtaccel; assert 'torch' not in sys.modules and 'rtaccel.nn' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
