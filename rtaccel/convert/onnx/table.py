"""The table of ONNX operators: each is a small function on tensors, registered by its name and the opset it is of.

A function takes the inputs of a node in order (None for one that is left out) and its attributes by name, and gives a tensor,
or a tuple of them for several outputs. Keyword arguments that are no attributes: `opset` of the model and `outputs`, how many the
node has, for a function that asks for them.

Some inputs have to be known rather than computed: shapes, axes, pads. They are `numbers`, and come as sequences of Python numbers
or as the arrays of `numbers.py`, in which a size of the batch may stay open. `scalars` are inputs that come as a Python number
where they are a constant of one element, for which torch has calls of its own, and as tensors otherwise.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class OnnxOp:
    """run: the function. since: the first opset it is right for. builds: it takes a `Builder` and the inputs as they are there,
    and calls other functions; what these compute of constants alone is computed once."""

    name: str
    run: Callable[..., Any]
    since: int = 1
    numbers: tuple[int, ...] = ()
    scalars: tuple[int, ...] = ()
    builds: bool = False
    domain: str = ""
    attributes: frozenset[str] = frozenset()
    any_attribute: bool = False
    wants: tuple[str, ...] = ()


_TABLE: dict[tuple[str, str], list[OnnxOp]] = {}
_CONTEXT = ("opset", "outputs")


def op(
    *names: str,
    since: int = 1,
    numbers: tuple[int, ...] = (),
    scalars: tuple[int, ...] = (),
    builds: bool = False,
    domain: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for operators."""

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        named = [p.name for p in inspect.signature(run).parameters.values() if p.kind is p.KEYWORD_ONLY]
        attributes = frozenset(named) - set(_CONTEXT)
        wants = tuple(name for name in _CONTEXT if name in named)
        whatever = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(run).parameters.values())
        for name in names:
            entry = OnnxOp(name, run, since, numbers, scalars, builds, domain, attributes, whatever, wants)
            _TABLE.setdefault((domain, name), []).append(entry)
        return run

    return register


def _load() -> None:
    from rtaccel.convert.onnx import ops

    for found in pkgutil.iter_modules(ops.__path__):
        importlib.import_module(f"{ops.__name__}.{found.name}")


def find(domain: str, name: str, opset: int) -> OnnxOp | None:
    """The entry for an operator in an opset; None where there is none."""
    fitting = [entry for entry in entries().get((domain, name), ()) if entry.since <= opset]
    return max(fitting, key=lambda entry: entry.since, default=None)


def entries() -> dict[tuple[str, str], list[OnnxOp]]:
    """(domain, name) -> entries."""
    if not _TABLE:
        _load()
    return _TABLE
