"""The shapes of recurrent calls while a model is exported, without a pass over their time steps.

torch finds the shape of `lstm`, `gru` or `rnn` by taking the call apart for each layer, direction and time step, in both passes
of an export. That was most of what a recurrent model takes to compile. The shapes follow from those of the arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from rtaccel.convert.aten import aten

_CALLS = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
"""Their arguments end with batch_first; the first one is the input, of three dimensions."""


@contextmanager
def known_shapes(any_window: bool = False) -> Iterator[None]:
    """While this is open, the shape of a recurrent call costs the same for any number of time steps, and little.

    any_window: also where that number is a symbol, which then stays one.

    A call that this version of torch takes apart elsewhere is left as it is, and costs what torch makes it cost.
    """
    from torch._decomp import decomposition_table

    found = dict[Any, tuple[dict[Any, Any], Any]]()
    for name in _CALLS:
        packet, overload = name.split(".")
        op = getattr(getattr(aten, packet), overload)
        if op in decomposition_table and hasattr(op, "py_kernels") and hasattr(op, "_dispatch_cache"):
            found[op] = dict(op.py_kernels), decomposition_table[op]
    try:
        for op, (kernels, decomposition) in found.items():
            short = {kernel: _by_its_shapes(kernel, any_window) for kernel in {*kernels.values(), decomposition}}
            _put(op, {key: short[kernel] for key, kernel in kernels.items()}, short[decomposition])
        yield
    finally:
        for op, saved in found.items():
            _put(op, *saved)


def _put(op: Any, kernels: dict[Any, Any], decomposition: Any) -> None:
    """Both places where torch looks: of the first pass of an export, and of the second."""
    from torch._decomp import decomposition_table

    op.py_kernels.clear()
    op.py_kernels.update(kernels)
    op._dispatch_cache.clear()
    decomposition_table[op] = decomposition


def _by_its_shapes(kernel: Callable[..., Any], any_window: bool) -> Callable[..., Any]:
    @wraps(kernel)  # torch looks at the names of what it calls
    def short(*args: Any, **named: Any) -> Any:
        if named or not _is_shape_alone(args, any_window):
            return kernel(*args, **named)
        x, hx, _, _, _, _, _, bidirectional, batch_first = args
        h = hx[0] if isinstance(hx, (list, tuple)) else hx
        batch = x.shape[0 if batch_first else 1]
        if any(state.shape[1] != batch for state in (hx if h is not hx else [h])):  # asking it leaves the condition
            return kernel(*args)
        steps, size = x.shape[1 if batch_first else 0], h.shape[2] * (2 if bidirectional else 1)
        y = x.new_empty((steps, batch, size))  # torch computes with the time steps first, and turns the result
        states = [state.new_empty(state.shape) for state in (hx if h is not hx else [h])]
        return y.transpose(0, 1) if batch_first else y, *states

    return short


def _is_shape_alone(args: tuple[Any, ...], any_window: bool = False) -> bool:
    """Whether only the shape of such a call is asked, and it is as it should be: nothing computed, recorded or learned."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    if len(args) != 9 or get_proxy_mode() is not None:
        return False
    x, hx, weights, _, layers, dropout, train, bidirectional, batch_first = args
    states = list(hx) if isinstance(hx, (list, tuple)) else [hx]
    if any(type(t) is not FakeTensor or t.dim() != 3 or t.dtype != x.dtype for t in (x, *states)) or (
        train and dropout
    ):
        return False
    if torch.is_grad_enabled() and any(t.requires_grad for t in (x, *states, *weights)):
        return False
    steps, rows = x.shape[1 if batch_first else 0], layers * (2 if bidirectional else 1)
    known = steps if isinstance(steps, int) else steps.node.hint if any_window else None  # asking it leaves a condition
    return (
        type(known) is int
        and known > 0
        and all(state.shape[0] == rows for state in states)
        and weights[0].dtype == x.dtype
        and weights[0].shape[1] == x.shape[2]
    )
