"""Tensors in every form that a caller may hold them in: the same numbers lying otherwise, and tensors that do not fit.

A form makes, from a plain tensor x, another tensor. `same` forms hold the numbers of x; `other` forms do not fit, or mean
something else, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Form = Callable[[Tensor], Tensor]


class Marked(Tensor):
    """A subclass that does nothing of its own."""


def _spread(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 5, dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _turned(x: Tensor) -> Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1)


def _rows_apart(x: Tensor) -> Tensor:
    wide = torch.full((2 * x.shape[0] + 1, *x.shape[1:]), 5, dtype=x.dtype)
    wide[1::2] = x
    return wide[1::2]


def _offset(x: Tensor) -> Tensor:
    flat = torch.full((x.numel() + 5,), 5, dtype=x.dtype)
    flat[3 : 3 + x.numel()] = x.flatten()
    return flat[3 : 3 + x.numel()].view(x.shape)


def _misaligned(x: Tensor) -> Tensor:
    size = x.numel() * x.element_size()
    raw = torch.zeros(size + 16, dtype=torch.uint8)
    start = 1 + (-raw.data_ptr()) % x.element_size()
    if size:
        raw[start : start + size] = x.contiguous().flatten().view(torch.uint8)
    return (
        torch.frombuffer(raw.numpy(), dtype=x.dtype, count=x.numel(), offset=start).view(x.shape) if size else x.clone()
    )


def _negative_bit(x: Tensor) -> Tensor:
    return torch._neg_view(-x)


def _imaginary(x: Tensor) -> Tensor:
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _real_of_conjugate(x: Tensor) -> Tensor:
    return torch.complex(x, x).conj().real


def _part_negative(x: Tensor) -> Tensor:
    return torch._neg_view(-_spread(x).contiguous())


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _graph(x: Tensor) -> Tensor:
    return x.clone().requires_grad_() * 1.0


def _odd_strides(x: Tensor) -> Tensor:
    return (
        x.clone().as_strided(x.shape, x.stride())
        if x.shape[0] != 1
        else x.clone().as_strided(x.shape, (999, *x.stride()[1:]))
    )


FLOAT_ONLY = ("negative bit", "imaginary part", "real part", "negative and strided", "graph", "needs grad", "parameter")

SAME: dict[str, Form] = {
    "plain": Tensor.clone,
    "strided": _spread,
    "turned": _turned,
    "rows apart": _rows_apart,
    "offset": _offset,
    "misaligned": _misaligned,
    "negative bit": _negative_bit,
    "imaginary part": _imaginary,
    "real part": _real_of_conjugate,
    "negative and strided": _part_negative,
    "needs grad": lambda x: x.clone().requires_grad_(),
    "parameter": lambda x: nn.Parameter(x.clone()),
    "buffer": lambda x: nn.Buffer(x.clone()),
    "graph": _graph,
    "subclass": lambda x: x.clone().as_subclass(Marked),
    "inference": _inference,
    "flipped twice": lambda x: x.flip(0).flip(0),
    "odd stride": _odd_strides,
    "from numpy": lambda x: torch.from_numpy(x.numpy().copy()),
    "pinned by a view": lambda x: torch.cat([x, x])[: x.shape[0]],
    "channels last": lambda x: x.clone().contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.clone(),
}

EXPANDED = "expanded"
"""The first row for all rows: its own numbers, so it is made apart."""

DTYPES = (
    torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64,
    torch.float8_e4m3fn, torch.int16, torch.complex128,
)  # fmt: skip


def _as(dtype: torch.dtype) -> Form:
    return lambda x: x.to(dtype)


OTHER: dict[str, Form] = {
    **{str(d).removeprefix("torch."): _as(d) for d in DTYPES},
    "width more": lambda x: torch.cat([x, x[..., :1]], -1),
    "width less": lambda x: x[..., :-1],
    "rank more": lambda x: x.unsqueeze(-1),
    "batch in front": lambda x: x.unsqueeze(0),
    "scalar": lambda x: x.sum(),
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "freed": lambda x: _freed(x),
}


def _freed(x: Tensor) -> Tensor:
    y = x.clone()
    y.untyped_storage().resize_(0)
    return y


def special(x: Tensor, kind: str) -> Tensor:
    """The same shape with numbers that float arithmetic treats in its own way."""
    y = x.clone()
    if y.numel():
        y.view(-1)[0] = {
            "nan": float("nan"),
            "inf": float("inf"),
            "-inf": float("-inf"),
            "tiny": 1e-42,
            "huge": 3e38,
            "-0": -0.0,
        }[kind]
    return y


SPECIAL = ("nan", "inf", "-inf", "tiny", "huge", "-0")
