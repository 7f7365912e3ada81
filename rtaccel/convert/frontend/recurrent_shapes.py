"""The shapes of recurrent calls while a model is exported, without a pass over their time steps.

torch finds the shape of `lstm`, `gru` or `rnn` by taking the call apart for each time step, in both passes of an export. With a
window of 100 that is most of what a recurrent model takes to compile. The steps are alike. So torch's own function sees the
first two here, which leave the same conditions on the batch, and the output is given the length of the whole window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_CALLS = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")
"""Their arguments end with batch_first; the first one is the input, of three dimensions."""

SEEN_STEPS = 2
"""A first step, and one that has a state from the step before it."""


@contextmanager
def few_steps(any_window: bool = False) -> Iterator[None]:
    """While this is open, the shape of a recurrent call costs the same for any number of time steps.

    any_window: also where that number is a symbol, which then stays one.

    A call that this version of torch takes apart elsewhere is left as it is, and costs what torch makes it cost.
    """
    from torch._decomp import decomposition_table

    found = dict[Any, tuple[dict[Any, Any], Any]]()
    for name in _CALLS:
        packet, overload = name.split(".")
        op = getattr(getattr(torch.ops.aten, packet), overload)
        if op in decomposition_table and hasattr(op, "py_kernels") and hasattr(op, "_dispatch_cache"):
            found[op] = dict(op.py_kernels), decomposition_table[op]
    try:
        for op, (kernels, decomposition) in found.items():
            short = {kernel: _on_few_steps(kernel, any_window) for kernel in {*kernels.values(), decomposition}}
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


def _on_few_steps(kernel: Callable[..., Any], any_window: bool) -> Callable[..., Any]:
    @wraps(kernel)  # torch looks at the names of what it calls
    def short(*args: Any, **named: Any) -> Any:
        steps = None if named else _steps(args, any_window)
        if steps is None:
            return kernel(*args, **named)
        x, dim = args[0], 1 if args[-1] else 0
        y, *states = kernel(x.narrow(dim, 0, SEEN_STEPS), *args[1:])
        sizes = list(y.shape)
        sizes[dim] = steps
        if dim:  # torch computes with the time steps first, and turns the result
            return y.new_empty((sizes[1], sizes[0], sizes[2])).transpose(0, 1), *states
        return y.new_empty(sizes), *states

    return short


def _steps(args: tuple[Any, ...], any_window: bool = False) -> int | torch.SymInt | None:
    """The time steps of a call of which only the shape is asked, a symbol where they are open; None where it is computed,
    recorded, or short."""
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    x, batch_first = args[0], args[-1]
    if type(x) is not FakeTensor or x.dim() != 3 or type(batch_first) is not bool or get_proxy_mode() is not None:
        return None
    steps = x.shape[1 if batch_first else 0]
    known = steps if isinstance(steps, int) else steps.node.hint if any_window else None  # asking it leaves a condition
    if type(known) is not int or known <= SEEN_STEPS or (torch.is_grad_enabled() and _needs_grad(args)):
        return None
    return steps


def _needs_grad(args: tuple[Any, ...]) -> bool:
    tensors = [args[0], *(args[1] if isinstance(args[1], (list, tuple)) else [args[1]]), *args[2]]
    return any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
