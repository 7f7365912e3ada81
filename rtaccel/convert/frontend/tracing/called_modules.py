"""Which module each call of a traced model comes from, for graphs that are written down without torch.export.

torch hands what stands under "custom" in the meta of a node on to the nodes that are made of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn
from torch.fx import traceback
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

_KEY = "rtaccel_module"


@contextmanager
def modules_noted(model: nn.Module) -> Iterator[None]:
    """While it is on, nodes that this thread traces have the name of the module of the model that is being called."""
    names = {module: name for name, module in model.named_modules()}
    thread, outer = threading.get_ident(), list[Any]()

    def enter(module: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread and module in names:
            outer.append(traceback.current_meta.get("custom"))
            if names[module]:
                traceback.current_meta["custom"] = {**(outer[-1] or {}), _KEY: names[module]}

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        if threading.get_ident() == thread and module in names:
            before = outer.pop()
            traceback.current_meta.pop("custom", None)
            if before is not None:
                traceback.current_meta["custom"] = before

    hooks = register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)
    try:
        with traceback.preserve_node_meta():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def called_module(node: fx.Node) -> str:
    """The dotted name that was noted; empty where there is none."""
    noted = node.meta.get("custom")
    return str(noted.get(_KEY, "")) if isinstance(noted, dict) else ""
