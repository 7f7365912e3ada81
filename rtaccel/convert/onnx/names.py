"""Names of the file in torch: parameters as in a state dict, nodes and arguments as Python takes them."""

from __future__ import annotations

import keyword
import re

import torch
from torch import nn

from rtaccel.convert.onnx.values import Known


class Names:
    """kept: name here -> name in the file, of every parameter and buffer."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._registered: dict[int, tuple[Known, str]] = {}
        self.kept: dict[str, str] = {}

    def register(self, value: Known) -> str:
        """The dotted name of a constant in the module, where it is put the first time: a parameter if it is real."""
        if id(value) in self._registered:
            return self._registered[id(value)][1]
        parts = [part for part in (re.sub(r"\W", "_", p) for p in value.name.split(".")) if part] or ["constant"]
        parts = [f"{part}_" if keyword.iskeyword(part) else part for part in parts]
        holder: nn.Module = self._root
        for part in parts[:-1]:
            inner = getattr(holder, part, None)
            if inner is not None and type(inner) is not nn.Module:
                part = _free(holder, part)
                inner = None
            if inner is None:
                inner = nn.Module()
                holder.add_module(part, inner)
            holder = inner
        last = _free(holder, parts[-1])
        tensor = value.tensor
        if tensor.is_floating_point() and tensor.dim():
            holder.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            holder.register_buffer(last, tensor)
        path = next(f"{name}.{last}" if name else last for name, m in self._root.named_modules() if m is holder)
        self._registered[id(value)] = (value, path)
        self.kept[path] = value.name
        return path

    def node(self, name: str) -> str:
        """As the name of a node or argument; fx makes it unique."""
        return identifier(name)


def identifier(name: str) -> str:
    made = re.sub(r"\W", "_", name).strip("_") or "value"
    return f"_{made}" if made[0].isdigit() or keyword.iskeyword(made) else made


def _free(holder: nn.Module, name: str) -> str:
    made, count = name, 1
    while hasattr(holder, made) or made in dir(torch.nn.Module):
        made, count = f"{name}_{count}", count + 1
    return made
