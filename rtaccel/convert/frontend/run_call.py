"""One call of a captured graph, as torch runs it."""

from __future__ import annotations

from typing import Any

from torch import fx

from rtaccel.convert.aten import aten

_BY_VALUE: dict[Any, Any] = {aten.view.default: aten.reshape.default}


def run_call(node: fx.Node, args: Any, kwargs: Any) -> Any:
    """What `node` makes of these arguments. A view is a copy where strides allow none: inputs may lie otherwise than the
    example did, and kernels of torch lay some results otherwise than the capture took for granted."""
    return _BY_VALUE.get(node.target, node.target)(*args, **kwargs)
