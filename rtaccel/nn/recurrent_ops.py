"""`torch.ops.rtaccel.quant_lstm` and `quant_gru`: the door of QuantLSTM and QuantGRU for torch.compile and torch.export.

quant_lstm(x, h0, c0, numbers, hidden, layers, bidirectional, bias, static, group_size, batch_first) -> (y, hn, cn)
quant_gru(x, h0, numbers, ...) -> (y, hn)
    numbers: the tensors of `rtaccel.nn.params.recurrent`, in the order of `Sizes.layout`. States may be None.
    Inference only: results never require grad. Raises what the modules raise.

A packed plan is kept as long as the first weight lives, and made again when one of the tensors is another one or was
changed in place. Tensors made in inference mode do not count their changes, and are packed at each call.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from rtaccel.core.errors import FormatError
from rtaccel.nn.params.recurrent import Packed, Sizes, check_call

_library = torch.library.Library("rtaccel", "FRAGMENT")
_TAIL = (
    "Tensor[] numbers, int hidden, int layers, bool bidirectional, bool bias, bool static, "
    "int group_size, bool batch_first"
)

_cache: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""First weight -> (sizes, batch_first, the tensors seen with their versions, packed plans)."""
_lock = threading.Lock()
atexit.register(_cache.clear)  # native plans must not outlive the module that frees them


def _sizes(kind: str, x: Tensor, numbers: Sequence[Tensor], hidden: int, layers: int, *flags: Any) -> Sizes:
    known = len(numbers) > 0 and numbers[0].dim() == 2 and numbers[0].dtype == torch.int8  # int4 does not tell
    inputs = numbers[0].shape[1] if known else x.shape[-1]
    sizes = Sizes(kind, inputs, hidden, layers, *flags)
    if len(sizes.layout()) != len(numbers):
        raise FormatError(
            f"quant_{kind}",
            f"{len(numbers)} tensors",
            f"{len(sizes.layout())}: {', '.join(sizes.layout())}",
            "Pass all.",
        )
    return sizes


def _packed(sizes: Sizes, numbers: Sequence[Tensor], batch_first: bool) -> Packed:
    op = f"quant_{sizes.kind}"
    named = dict(zip(sizes.layout(), numbers))
    if any(t.is_inference() for t in numbers):
        return Packed(op, sizes, named, batch_first)
    with _lock:
        found = _cache.get(numbers[0])
        if found is not None:
            key, seen, packed = found
            same = all(ref() is t and version == t._version for (ref, version), t in zip(seen, numbers))
            if key == (sizes, batch_first) and same:
                return packed
        packed = Packed(op, sizes, named, batch_first)
        _cache[numbers[0]] = ((sizes, batch_first), [(TensorWeakRef(t), t._version) for t in numbers], packed)
        return packed


def _compute(kind: str, x: Tensor, states: tuple[Tensor | None, ...], numbers: Sequence[Tensor], *rest: Any) -> Any:
    sizes = _sizes(kind, x, numbers, *rest[:-1])
    given = tuple(state for state in states if state is not None)
    return _packed(sizes, numbers, rest[-1]).compute(x, given)


def _fake(kind: str, x: Tensor, states: tuple[Tensor | None, ...], numbers: Sequence[Tensor], *rest: Any) -> Any:
    sizes = _sizes(kind, x, numbers, *rest[:-1])
    batch_first = rest[-1]
    check_call(f"quant_{kind}", sizes, x, tuple(s for s in states if s is not None), batch_first, numbers[0].device)
    rows = sizes.num_layers * sizes.directions
    shape = (rows, sizes.hidden_size) if x.dim() == 2 else (rows, x.shape[0 if batch_first else 1], sizes.hidden_size)
    y = x.new_empty((*x.shape[:-1], sizes.directions * sizes.hidden_size))
    return (y, *(x.new_empty(shape) for _ in states))


def _define(kind: str, count: int) -> Callable[..., Any]:
    name = f"quant_{kind}"
    states = ", ".join(f"Tensor? {s}0" for s in ("h", "c")[:count])
    _library.define(f"{name}(Tensor x, {states}, {_TAIL}) -> ({', '.join(['Tensor'] * (1 + count))})")

    def compute(x: Tensor, *args: Any) -> Any:
        return _compute(kind, x, args[:count], *args[count:])

    def fake(x: Tensor, *args: Any) -> Any:
        return _fake(kind, x, args[:count], *args[count:])

    for key in ("CPU", "CUDA"):
        _library.impl(name, compute, key)
    _library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake(f"rtaccel::{name}", fake, lib=_library)
    return getattr(torch.ops.rtaccel, name).default


quant_lstm = _define("lstm", 2)
quant_gru = _define("gru", 1)
