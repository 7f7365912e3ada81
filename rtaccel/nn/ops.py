"""`torch.ops.rtaccel`: the door for torch.compile, torch.export, vmap and opcheck. Not the fast way in; modules are.

linear_w8a8(x, weight, weight_scale, bias, input_scale, input_zero_point, activation, activation_parameter) -> y
    y = act(linear(quantise(x))) on the tensors of `rtaccel.nn.linear_w8a8`; x float32 [..., K], y float32 [..., N].
    Without input_scale and input_zero_point, x is quantised per row. Inference only: y never requires grad.
    Raises ShapeError for a wrong x, FormatError for wrong weights, UnsupportedProblem or BackendUnavailable where
    nothing can compute it.

The packed plan of a weight is kept as long as the weight lives, and made again when one of the tensors is another
one or was changed in place. Tensors made in inference mode do not count their changes, and are packed at each call.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from rtaccel.core.errors import FormatError
from rtaccel.nn.check import check_input, describe
from rtaccel.nn.linear_w8a8 import LinearW8A8, Packed

_NAME = "linear_w8a8"
_library = torch.library.Library("rtaccel", "FRAGMENT")  # a fragment, so that other files can add their ops
_library.define(
    f"{_NAME}(Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor? input_scale, "
    'Tensor? input_zero_point, str activation="none", float activation_parameter=0.0) -> Tensor'
)
linear_w8a8: Callable[..., Any] = torch.ops.rtaccel.linear_w8a8.default


class _Entry:
    """A packed plan with the tensors it was made from and their version counters."""

    def __init__(self, tensors: tuple[Tensor | None, ...], packed: Packed) -> None:
        self.packed = packed
        self._seen = [None if t is None else (TensorWeakRef(t), t._version) for t in tensors]

    def fits(self, tensors: tuple[Tensor | None, ...]) -> bool:
        for seen, t in zip(self._seen, tensors):
            if seen is None or t is None:
                if seen is not t:
                    return False
            elif seen[0]() is not t or seen[1] != t._version:
                return False
        return True


_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""weight -> {(activation, parameter): entry}. Entries hold aliases of their tensors, never the weight itself."""
_lock = threading.Lock()
atexit.register(_cache.clear)  # native plans must not outlive the module that frees them


Numbers = tuple[Tensor, Tensor, "Tensor | None", "Tensor | None", "Tensor | None"]


def _packed(tensors: Numbers, act: str, par: float) -> Packed:
    if any(t is not None and t.is_inference() for t in tensors):
        return Packed(_NAME, LinearW8A8(*tensors), act, par)
    with _lock:
        entries = _cache.setdefault(tensors[0], {})
        entry = entries.get((act, par))
        if entry is None or not entry.fits(tensors):
            entry = entries[act, par] = _Entry(tensors, Packed(_NAME, LinearW8A8(*tensors), act, par))
        return entry.packed


def _compute(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    input_scale: Tensor | None,
    input_zero_point: Tensor | None,
    activation: str = "none",
    activation_parameter: float = 0.0,
) -> Tensor:
    tensors = (weight, weight_scale, bias, input_scale, input_zero_point)
    return _packed(tensors, activation, activation_parameter).compute(x)


def _fake(x: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if weight.dim() != 2:
        raise FormatError(_NAME, f"weight: {describe(weight)}", "int8[N, K]", "Quantise a weight matrix.")
    check_input(_NAME, x, weight.shape[1], weight.device)
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    """A batch of inputs is more rows of one call. A batch of layers is one call for each."""
    if all(dim is None for dim in in_dims[1:]):
        return linear_w8a8(args[0].movedim(in_dims[0], 0), *args[1:]), 0
    results = [
        linear_w8a8(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims)))
        for i in range(info.batch_size)
    ]
    return torch.stack(results), 0


for _key in ("CPU", "CUDA"):
    _library.impl(_NAME, _compute, _key)
_library.impl(_NAME, torch.library.fallthrough_kernel, "Autograd")  # what is computed below never requires grad
torch.library.register_fake(f"rtaccel::{_NAME}", _fake, lib=_library)
torch.library.register_vmap(f"rtaccel::{_NAME}", _vmap, lib=_library)
