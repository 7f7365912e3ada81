"""Every module of rt.nn in every scheme that it stores: a float layer, its quantized form, the same form empty, inputs."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import rtaccel as rt
from rtaccel.nn.stored import Stored

LINEAR = {
    "w8a8-static": rt.W8A8("static"),
    "w8a8-dynamic": rt.W8A8("dynamic"),
    "w8a16": rt.W8A16(),
    "bfloat16": rt.BFloat16(),
    "w4a8-static": rt.W4A8(16, "static"),
    "w4a8-dynamic": rt.W4A8(64, "dynamic"),
    "w4a16": rt.W4A16(48),
}
INT8 = {name: LINEAR[name] for name in ("w8a8-static", "w8a8-dynamic")}
RECURRENT = {**INT8, **{name: LINEAR[name] for name in ("w4a8-static", "w4a8-dynamic")}}
SPARSE = {
    **{f"{kind}-csr": (scheme, rt.Unstructured(0.7)) for kind, scheme in {"float32": rt.Float32(), **INT8}.items()},
    **{
        f"{kind}-blocks": (scheme, rt.BlockSparse((4, 3), 0.6))
        for kind, scheme in {"float32": rt.Float32(), **INT8}.items()
    },
    **{f"{kind}-2:4": (scheme, rt.SemiStructured()) for kind, scheme in {"float32": rt.Float32(), **INT8}.items()},
    **{f"{kind}-2:4": (LINEAR[kind], rt.SemiStructured()) for kind in ("w4a8-static", "w4a8-dynamic")},
}


@dataclass(frozen=True)
class ModuleForm:
    """plain: makes the float layer. made: its quantized form, with calibration of its own. inputs: for a call of both."""

    plain: Callable[[], nn.Module]
    made: Callable[[Any], Stored]
    inputs: Callable[[], tuple[Any, ...]]

    def swapped(self, which: int = 0) -> Stored:
        """A layer of numbers of its own for each `which`, made once."""
        return copy.deepcopy(_once(self, which))


@functools.cache
def _once(form: ModuleForm, which: int) -> Stored:
    with torch.random.fork_rng(devices=[]):  # whichever test asks first
        torch.manual_seed(1000 + which)
        return form.made(form.plain().eval())


def first(result: Any) -> list[Tensor]:
    """All tensors of a result."""
    if isinstance(result, Tensor):
        return [result]
    return [t for part in result if part is not None for t in first(part)]


def same_bits(a: Any, b: Any) -> bool:
    ours, theirs = first(a), first(b)
    return len(ours) == len(theirs) and all(torch.equal(x, y) for x, y in zip(ours, theirs))


def _rows(width: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(3, width),)


def forms() -> dict[str, ModuleForm]:
    found: dict[str, ModuleForm] = {}
    for name, scheme in LINEAR.items():
        for bias in (True, False):
            found[f"QuantLinear-{name}-{'bias' if bias else 'plain'}"] = ModuleForm(
                lambda bias=bias: nn.Linear(41, 13, bias),
                lambda layer, scheme=scheme: rt.nn.QuantLinear.from_float(layer, scheme, torch.randn(64, 41) + 0.4),
                _rows(41),
            )
    for name, (scheme, pattern) in SPARSE.items():
        found[f"SparseLinear-{name}"] = ModuleForm(
            lambda: nn.Linear(40, 13),
            lambda layer, scheme=scheme, pattern=pattern: rt.nn.SparseLinear.from_float(
                layer, scheme, torch.randn(64, 40) - 0.3, sparsity=pattern
            ),
            _rows(40),
        )
    for name, scheme in INT8.items():
        found[f"QuantConv1d-{name}"] = ModuleForm(
            lambda: nn.Conv1d(6, 8, 3, padding=2, dilation=2, groups=2),
            lambda layer, scheme=scheme: rt.nn.QuantConv1d.from_float(layer, scheme, torch.randn(9, 6, 20)),
            lambda: (torch.randn(2, 6, 11),),
        )
        found[f"QuantConv2d-{name}"] = ModuleForm(
            lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=1, bias=False),
            lambda layer, scheme=scheme: rt.nn.QuantConv2d.from_float(layer, scheme, torch.randn(4, 3, 9, 9)),
            lambda: (torch.randn(2, 3, 8, 7),),
        )
    for name, scheme in RECURRENT.items():
        for kind in ("LSTM", "GRU"):
            plain, made = getattr(nn, kind), getattr(rt.nn, f"Quant{kind}")
            for options in ({}, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}):
                found[f"Quant{kind}-{name}-{'deep' if options else 'one'}"] = ModuleForm(
                    lambda plain=plain, options=options: plain(11, 9, **options),
                    lambda layer, made=made, scheme=scheme: made.from_float(layer, scheme, torch.randn(50, 11)),
                    lambda: (torch.randn(4, 3, 11),),
                )
    for name, scheme in LINEAR.items():
        found[f"QuantMultiheadAttention-{name}"] = ModuleForm(
            lambda: nn.MultiheadAttention(32, 4, batch_first=True, kdim=20, vdim=24),
            lambda layer, scheme=scheme: rt.nn.QuantMultiheadAttention.from_float(
                layer, scheme, [(torch.randn(5, 6, 32), torch.randn(5, 7, 20), torch.randn(5, 7, 24))]
            ),
            lambda: (torch.randn(2, 6, 32), torch.randn(2, 7, 20), torch.randn(2, 7, 24)),
        )
    found["QuantEmbedding-int8"] = ModuleForm(
        lambda: nn.Embedding(30, 7), rt.nn.QuantEmbedding.from_float, lambda: (torch.randint(30, (4, 5)),)
    )
    return found


FORMS = forms()


class Holder(nn.Module):
    """A model of one layer, beside a float one, to swap it in."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.scale = layer, nn.Parameter(torch.rand(()) + 0.5)

    def forward(self, *inputs: Any) -> list[Tensor]:
        return [t * self.scale for t in first(self.layer(*inputs))]
