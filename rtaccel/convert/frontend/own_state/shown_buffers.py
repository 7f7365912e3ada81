"""State that stands in plain attributes while a model is traced, shown among the buffers to code that reads all of them.

So `dict(self.named_buffers())["h"]`, `self.state_dict()` and `self._buffers["h"]` find it. torch.export sees no buffer there: a
name of state is not `in` the buffers, and what is written to it is an attribute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn


@contextmanager
def buffers_shown(model: nn.Module, names: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """names: module -> all that were its buffers, in order."""
    with ExitStack() as stack:
        for module, own in names.items():
            stack.enter_context(_shown(model.get_submodule(module), own))
        yield


@contextmanager
def _shown(module: nn.Module, names: Sequence[str]) -> Iterator[None]:
    held, shown = module._buffers, _Shown(module, names)
    module.__dict__["_buffers"] = shown
    try:
        yield
    finally:
        held.clear()
        held.update((name, dict.__getitem__(shown, name)) for name in dict.keys(shown))
        module.__dict__["_buffers"] = held


class _Shown(dict[str, Any]):
    """Holds the other buffers, and finds state among the module's attributes."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__(module._buffers)
        self._own = module.__dict__
        self._state = {*names} - {*module._buffers}
        self._names = names

    def __missing__(self, name: str) -> Any:
        if name in self._state and name in self._own:
            return self._own[name]
        raise KeyError(name)

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._state:
            self._own[name] = value
        else:
            super().__setitem__(name, value)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        yield from (name for name in self._names if name in self or (name in self._state and name in self._own))
        yield from (name for name in super().__iter__() if name not in self._names)

    def keys(self) -> Any:
        return list(self)

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]
