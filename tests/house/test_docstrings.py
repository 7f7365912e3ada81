"""What the public API says of itself: who takes a tensor names its shape, its dtype and the errors."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import rtaccel as rt
from rtaccel.core import errors
from rtaccel.measure.latency import measure
from rtaccel.measure.pytest_latency import LatencyFixture
from rtaccel.nn.stored import Stored

DOCS = Path(__file__).parent.parent.parent / "docs"
SHAPE = re.compile(r"\[(?:\.\.\.|[A-Za-z*]\w*|\d+)?(?:, ?(?:[\w.*() ]+|\*\w+))*\]")
"""As the project writes it: [..., K], [batch, time, features], [N]; [] for a scalar."""
DTYPE = re.compile(r"\b(?:float32|bfloat16|int8|int32|int64|uint8|bool)\b")
ERRORS = tuple(name for name, kind in vars(errors).items() if inspect.isclass(kind))
TENSORS = {"calibration", "example_inputs", "example_step", "out"}
"""Parameters that are tensors although their annotation is wider."""


ROOMS = {"nn": rt.nn, "online": rt.online, "realtime": rt.realtime}
"""Packages that are reached as attributes and hold public names of their own."""


def everything() -> list[tuple[str, Any]]:
    """(name, thing) of all that is public."""
    found = [(n, getattr(rt, n)) for n in rt.__all__ if n not in set(rt._ROOMS) - {"measure"}]
    for room, home in ROOMS.items():
        found += [(f"{room}.{n}", getattr(home, n)) for n in home.__all__ if not inspect.ismodule(getattr(home, n))]
    return found


HOOKS = {*vars(Stored), "extra_repr", "torch_layer"}
"""What layers have for the loading of states, and for printing, is no part of the API."""


def takes_tensors(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any("Tensor" in str(p.annotation) or p.name in TENSORS for p in parameters)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Public methods that the class or a base of this library defines; `__call__` of a model is part of its own text."""
    for name in dir(cls):
        owner = next((base for base in cls.__mro__ if name in vars(base)), object)
        if name.startswith("_") or not owner.__module__.startswith("rtaccel"):
            continue
        found = inspect.getattr_static(cls, name)
        found = found.__func__ if isinstance(found, (classmethod, staticmethod)) else found
        if callable(found) and not inspect.isclass(found) and name not in HOOKS:
            yield name, found


def public() -> list[tuple[str, str]]:
    """(name, text) of each function and method that takes tensors. `forward` is described by its class."""
    found: dict[str, str] = {}
    for where, thing in everything():
        if inspect.isclass(thing):
            if issubclass(thing, nn.Module):
                found[where] = inspect.getdoc(thing) or ""
            for method, function in members(thing):
                if method != "forward" and takes_tensors(function):
                    found[f"{where}.{method}"] = inspect.getdoc(function) or ""
        elif callable(thing) and takes_tensors(thing):
            found[where] = inspect.getdoc(thing) or ""
    return sorted(found.items())


PUBLIC = public()


def lacks(text: str) -> list[str]:
    text = re.sub(
        r"^Example:\n(?:(?:    .*)?\n?)*", "", text, flags=re.MULTILINE
    )  # examples print shapes, and say nothing of errors
    said = {
        "a shape, as [batch, features]": SHAPE.search(text),
        "a dtype": DTYPE.search(text),
        "the errors raised": any(name in text for name in ERRORS),
    }
    return [what for what, there in said.items() if not there]


@pytest.mark.parametrize(("name", "text"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_a_tensor_has_a_shape_a_dtype_and_errors(name: str, text: str) -> None:
    assert not lacks(text), f"rt.{name} takes tensors, and its docstring does not say {' or '.join(lacks(text))}"


def test_what_takes_tensors_is_found() -> None:
    names = {name for name, _ in PUBLIC}
    assert {"compile", "stream", "quantize_", "sparsify_", "CompiledModel.run", "CompiledModel.bind"} <= names
    assert {"StreamModel.step", "nn.QuantLinear.from_float", "nn.QuantLSTM", "nn.SparseLinear"} <= names


def test_a_text_without_them_is_refused() -> None:
    assert len(lacks("Computes y of x.")) == 3
    assert not lacks("x float32 [..., K]. Raises ShapeError for another width.")
    assert lacks("x [..., K]. Raises ShapeError.") == ["a dtype"]


@pytest.mark.parametrize(("name", "thing"), everything(), ids=[name for name, _ in everything()])
def test_everything_public_is_described(name: str, thing: Any) -> None:
    assert inspect.getdoc(thing)
    if inspect.isclass(thing):
        assert not [m for m, function in members(thing) if m != "forward" and not inspect.getdoc(function)]


def test_the_fixture_is_described() -> None:
    assert "Raises" in (inspect.getdoc(LatencyFixture.__call__) or "")


spec = importlib.util.spec_from_file_location("docstring_markdown", DOCS / "docstring_markdown.py")
assert spec is not None
assert spec.loader is not None
markdown = importlib.util.module_from_spec(spec)
spec.loader.exec_module(markdown)


def described() -> list[tuple[str, str, set[str]]]:
    """(name, text, its parameters and fields) of every public function, class and method."""
    found = []
    for name, public_thing in everything():
        thing = measure if name == "measure" else public_thing
        own = [(name, thing)]
        if inspect.isclass(thing):
            own += [(f"{name}.{method}", function) for method, function in members(thing)]
        for where, one in own:
            fields = set(dir(one)) | set(getattr(one, "__annotations__", ())) if inspect.isclass(one) else set()
            plain = inspect.isclass(one) and issubclass(one, Warning)  # of Python's own, without a signature
            names = set() if plain else set(inspect.signature(one).parameters)
            found.append((where, inspect.getdoc(one) or "", names | fields))
    return found


@pytest.mark.parametrize(("name", "text", "names"), described(), ids=[name for name, _, _ in described()])
def test_arguments_become_lists(name: str, text: str, names: set[str]) -> None:
    """One argument a line, and further lines indented: else the site would cut a sentence in two."""
    lines = text.splitlines()
    items = [i for i, x in enumerate(lines) if (m := markdown.ITEM.fullmatch(x)) and markdown.known(m[1], names)]
    for i in items:
        after = next((x for x in lines[i + 1 :] if not x.startswith("    ")), "")
        found = markdown.ITEM.fullmatch(after)
        assert not after or (found and markdown.known(found[1], names)), f"{name}: {after!r} continues {lines[i]!r}"
    shown = markdown.to_markdown(text, names)
    assert shown.count("\n- `") == len(items)
    assert "Example:" not in shown


def test_docstrings_as_markdown() -> None:
    text = "Sums.\n\nx, y: float32 [N],\n    of one length.\nnote: a sentence.\n\nExample:\n    >>> f(1)\n    2\n\nEnd."
    shown = markdown.to_markdown(text, {"x", "y"})
    assert "- `x`, `y`: float32 [N],\n    of one length.\n\nnote: a sentence." in shown
    assert "```pycon\n>>> f(1)\n2\n```" in shown
    assert shown.endswith("End.")


def examples() -> list[doctest.DocTest]:
    found = {}
    finder = doctest.DocTestParser()
    for name, thing in everything():
        text = inspect.getdoc(thing) or ""
        made = finder.get_doctest(text, {}, name, None, 0)
        if made.examples:
            found[name] = made
    return list(found.values())


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_examples_run(example: doctest.DocTest) -> None:
    said: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=said.append)
    assert outcome.attempted
    assert not outcome.failed, "".join(said)
