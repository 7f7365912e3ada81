"""`torch.ops.rtaccel`: the door for torch.compile, torch.export, vmap and opcheck. Not the fast way in; modules are.

One operator for each scheme of a linear layer, on the tensors that the scheme stores (rtaccel.nn.linear_*):

    linear_w8a8(x, weight, weight_scale, bias, input_scale, input_zero_point, ...)
    linear_w8a16(x, weight, weight_scale, bias, ...)
    linear_bfloat16(x, weight, bias, ...)
    linear_w4a8(x, weight, group_scale, bias, input_scale, input_zero_point, in_features, group_size, ...)
    linear_w4a16(x, weight, group_scale, bias, in_features, group_size, ...)

    sparse_linear_csr(x, weight, columns, row_starts, weight_scale, bias, input_scale, input_zero_point, out_features,
        in_features, ...), sparse_linear_blocks(...) with the same, sparse_linear_semi(x, weight, positions, ...), and
    sparse_linear_semi_int4(x, weight, positions, group_scale, bias, input_scale, input_zero_point, out_features, in_features,
        group_size, ...)

each with activation="none", activation_parameter=0.0 at the end, give y = act(linear(x)); x float32 [..., K], y float32
[..., N]. Without input_scale and input_zero_point, int8 inputs are quantized per row. Inference only: y never requires
grad. Raises ShapeError for a wrong x, FormatError for wrong weights, UnsupportedProblem or BackendUnavailable where
nothing can compute it.

The packed plan of a weight is kept as long as the weight lives, and made again when one of the tensors is another
one or was changed in place. Tensors made in inference mode do not count their changes, and are packed at each call.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from rtaccel.core.errors import FormatError
from rtaccel.nn.check import check_input, describe
from rtaccel.nn.packed import Packed
from rtaccel.nn.params.formats import FORMATS
from rtaccel.nn.params.linear import LinearParams
from rtaccel.nn.params.sparse import LINEAR, SparseParams

_library = torch.library.Library("rtaccel", "FRAGMENT")  # a fragment, so that other files can add their ops


OPTIONAL = frozenset(("bias", "input_scale", "input_zero_point"))
"""Tensors that a layer may be without."""


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
"""weight -> {(operator, options): entry}. Entries hold aliases of their tensors, never the weight itself."""
_lock = threading.Lock()
atexit.register(_cache.clear)  # native plans must not outlive the module that frees them


class _Operator:
    """torch.ops.rtaccel.<name>: its schema, and what computes it."""

    def __init__(self, params: type[LinearParams], name: str, optional: frozenset[str] = OPTIONAL) -> None:
        self.name = name
        self._params = params
        self._tensors = [f.name for f in fields(cast(Any, params)) if f.name not in params.OPTIONS]
        arguments = [f"Tensor{'?' if name in optional else ''} {name}" for name in self._tensors]
        arguments += [f"int {name}" for name in params.OPTIONS]
        last = 'str activation="none", float activation_parameter=0.0'
        _library.define(f"{self.name}(Tensor x, {', '.join(arguments)}, {last}) -> Tensor")
        for key in ("CPU", "CUDA"):
            _library.impl(self.name, self._compute, key)
        _library.impl(self.name, torch.library.fallthrough_kernel, "Autograd")  # y never requires grad
        torch.library.register_fake(f"rtaccel::{self.name}", self._fake, lib=_library)
        torch.library.register_vmap(f"rtaccel::{self.name}", self._vmap, lib=_library)
        self.call: Callable[..., Any] = getattr(torch.ops.rtaccel, self.name).default

    def _split(self, args: tuple[Any, ...]) -> tuple[tuple[Tensor | None, ...], dict[str, int], tuple[Any, ...]]:
        count, options = len(self._tensors), self._params.OPTIONS
        rest = args[count + len(options) :]
        return args[:count], dict(zip(options, args[count:])), (*rest, *("none", 0.0)[len(rest) :])

    def _compute(self, x: Tensor, *args: Any) -> Tensor:
        tensors, options, activation = self._split(args)
        key = (self.name, *options.values(), *activation)

        def pack() -> Packed:
            return Packed(self.name, self._params(**dict(zip(self._tensors, tensors)), **options), *activation)

        if any(t is not None and t.is_inference() for t in tensors):
            return pack().compute(x)
        with _lock:
            entries = _cache.setdefault(cast(Tensor, tensors[0]), {})
            entry = entries.get(key)
            if entry is None or not entry.fits(tensors):
                entry = entries[key] = _Entry(tensors, pack())
        return entry.packed.compute(x)

    def _fake(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        tensors, options, _ = self._split(args)
        weight = tensors[0]
        if weight is None or (weight.dim() != 2 and "out_features" not in options):
            raise FormatError(self.name, f"weight: {describe(weight)}", "a matrix", "Quantize a weight matrix.")
        width = options["in_features"] if "in_features" in options else weight.shape[1]
        check_input(self.name, x, width, weight.device)
        return x.new_empty((*x.shape[:-1], options.get("out_features", weight.shape[0])))

    def _vmap(self, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """A batch of inputs is more rows of one call. A batch of layers is one call for each."""
        if all(dim is None for dim in in_dims[1:]):
            return self.call(args[0].movedim(in_dims[0], 0), *args[1:]), 0
        results = [
            self.call(*(a if dim is None else a.select(dim, i) for a, dim in zip(args, in_dims)))
            for i in range(info.batch_size)
        ]
        return torch.stack(results), 0


OPERATORS: dict[type[LinearParams], Callable[..., Any]] = {
    params: _Operator(params, f"linear_{params.SCHEME.name}").call for params in FORMATS.values()
}
SPARSE_OPERATORS: dict[type[SparseParams], Callable[..., Any]] = {
    params: _Operator(params, f"sparse_linear_{params.FORM}", OPTIONAL | {"weight_scale"}).call for params in LINEAR
}
linear_w8a8: Callable[..., Any] = torch.ops.rtaccel.linear_w8a8.default
