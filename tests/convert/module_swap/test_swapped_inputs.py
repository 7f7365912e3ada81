"""Every module of rt.nn takes any tensor of the right numbers, or refuses it by a typed error: views, bits, subclasses."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn.stored import Stored
from tests.support.networks.nn_modules import FORMS, first, same_bits

ALL = pytest.mark.parametrize("name", FORMS)


class Sub(Tensor):
    pass


def misaligned(x: Tensor) -> Tensor:
    memory = torch.zeros(x.numel() * x.element_size() + 1, dtype=torch.uint8)
    memory[1:] = x.contiguous().flatten().view(torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.frombuffer(bytearray(memory.numpy().tobytes()), dtype=x.dtype, offset=1).view(x.shape)


def real(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: change(x) if x.is_floating_point() else x


SAME: dict[str, Callable[[Tensor], Tensor]] = {
    "negative bit": real(lambda x: torch._neg_view(-x)),
    "imaginary part of a conjugate": real(lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag),
    "strided": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "offset": lambda x: torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape),
    "misaligned": misaligned,
    "requires grad": real(lambda x: x.clone().requires_grad_()),
    "parameter": real(lambda x: nn.Parameter(x.clone())),
    "subclass": lambda x: x.as_subclass(Sub),
    "negative bit, strided": real(lambda x: torch._neg_view(torch.stack([-x, x], -1))[..., 0]),
    "inference": lambda x: inference(x),
}


def inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


@ALL
@pytest.mark.parametrize("kind", SAME)
def test_the_same_numbers_give_the_same_bits(name: str, kind: str) -> None:
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = [t.clone() for t in first(layer(*inputs))]
    got = layer(*(SAME[kind](x) for x in inputs))
    assert same_bits([t.as_subclass(Tensor) for t in first(got)], want)
    assert not any(t.requires_grad or t.is_neg() for t in first(got))
    assert same_bits(layer(*inputs), want)


@ALL
def test_one_number_alone_keeps_its_sign(name: str) -> None:
    """A tensor of one element is contiguous whatever its strides and bits are."""
    one = {
        "QuantLinear": (nn.Linear(1, 3), 1),
        "SparseLinear": (nn.Linear(1, 3), 1),
        "QuantConv1d": (nn.Conv1d(1, 2, 1), 3),
        "QuantConv2d": (nn.Conv2d(1, 2, 1), 4),
        "QuantLSTM": (nn.LSTM(1, 4), 2),
        "QuantGRU": (nn.GRU(1, 4), 2),
    }
    kind = name.split("-")[0]
    if kind not in one:
        return
    plain, dims = one[kind]
    made: type[Stored] = getattr(rt.nn, kind)
    scheme = FORMS[name].swapped().scheme
    options = {"sparsity": "unstructured"} if kind == "SparseLinear" and not isinstance(scheme, rt.W4A8) else {}
    if kind == "SparseLinear" and not options:
        options = {"sparsity": "2:4"}
    layer = made.from_float(plain, scheme, torch.randn(50, *[1] * max(dims - 1, 1)), **options)  # type: ignore[attr-defined]
    x = torch.rand([1] * dims) + 0.5
    want = [t.clone() for t in first(layer(x))]
    for negative in (torch._neg_view(-x), torch.complex(x, -x).conj().imag):
        assert same_bits(layer(negative), want)
        assert same_bits(layer(x), want)
        assert same_bits(layer(torch.complex(x, -x).conj().imag.expand(x.shape)), want)


@ALL
def test_expanded_inputs(name: str) -> None:
    form = FORMS[name]
    layer = form.swapped()
    inputs = tuple(x[:1].expand(x.shape) for x in form.inputs())
    assert same_bits(layer(*inputs), layer(*(x.contiguous() for x in inputs)))


@pytest.mark.parametrize("name", [n for n in FORMS if n.startswith(("QuantLSTM", "QuantGRU"))])
@pytest.mark.parametrize("kind", SAME)
def test_states_of_recurrent_layers_too(name: str, kind: str) -> None:
    form = FORMS[name]
    layer, (x,) = form.swapped(), form.inputs()
    batch = x.shape[0 if layer.batch_first else 1]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    states = tuple(torch.randn(rows, batch, layer.hidden_size) for _ in range(2 if "LSTM" in name else 1))
    given = tuple(SAME[kind](s) for s in states)
    want, got = (layer(x, s if len(s) > 1 else s[0]) for s in (states, given))
    assert same_bits([t.as_subclass(Tensor) for t in first(got)], want)


REFUSED: dict[str, Callable[[Tensor], object]] = {
    "half": lambda x: x.half(),
    "double": lambda x: x.double(),
    "complex": lambda x: x.to(torch.complex64).conj(),
    "bool": lambda x: x > 0,
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "a list": lambda x: x.tolist(),
    "none": lambda x: None,
    "a number": lambda x: 3,
    "a scalar": lambda x: x.flatten()[0],
    "narrower": lambda x: x[..., :-1],
}


@ALL
@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_by_type(name: str, kind: str) -> None:
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    if "Embedding" in name and kind in ("narrower", "a scalar"):
        return  # indices have no width
    want = layer(*inputs)
    if "Conv" in name and kind == "narrower":
        inputs = tuple(x.transpose(1, -1) for x in inputs)  # the channels are narrower, not the window
    with pytest.raises((rt.ShapeError, rt.FormatError), match=r"Quant|Sparse"):
        layer(*(REFUSED[kind](x) for x in inputs))
    inputs = tuple(x.transpose(1, -1) if "Conv" in name and kind == "narrower" else x for x in inputs)
    assert same_bits(layer(*inputs), want)


@ALL
def test_buffers_with_the_negative_bit_are_read_as_numbers(name: str) -> None:
    """Set by hand, and through functional_call."""
    form = FORMS[name]
    layer, inputs = form.swapped(), form.inputs()
    want = layer(*inputs)
    state = {k: t for k, t in layer.state_dict().items() if t.is_floating_point()}
    given = {k: torch._neg_view(-t) for k, t in state.items()}
    assert same_bits(torch.func.functional_call(layer, given, inputs), want)
    for key, tensor in given.items():
        owner, _, last = key.rpartition(".")
        setattr(layer.get_submodule(owner), last, tensor)
    assert same_bits(layer(*inputs), want)


@ALL
def test_a_float_layer_with_bits_is_converted_by_its_numbers(name: str) -> None:
    form = FORMS[name]
    plain = form.plain().eval()
    layer = form.made(plain)
    bits = {k: t for k, t in layer.state_dict().items() if "weight" in k or "values" in k or "bias" in k}
    with torch.no_grad():
        for key, p in list(plain.named_parameters()):
            owner, _, last = key.rpartition(".")
            module = plain.get_submodule(owner)
            negative = nn.Parameter(torch._neg_view(-p.detach()), requires_grad=False)
            assert negative.is_neg()
            if isinstance(module, nn.RNNBase):
                module._parameters[last] = negative
            else:
                setattr(module, last, negative)
    again = form.made(plain).state_dict()
    assert all(torch.equal(again[k], t) for k, t in bits.items())
