"""Random models as descriptions: plain JSON that a strategy draws, a test prints, and a file of tests/regressions/ holds.

    {"seed": 3, "example": 2, "inputs": [["float", [5]]], "pack": "plain", "arguments": [],
     "ops": [["linear", [0], {"out": 7, "bias": true}], ["relu", [1], {}]], "outputs": {"tuple": [2, 0]}}

Values are numbered: the inputs, then what each operation gives. `outputs` is a tree of such numbers, None, and constants.
"""

from __future__ import annotations

import warnings
from collections import namedtuple
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.support.generators import batchwise, layers, plain  # noqa: F401  (they fill the table)
from tests.support.generators.layers import ROWS
from tests.support.generators.ops import OPS, Op

Description = dict[str, Any]

Pair = namedtuple("Pair", "first second")

SIZES = (14, 28)
"""Batches that a description is tried with while it is drawn: operations that tie a shape to a number take both."""

FAMILIES = ("rows", "windows", "images", "tables", "batch", "torch", "changes", "arguments")


class Built(nn.Module):
    """The model of a description. noise: where it is set, what each operation reads and gives is moved by so much
    (tolerance.py)."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.description = description
        self.held = nn.ModuleDict()
        self.noise: Any = None
        sketch = Sketch(description)
        for index, module in sketch.modules.items():
            self.held[str(index)] = module

    def compute(self, given: tuple[Any, ...]) -> Any:
        d = self.description
        values = _unpacked(d, given)
        arguments = list(given[1 if d["pack"] != "plain" else len(d["inputs"]) :])
        for index, (name, sources, args) in enumerate(d["ops"]):
            module = self.held[str(args["of"] if name == "again" else index)] if self._has(index) else None
            read = [values[s] for s in sources]
            if self.noise is not None:
                read = [self.noise.before(name, v) for v in read]
            results = apply(d, name, args, module, read, arguments)
            if self.noise is not None:
                results = [self.noise(name, r) for r in results]
            values.extend(results)
        return tree(d["outputs"], values)

    def _has(self, index: int) -> bool:
        name, _, args = self.description["ops"][index]
        return str(args["of"] if name == "again" else index) in self.held


class Built1(Built):
    """Arguments by name: a model that takes `*args` has no open batch."""

    def forward(self, x: Any) -> Any:
        return self.compute((x,))


class Built2(Built):
    def forward(self, x: Any, y: Any) -> Any:
        return self.compute((x, y))


class Built3(Built):
    def forward(self, x: Any, y: Any, z: Any) -> Any:
        return self.compute((x, y, z))


class Built4(Built):
    def forward(self, x: Any, y: Any, z: Any, w: Any) -> Any:
        return self.compute((x, y, z, w))


def built(d: Description) -> Built:
    """The model of a description, in eval mode."""
    count = len(packed(d, [torch.empty(0)] * len(d["inputs"])))
    return (Built1, Built2, Built3, Built4)[count - 1](d).eval()


def _unpacked(d: Description, given: tuple[Any, ...]) -> list[Any]:
    if d["pack"] == "tuple":
        return list(given[0])
    if d["pack"] == "dict":
        return [given[0][f"x{i}"] for i in range(len(d["inputs"]))]
    return list(given[: len(d["inputs"])])


def packed(d: Description, tensors: list[Tensor]) -> tuple[Any, ...]:
    """Arguments of a call."""
    given: tuple[Any, ...] = tuple(tensors)
    if d["pack"] == "tuple":
        given = (tuple(tensors),)
    elif d["pack"] == "dict":
        given = ({f"x{i}": t for i, t in enumerate(tensors)},)
    return (*given, *d["arguments"])


def apply(d: Description, name: str, args: Any, module: Any, tensors: list[Any], arguments: list[Any]) -> list[Any]:
    if name == "argument":
        results = _use_argument(tensors[0], arguments[args["number"]])
    elif name == "again":
        results = OPS[d["ops"][args["of"]][0]].do(module, d["ops"][args["of"]][2], *tensors)
    else:
        results = OPS[name].do(module, args, *tensors)
    return list(results) if isinstance(results, (tuple, list)) else [results]


def _use_argument(x: Tensor, argument: Any) -> Tensor:
    """What a model does with an argument that is no tensor."""
    if argument is None:
        return x
    if isinstance(argument, str):
        return torch.relu(x) if argument == "relu" else x + 1
    if isinstance(argument, bool):
        return -x if argument else x
    return x * argument


def tree(form: Any, values: list[Any]) -> Any:
    if isinstance(form, dict):
        ((kind, content),) = form.items()
        if kind == "constant":
            return content
        if kind == "rows":
            return int(values[content].shape[0])
        if kind == "dict":
            return {name: tree(part, values) for name, part in content.items()}
        parts = [tree(part, values) for part in content]
        return Pair(*parts) if kind == "named" else tuple(parts) if kind == "tuple" else parts
    return None if form is None else values[form]


def inputs_of(d: Description, rows: int, seed: int = 0, scale: float = 1.0) -> list[Tensor]:
    """Fresh inputs of a batch, the same for the same seed."""
    generator = torch.Generator().manual_seed(1000 * seed + rows)
    found = []
    for kind, shape in d["inputs"]:
        if kind == "float":
            found.append(torch.randn(rows, *shape, generator=generator) * scale)
        else:
            found.append(torch.randint(0, ROWS, (rows, *shape), generator=generator))
    return found


class Sketch:
    """A description being made: it knows what each value looks like, for it runs every operation as it is added."""

    def __init__(self, d: Description) -> None:
        ops = d["ops"]
        self.d: Description = {**d, "ops": []}
        self.modules: dict[int, nn.Module] = {}
        self.values = [inputs_of(d, rows) for rows in SIZES]
        for name, sources, args in ops:
            if not self.add(name, sources, args):
                raise ValueError(f"{name} of {sources} with {args} does not work")

    def add(self, name: str, sources: list[int], args: Any) -> bool:
        """Whether the operation works; it is then part of the description."""
        index = len(self.d["ops"])
        module = None
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.manual_seed(self.d["seed"] * 100 + index)
                if name == "again":
                    module = self.modules.get(args["of"])
                elif name != "argument":
                    module = OPS[name].make(tuple(self.values[0][sources[0]].shape[1:]), args)
                if module is not None:
                    module.eval()
                arguments = self.d["arguments"]
                results = []
                for values in self.values:
                    given = [values[s].clone() for s in sources]
                    results.append(apply(self.d, name, args, module, given, arguments))
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError):
            return False
        if any(r.numel() > 200_000 for r in results[1]):
            return False
        if module is not None and name != "again":
            self.modules[index] = module
        for values, more in zip(self.values, results):
            values.extend(more)
        self.d["ops"].append([name, sources, args])
        return True

    def is_whole(self, value: int) -> bool:
        """Whether a value has the batch as its first dimension, and nothing else of it."""
        a, b = (values[value] for values in self.values)
        return a.dim() > 0 and a.shape[0] == SIZES[0] and b.shape[0] == SIZES[1] and a.shape[1:] == b.shape[1:]

    def takes(self, op: Op, value: int) -> bool:
        x = self.values[0][value]
        if op.exact and value >= len(self.d["inputs"]):
            return False
        return x.dtype == op.dtype and x.dim() - 1 in op.ranks and (self.is_whole(value) or not op.whole)


_SHAPES = {
    "rows": st.tuples(st.integers(1, 20)),
    "windows": st.tuples(st.integers(1, 7), st.integers(1, 9)),
    "images": st.tuples(st.integers(1, 4), st.integers(3, 8), st.integers(3, 8)),
    "tables": st.tuples(st.integers(1, 6)) | st.just(()),
}


@st.composite
def models(draw: Any, family: str, most: int = 7) -> Description:
    """Descriptions of one family. `batch`: code that looks at the batch. `torch`: calls that no operator computes.
    `changes`: models that change their own input. `arguments`: numbers, texts and None beside the tensors."""
    kind = family if family in _SHAPES else draw(st.sampled_from(("rows", "rows", "windows")))
    count = draw(st.sampled_from((1, 1, 2)))
    shape = list(draw(_SHAPES[kind]))
    number = "int" if kind == "tables" else "float"
    arguments = (
        draw(st.lists(st.sampled_from((2, 0.5, True, False, "relu", "none", None)), min_size=1, max_size=2))
        if family == "arguments"
        else []
    )
    inputs = [[number, shape]]
    if count == 2:
        inputs.append([number, shape] if draw(st.booleans()) else ["float", list(draw(_SHAPES["rows"]))])
    d: Description = {
        "seed": draw(st.integers(0, 999)),
        "example": draw(st.sampled_from((1, 2, 3, 1, 8, 5))),
        "inputs": inputs,
        "pack": draw(st.sampled_from(("plain", "plain", "plain", "tuple", "dict"))),
        "arguments": arguments,
        "ops": [],
        "outputs": None,
    }  # fmt: skip
    sketch = Sketch(d)
    for number_of_op in range(draw(st.integers(1, most))):
        if family == "arguments" and number_of_op == 0:
            for i in range(len(arguments)):
                sketch.add("argument", [len(sketch.values[0]) - 1], {"number": i})
        _draw_op(draw, sketch, family)
    d = {**sketch.d}
    d["outputs"] = draw(_outputs(len(sketch.values[0]), len(d["inputs"])))
    return d


def _draw_op(draw: Any, sketch: Sketch, family: str) -> None:
    count = len(sketch.values[0])
    source = count - 1 - draw(st.integers(0, min(3, count - 1)))
    wanted = (family, "any") if draw(st.booleans()) else (family,)
    names = [n for n, op in OPS.items() if op.family in wanted and sketch.takes(op, source)]
    names = names or [n for n, op in OPS.items() if op.family == "any" and sketch.takes(op, source)]
    if not names:
        return
    shared = [
        i for i in sketch.modules if sketch.d["ops"][i][1] and _same_shape(sketch, sketch.d["ops"][i][1][0], source)
    ]
    if shared and draw(st.integers(0, 5)) == 5:
        sketch.add("again", [source], {"of": draw(st.sampled_from(shared))})
        return
    op = OPS[draw(st.sampled_from(names))]
    sources = [source]
    if op.reads == 2:
        others = [i for i in range(count) if _same_shape(sketch, i, source)]
        sources.append(draw(st.sampled_from(others)))
    sketch.add(op.name, sources, draw(op.args(tuple(sketch.values[0][source].shape[1:]))))


def _same_shape(sketch: Sketch, a: int, b: int) -> bool:
    x, y = sketch.values[0][a], sketch.values[0][b]
    return x.shape == y.shape and x.dtype == y.dtype


def _outputs(count: int, inputs: int) -> st.SearchStrategy[Any]:
    """Nested, repeated, with None and constants; mostly the last value alone."""
    last = st.just(count - 1)
    some = last | st.integers(max(inputs - 1, count - 4), count - 1)
    any_one = some | st.none() | st.just({"constant": 3}) | st.just({"constant": "text"}) | st.just({"rows": 0})
    pair = st.lists(some, min_size=1, max_size=3)
    mixed = st.lists(some | any_one, min_size=1, max_size=3).map(lambda parts: [*parts, count - 1])
    return st.one_of(
        last, last, last, last,
        pair.map(lambda p: {"tuple": p}), pair.map(lambda p: {"list": p}),
        st.tuples(some, some).map(lambda p: {"named": list(p)}),
        pair.map(lambda p: {"dict": {f"y{i}": v for i, v in enumerate(p)}}),
        mixed.map(lambda p: {"tuple": p}),
        st.tuples(pair, some).map(lambda p: {"tuple": [{"list": p[0]}, {"dict": {"a": p[1], "b": None}}]}),
        st.integers(0, count - 1),
    )  # fmt: skip
